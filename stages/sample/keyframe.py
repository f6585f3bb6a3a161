"""The codec's keyframes: the cheapest frames of a video."""

from __future__ import annotations

import numpy as np

from pipeline.contract import Timeline
from stages.sample._clips import SampleOptions
from stages.sample._listed import Ints, ListedSampler

__all__ = ["Config", "Model"]


class Config(SampleOptions):
    """Options of `sample/keyframe`."""


class Model(ListedSampler[Config]):
    """Takes every random access point; of images, every one."""

    def choose(self, timeline: Timeline) -> Ints:
        """Return the wanted rows of the timeline, rising."""
        rows = np.flatnonzero(timeline.keyframe).astype(np.int64)
        return rows if len(rows) else np.zeros(1, dtype=np.int64)
