"""Action recognition by any video classifier of transformers, by the name of its checkpoint.

VideoMAE (Tong et al., NeurIPS 2022), TimeSformer (Bertasius et al., ICML 2021), ViViT (Arnab et
al., ICCV 2021), V-JEPA 2 (Assran et al., 2025) and their kin: the checkpoint says which network it
is, how its pictures are made ready, how many frames it takes, and what its labels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, Frames, Scores
from pipeline.errors import UsageError
from pipeline.weights import Checkpoint, Known
from stages._networks.checkpoints import check_task, configuration, load, processor
from stages.recognize._labels import own_labels
from stages.recognize._stage import Recognizer
from stages.recognize._windows import WindowOptions

__all__ = ["Config", "Model"]

TASK = "action recognition"
KNOWN = (
    Known(name="google/vivit-b-16x2-kinetics400", license="mit", nbytes=356_000_000),
    Known(
        name="MCG-NJU/videomae-base-finetuned-kinetics", license="cc-by-nc-4.0", nbytes=346_000_000
    ),
    Known(
        name="facebook/timesformer-base-finetuned-k400", license="cc-by-nc-4.0", nbytes=486_000_000
    ),
    Known(name="facebook/vjepa2-vitl-fpc16-256-ssv2", license="mit", nbytes=1_500_000_000),
)
"""Licenses as their cards say. The first is taken unless another is named: its license is free."""


class Config(WindowOptions):
    """Options of `recognize/video_transformer`."""

    checkpoint: str = Field(
        KNOWN[0].name,
        description="a video classifier of transformers: owner/name on the hub, or a folder",
    )
    labels: str = Field(
        "",
        description="file of your own labels: one a line in the order of the network's classes, or "
        ".json that maps its labels to yours (several to one are added up)",
    )


class Model(Recognizer[Config]):
    """Scores of a network's own classes, or of what its user calls them."""

    task = TASK
    known = KNOWN

    def fetch(self) -> None:
        """Bring the checkpoint; see that the user's labels fit before anything else is done.

        Raises:
            UsageError: They do not, or the checkpoint cannot be had or used.
        """
        super().fetch()
        check_task("AutoModelForVideoClassification", self.weights[0], TASK)
        if self.config.labels:
            told = configuration(self.weights[0]).get("id2label") or {}
            own_labels(self.config.labels, list(map(str, told.values())), "recognize.labels")

    def open(self, context: Context) -> None:
        """Load the network and what makes its pictures ready.

        Raises:
            UsageError: The checkpoint or the file of labels cannot be used, or there is no such
                device.
        """
        super().open(context)
        weights = self._checkpoint
        self._network = load(
            "AutoModelForVideoClassification",
            weights,
            self.config,
            step="recognize",
            task=TASK,
            threads=context.threads,
        )
        # The documentation of each network uses the one that its checkpoint was saved with.
        of_video = (weights.path / "video_preprocessor_config.json").is_file()
        auto = "AutoVideoProcessor" if of_video else "AutoImageProcessor"
        self._processor = processor(auto, weights)
        config = self._network.config
        self._frames = _frames_of(config, weights)
        known = [str(config.id2label[n]) for n in range(config.num_labels)]
        self._labels = own_labels(self.config.labels, known, "recognize.labels")
        # PretrainedConfig.problem_type; without it a classifier has one label for each video.
        self._exclusive = config.problem_type != "multi_label_classification"

    def process(self, frames: Frames) -> Scores | None:
        """Return how well each label fits the windows of a clip."""
        return self.score_clip(frames, self._labels.names)

    def score_windows(self, videos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return the scores [N, labels] of N windows, each uint8 [frames, H, W, 3]."""
        import torch

        with torch.inference_mode():
            # Said, since of tiny frames it cannot be told which side holds the colors.
            ready = self._processor(
                [list(video) for video in videos],
                input_data_format="channels_last",
                return_tensors="pt",
            )
            ready = {
                name: tensor.to(self._network.device, self._network.dtype)
                for name, tensor in ready.items()
            }
            logits: Any = self._network(**ready).logits.float()
            score = logits.softmax(-1) if self._exclusive else logits.sigmoid()
        return self._labels.gather(score.cpu().numpy(), exclusive=self._exclusive)


def _frames_of(config: Any, weights: Checkpoint) -> int:
    """Return how many frames a network takes: V-JEPA 2 has its own word for it."""
    for name in ("num_frames", "frames_per_clip"):
        count = getattr(config, name, None)
        if isinstance(count, int) and count > 0:
            return count
    raise UsageError(f"{weights.id} does not say how many frames it takes (num_frames)")
