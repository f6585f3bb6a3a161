"""Detectors of transformers: boxes of things that may move, or of whatever a text names.

RT-DETR, D-FINE, DETR and the like have labels of their own; Grounding DINO takes words.
What is prepared and made of the output is the checkpoint's own processor's doing.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context
from pipeline.errors import UsageError
from pipeline.weights import Checkpoint, Known, checkpoint
from stages._networks.checkpoints import check_task, load, processor
from stages.segment._detection import Detection
from stages.segment._labels import check_labels, listed, selected_labels
from stages.segment._stage import ObjectDetector, ObjectDetectorOptions

__all__ = ["Config", "Model"]

TASK = "object detection"
BY_TEXT = "object detection by text"
KNOWN = (
    Known(
        name="PekingU/rtdetr_r18vd_coco_o365",
        license="apache-2.0",
        nbytes=81_000_000,
        about="RT-DETR, small, COCO",
    ),
    Known(
        name="PekingU/rtdetr_r18vd",
        license="apache-2.0",
        nbytes=81_000_000,
        about="RT-DETR, small, COCO alone",
    ),
    Known(
        name="ustc-community/dfine-small-coco",
        license="apache-2.0",
        nbytes=42_000_000,
        about="D-FINE, small, COCO",
    ),
)
KNOWN_BY_TEXT = (
    Known(
        name="IDEA-Research/grounding-dino-tiny",
        license="apache-2.0",
        nbytes=690_000_000,
        about="finds what a text says",
    ),
)
INSTEAD = "segment.model=moving"


class Config(ObjectDetectorOptions):
    """Options of `segment/detection`."""

    checkpoint: str = Field(
        "",
        description="name on the hub or folder; empty: "
        f"{KNOWN[0].name}, or with a text {KNOWN_BY_TEXT[0].name}",
    )
    text: str = Field(
        "", description="comma-separated things to look for, in words, such as 'a dog, a red car'"
    )
    text_threshold: float = Field(
        0.25, ge=0, le=1, description="least score of a word to be part of a thing's label"
    )


class Model(ObjectDetector[Config]):
    """Boxes of things."""

    named_by: ClassVar[str] = "segment.checkpoint"
    """The option that names the checkpoint, for messages."""

    @property
    def weights(self) -> tuple[Checkpoint, ...]:
        """The chosen checkpoint."""
        known, task = (KNOWN_BY_TEXT, BY_TEXT) if self.config.text else (KNOWN, TASK)
        name = self.config.checkpoint or known[0].name
        return (_checkpoint(name, known, task, self.named_by),)

    @classmethod
    def catalog(cls) -> tuple[Checkpoint, ...]:
        """The checkpoints known by name."""
        return (
            *(_checkpoint(one.name, KNOWN, TASK, cls.named_by) for one in KNOWN),
            *(_checkpoint(one.name, KNOWN_BY_TEXT, BY_TEXT, cls.named_by) for one in KNOWN_BY_TEXT),
        )

    def check(self) -> None:
        """See that the checkpoint detects, and knows the labels, or takes words.

        Raises:
            UsageError: It does not.
        """
        texts, weights = self._listed(), self.weights[0]
        check_task(_auto(texts), weights, BY_TEXT if texts else TASK)
        if not texts:
            check_labels(self.config.labels, weights, "segment.labels")

    def open(self, context: Context) -> None:
        """Load the network.

        Raises:
            UsageError: The checkpoint is for another task, damaged, or knows none of the labels.
        """
        super().open(context)
        weights = self.weights[0]
        self._texts = self._listed()
        self._network = load(
            _auto(self._texts),
            weights,
            self.config,
            step="segment",
            task=BY_TEXT if self._texts else TASK,
        )
        if self._texts:
            self._processor = processor("AutoProcessor", weights)
            if not hasattr(self._processor, "post_process_grounded_object_detection"):
                raise UsageError(
                    f"{self.named_by}: {weights.id} is a {self._network.config.model_type}, "
                    "which is not for a text of several things; take a grounding-dino"
                )
        else:
            self._processor = processor("AutoImageProcessor", weights)
            self._labels = selected_labels(
                self.config.labels, self._network.config.id2label, "segment.labels"
            )

    def detect(self, images: list[Array]) -> list[list[Detection] | None]:
        """Return the things in each picture; None where scores are no numbers."""
        import torch

        texts: dict[str, Any] = {}
        if self._texts:
            texts = {"text": [list(self._texts)] * len(images)}
        with torch.inference_mode():
            ready = self._processor(
                images=images, input_data_format="channels_last", return_tensors="pt", **texts
            ).to(self._network.device, self._network.dtype)
            outputs = self._network(**ready)
            # Half precision ends with the network: boxes of 16 bits are off by pixels.
            outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
            sizes = [image.shape[:2] for image in images]
            found = self._found(outputs, ready, sizes)
            # Logits of words that are not there are minus infinity, and no fault.
            faulty = torch.isnan(outputs.logits).flatten(1).any(1)
            faulty |= ~torch.isfinite(outputs.pred_boxes).flatten(1).all(1)
        return [
            None if bad else detections
            for bad, detections in zip(faulty.tolist(), found, strict=True)
        ]

    def _listed(self) -> tuple[str, ...]:
        """Return the words to look for; none where labels are looked for."""
        texts = listed(self.config.text)
        if self.config.text and not texts:
            raise UsageError(
                f"segment.text = {self.config.text!r} names nothing; such as 'a dog, a red car'"
            )
        return texts

    def _found(self, outputs: Any, ready: Any, sizes: list[Any]) -> list[list[Detection]]:
        threshold = self.config.threshold
        if self._texts:
            results = self._processor.post_process_grounded_object_detection(
                outputs,
                ready["input_ids"],
                threshold=threshold,
                text_threshold=self.config.text_threshold,
                target_sizes=sizes,
            )
            return [_to_detections(one, one["text_labels"]) for one in results]
        results = self._processor.post_process_object_detection(
            outputs, threshold=threshold, target_sizes=sizes
        )
        return [
            _to_detections(one, [self._labels.get(n, "") for n in one["labels"].tolist()])
            for one in results
        ]


def _to_detections(result: Any, labels: list[str]) -> list[Detection]:
    """Return the things of a picture that have a label."""
    boxes, scores = result["boxes"].cpu().numpy(), result["scores"].tolist()
    rows = zip(boxes.astype(np.float32), scores, labels, strict=True)
    return [Detection(box, score, label) for box, score, label in rows if label]


def _auto(texts: tuple[str, ...]) -> str:
    return "AutoModelForZeroShotObjectDetection" if texts else "AutoModelForObjectDetection"


def _checkpoint(name: str, known: tuple[Known, ...], task: str, option: str) -> Checkpoint:
    return checkpoint(name, task=task, known=known, instead=INSTEAD, option=option)
