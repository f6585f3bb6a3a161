"""Camera poses from learned features and matchers, for pictures in which SIFT finds too little.

Little texture, blur, night, wide baselines: networks hold on where corners and blobs do not.
Everything after the matches is that of `pose/colmap`: the same verification, evidence of parallax,
mapping and reasons (`_structure.py`).

- `features`: aliked, disk and xfeat are kornia's; superpoint is of transformers.
- `matcher`: lightglue, trained on these features; nearest, mutual nearest neighbors with the
  ratio test, which needs no weights of its own; efficient_loftr, which matches the pictures
  themselves, so that `features` plays no part.
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
"""At which ALIKED and DISK are matched by LightGlue on its own page."""


class Config(MappingOptions):
    """Which networks look, and how."""

    features: Literal["aliked", "disk", "xfeat", "superpoint"] = Field(
        "aliked", description="network that finds keypoints"
    )
    matcher: Literal["lightglue", "nearest", "efficient_loftr"] = Field(
        "lightglue", description="what matches them; efficient_loftr matches without keypoints"
    )
    keypoints: int = Field(
        2048,
        ge=100,
        le=20_000,
        description="strongest keypoints of a keyframe, or matches of a pair",
    )
    working_side: int = Field(
        0,
        ge=0,
        le=8192,
        description="longer side in px at which the networks look; 0: 1024, or what a checkpoint "
        "of transformers says",
    )
    weights: str = Field(
        "", description="file of weights (.safetensors, .pth) of aliked, disk or xfeat of one's own"
    )
    matcher_weights: str = Field(
        "", description="file of weights (.safetensors, .pth) of LightGlue of one's own"
    )
    checkpoint: str = Field(
        "",
        description="name on the hub or folder, for superpoint and efficient_loftr; empty: the "
        "usual one",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where one is")
    batch: int = Field(
        0,
        ge=0,
        le=64,
        description="pictures at a time; 0: 8 on a GPU (fewer where its memory runs out), 1 on a "
        "CPU",
    )
    gpus: float = Field(0.25, gt=0, le=1, description="share of a GPU that one worker takes")

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
                raise ValueError(f"{option} plays no part with {chosen}; leave it out")
        return self


class Model(StructureFromMotion[Config]):
    """Structure from motion on learned features or correspondences."""

    @property
    def most(self) -> int:
        """How many features of a keyframe the first attempt takes."""
        return self.config.keypoints

    @property
    def front_end(self) -> FrontEnd:
        """The networks."""
        return self._front_end

    @property
    def device(self) -> str:
        """Where the networks run."""
        return device_of(self.config.device)

    @property
    def resources(self) -> Resources:
        """What one worker needs."""
        options = LearnedOptions.model_validate(
            {"device": self.config.device, "gpus": self.config.gpus}
        )
        return resources_of(options, sum(weights.nbytes for weights in self.weights))

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The files or the checkpoint of the chosen networks."""
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
        """The checkpoint of transformers; None where the networks are kornia's."""
        config = self.config
        if config.matcher == "efficient_loftr":
            return known_weights.hub("efficient_loftr", config.checkpoint)
        if config.features != "superpoint":
            return None
        kind = "superpoint+lightglue" if config.matcher == "lightglue" else "superpoint"
        return known_weights.hub(kind, config.checkpoint)

    @classmethod
    def catalog(cls) -> tuple[Weights, ...]:
        """All that it can fetch."""
        return known_weights.every()

    def open(self, context: Context) -> None:
        """Load the networks.

        Raises:
            UsageError: There is no such device, or the weights do not fit.
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
        """Return kornia's detector and what matches its keypoints."""
        from stages.pose._kornia import KorniaDetector, KorniaLightGlue, NearestNeighborMatcher

        config, device, weights = self.config, self.device, self.weights
        side = config.working_side or KORNIA_SIDE
        detector = KorniaDetector(config.features, weights[0], device=device, side=side)
        if config.matcher == "nearest":
            return detector, NearestNeighborMatcher(device=device)
        return detector, KorniaLightGlue(config.features, weights[1], device=device)

    def _transformers(self) -> tuple[Any, Any]:
        """Return a detector of transformers, where there is one, and its matcher."""
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
