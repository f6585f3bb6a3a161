"""Windows of T frames with a stride between frames and an overlap between windows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.contract import DecodedFrame, Timeline
from stages.sample._clips import ClipOptions
from stages.sample._listed import FollowingSampler, Ints

__all__ = ["Config", "Model"]


class Config(ClipOptions):
    """Options of `sample/dense`."""

    frames: int = Field(16, ge=2, le=128, description="frames in a window")
    stride: int = Field(1, ge=1, le=1000, description="take every so-many-th frame")
    overlap: int = Field(1, ge=0, le=127, description="frames that neighboring windows share")

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap >= self.frames:
            raise ValueError(f"overlap ({self.overlap}) must be below frames ({self.frames})")
        return self


class Model(FollowingSampler[Config]):
    """Every window is a clip; the last may be shorter."""

    @property
    def overlap(self) -> int:
        """How many frames neighboring windows share."""
        return self.config.overlap

    @property
    def clip_frames(self) -> int:
        """How many frames a window holds."""
        return self.config.frames

    def choose(self, timeline: Timeline) -> Ints:
        """Return the wanted rows of the timeline, rising."""
        return np.arange(0, len(timeline.pts_ns), self.config.stride, dtype=np.int64)

    def follow(self, frames: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
        """Yield every so-many-th picture."""
        return islice(frames, 0, None, self.config.stride)
