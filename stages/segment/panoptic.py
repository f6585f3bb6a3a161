"""Networks of transformers that cut things out pixel by pixel: Mask2Former, MaskFormer, EoMT.

The instances are those of the checkpoint's own processor. The usual Mask2Former checkpoints say
`other` of their license, so the one taken by default is EoMT's (Kerssies et al., CVPR 2025), MIT.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context
from pipeline.weights import Checkpoint, Known, checkpoint
from stages._geometry.boxes import box_of
from stages._networks.checkpoints import check_task, load, processor
from stages.segment._detection import Detection
from stages.segment._labels import check_labels, selected_labels
from stages.segment._stage import ObjectDetector, ObjectDetectorOptions

__all__ = ["Config", "Model"]

TASK = "instance segmentation"
AUTO = "AutoModelForUniversalSegmentation"
FAMILIES = ("mask2former", "maskformer", "eomt")
"""OneFormer wants the task told in words, and is left out."""
KNOWN = (
    Known(
        name="tue-mps/coco_instance_eomt_large_640",
        license="mit",
        nbytes=1_270_000_000,
        about="EoMT, large, COCO",
    ),
)


class Config(ObjectDetectorOptions):
    """Options of `segment/panoptic`."""

    checkpoint: str = Field(KNOWN[0].name, description="name on the hub or folder")
    largest_px: int = Field(
        1920, ge=64, le=16384, description="longer side at which masks of larger frames are made"
    )


class Model(ObjectDetector[Config]):
    """Masks of things."""

    @property
    def weights(self) -> tuple[Checkpoint, ...]:
        """The chosen checkpoint."""
        return (_checkpoint(self.config.checkpoint),)

    @classmethod
    def catalog(cls) -> tuple[Checkpoint, ...]:
        """The checkpoints known by name."""
        return tuple(_checkpoint(known.name) for known in KNOWN)

    def check(self) -> None:
        """See that the checkpoint is one of the family, and knows the labels.

        Raises:
            UsageError: It is not, or does not.
        """
        check_task(AUTO, self.weights[0], TASK, FAMILIES)
        check_labels(self.config.labels, self.weights[0], "segment.labels")

    def open(self, context: Context) -> None:
        """Load the network.

        Raises:
            UsageError: The checkpoint is for another task, damaged, or knows none of the labels.
        """
        super().open(context)
        weights = self.weights[0]
        self._network = load(AUTO, weights, self.config, step="segment", task=TASK, kinds=FAMILIES)
        self._processor = processor("AutoImageProcessor", weights)
        self._labels = selected_labels(
            self.config.labels, self._network.config.id2label, "segment.labels"
        )

    def detect(self, images: list[Array]) -> list[list[Detection] | None]:
        """Return the things in each picture; None where scores are no numbers."""
        import torch

        with torch.inference_mode():
            ready = self._processor(
                images=images, input_data_format="channels_last", return_tensors="pt"
            )
            wanted = {"pixel_values", "pixel_mask"} & set(ready)
            # EoMT takes no mask, and what else is prepared belongs to other tasks.
            inputs = {
                n: ready[n].to(
                    self._network.device,
                    self._network.dtype if ready[n].is_floating_point() else None,
                )
                for n in wanted
            }
            outputs = self._network(**inputs)
            outputs.class_queries_logits = outputs.class_queries_logits.float()
            outputs.masks_queries_logits = outputs.masks_queries_logits.float()
            found = self._processor.post_process_instance_segmentation(
                outputs,
                threshold=self.config.threshold,
                target_sizes=[self._size(*image.shape[:2]) for image in images],
            )
            good = torch.isfinite(outputs.class_queries_logits).flatten(1).all(1)
            good &= torch.isfinite(outputs.masks_queries_logits).flatten(1).all(1)
        return [
            self._to_detections(one, image.shape[:2]) if fine else None
            for fine, one, image in zip(good.tolist(), found, images, strict=True)
        ]

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of masks: there is one for every query at first, and they must fit in."""
        share = min(1.0, self.config.largest_px / max(height, width))
        return max(1, round(height * share)), max(1, round(width * share))

    def _to_detections(self, result: Any, shape: tuple[int, ...]) -> list[Detection]:
        segmentation = result["segmentation"].cpu().numpy().astype(np.int16)
        if segmentation.shape != shape:
            size = (shape[1], shape[0])
            segmentation = cv2.resize(segmentation, size, interpolation=cv2.INTER_NEAREST)
        detections = list[Detection]()
        for segment in result["segments_info"]:
            mask = segmentation == segment["id"]
            # One that others cover wholly has no pixel left.
            if segment["label_id"] in self._labels and mask.any():
                label = self._labels[segment["label_id"]]
                detections.append(Detection(box_of(mask), float(segment["score"]), label, mask))
        return detections


def _checkpoint(name: str) -> Checkpoint:
    return checkpoint(
        name, task=TASK, known=KNOWN, instead="segment.model=moving", option="segment.checkpoint"
    )
