"""Camera poses from learned features and matchers, for images in which SIFT finds too little.

Networks are more robust than SIFT to low texture, blur, night and wide baselines. Everything after
matching is shared with `pose/colmap`: verification, parallax evidence, mapping and failure reasons
(`_structure.py`).

- `features`: aliked, disk and xfeat come from kornia, superpoint from transformers.
- `matcher`: lightglue, trained on these features; nearest, mutual nearest neighbors with the
  ratio test, which needs no weights; efficient_loftr, which matches the images themselves and
  ignores `features`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import cv2
from pydantic import Field, model_validator

from pipeline.contract import Context, Resources
from pipeline.errors import require
from pipeline.weights import Checkpoint, Weights, own_file
from stages._networks.checkpoints import LearnedOptions, check_device, device_of, resources_of
from stages.pose import _known_weights as known_weights
from stages.pose._front_end import FrontEnd
from stages.pose._structure import MappingOptions, StructureFromMotion

__all__ = ["Config", "Model"]

GPU_BATCH = 8
KORNIA_SIDE = 1024
"""Longer side in px at which LightGlue's own page matches ALIKED and DISK."""


class Config(MappingOptions):
    """Networks and their options."""

    features: Literal["aliked", "disk", "xfeat", "superpoint"] = Field(
        "aliked", description="network that finds keypoints"
    )
    matcher: Literal["lightglue", "nearest", "efficient_loftr"] = Field(
        "lightglue", description="keypoint matcher; efficient_loftr matches without keypoints"
    )
    keypoints: int = Field(
        2048,
        ge=100,
        le=20_000,
        description="strongest keypoints per keyframe, or matches per pair",
    )
    working_side: int = Field(
        0,
        ge=0,
        le=8192,
        description="longer side of the networks' input in px; 0: 1024, or the default of a "
        "transformers checkpoint",
    )
    weights: str = Field(
        "", description="path of custom weights (.safetensors, .pth) of aliked, disk or xfeat"
    )
    matcher_weights: str = Field(
        "", description="path of custom weights (.safetensors, .pth) of LightGlue"
    )
    checkpoint: str = Field(
        "",
        description="hub name or folder, for superpoint and efficient_loftr; empty: the default "
        "checkpoint",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if available")
    batch: int = Field(
        0,
        ge=0,
        le=64,
        description="images per batch; 0: 8 on a GPU (fewer if its memory runs out), 1 on a CPU",
    )
    gpus: float = Field(0.25, gt=0, le=1, description="share of a GPU that one worker uses")

    @model_validator(mode="after")
    def _no_idle_weights(self) -> Self:
        of_hub = self.matcher == "efficient_loftr" or self.features == "superpoint"
        chosen = f"features={self.features}, matcher={self.matcher}"
        idle = {
            "weights": of_hub,
            "matcher_weights": of_hub or self.matcher != "lightglue",
            "checkpoint": not of_hub,
        }
        for option, unused in idle.items():
            if unused and getattr(self, option):
                raise ValueError(f"{option} has no effect with {chosen}; leave it out")
        return self


class Model(StructureFromMotion[Config]):
    """Structure from motion on learned features or correspondences."""

    @property
    def most(self) -> int:
        """Number of features per keyframe in the first attempt."""
        return self.config.keypoints

    @property
    def front_end(self) -> FrontEnd:
        """Front end of the chosen networks."""
        return self._front_end

    @property
    def device(self) -> str:
        """Device on which the networks run."""
        return device_of(self.config.device)

    @property
    def resources(self) -> Resources:
        """Resources of one worker."""
        options = LearnedOptions.model_validate(
            {"device": self.config.device, "gpus": self.config.gpus}
        )
        return resources_of(options, sum(weights.nbytes for weights in self.weights))

    @property
    def weights(self) -> tuple[Weights, ...]:
        """Files or checkpoint of the chosen networks."""
        config, checkpoint = self.config, self._checkpoint
        if checkpoint is not None:
            return (checkpoint,)
        features = (config.weights, known_weights.DETECTORS[config.features])
        glue = (config.matcher_weights, known_weights.GLUES[config.features])
        return tuple(
            own_file(own, task=file.task) if own else known_weights.kornia(file)
            for own, file in ((features, glue) if config.matcher == "lightglue" else (features,))
        )

    @property
    def _checkpoint(self) -> Checkpoint | None:
        """Checkpoint of transformers; None if the networks are kornia's."""
        config = self.config
        if config.matcher == "efficient_loftr":
            return known_weights.hub("efficient_loftr", config.checkpoint)
        if config.features != "superpoint":
            return None
        kind = "superpoint+lightglue" if config.matcher == "lightglue" else "superpoint"
        return known_weights.hub(kind, config.checkpoint)

    @classmethod
    def catalog(cls) -> tuple[Weights, ...]:
        """Return all weights that can be downloaded."""
        return known_weights.every()

    def open(self, context: Context) -> None:
        """Load the networks.

        Raises:
            UsageError: The device does not exist, or the weights do not match the network.
        """
        super().open(context)
        require("kornia")
        check_device("pose", self.device, "float32")
        cv2.setNumThreads(context.threads)
        self._front_end = self._built()

    def _built(self) -> FrontEnd:
        from stages.pose import _learned

        sure, threads = max(2, self.config.overlap), self.context.threads
        threads = threads if self.device == "cpu" else 1
        if self.config.matcher == "efficient_loftr":
            matcher = self._transformers()[1]
            return _learned.DetectorFreeFrontEnd(
                matcher, sure=sure, threads=threads, warn=self.warn
            )
        found = self._kornia() if self._checkpoint is None else self._transformers()
        batch = self.config.batch or (GPU_BATCH if self.device == "cuda" else 1)
        return _learned.LearnedFrontEnd(
            *found, sure=sure, batch=batch, threads=threads, warn=self.warn
        )

    def _kornia(self) -> tuple[Any, Any]:
        """Return kornia's detector and the matcher of its keypoints."""
        from stages.pose._kornia import KorniaDetector, KorniaLightGlue, NearestNeighborMatcher

        config, device, weights = self.config, self.device, self.weights
        side = config.working_side or KORNIA_SIDE
        detector = KorniaDetector(config.features, weights[0], device=device, side=side)
        if config.matcher == "nearest":
            return detector, NearestNeighborMatcher(device=device)
        return detector, KorniaLightGlue(config.features, weights[1], device=device)

    def _transformers(self) -> tuple[Any, Any]:
        """Return the detector of transformers, None for efficient_loftr, and the matcher."""
        from stages.pose._kornia import NearestNeighborMatcher
        from stages.pose._transformers import EfficientLoftr, LightGlue, SuperPoint

        weights = self._checkpoint
        assert weights is not None
        where = {"device": self.device, "side": self.config.working_side}
        if self.config.matcher == "efficient_loftr":
            return None, EfficientLoftr(weights, **where)
        if self.config.matcher == "nearest":
            return SuperPoint(weights, **where), NearestNeighborMatcher(device=self.device)
        glue = LightGlue(weights, **where)
        return SuperPoint(weights, inside=glue, **where), glue
