"""A fixed number of frames at random, repeatable by the seed of the run."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.contract import Timeline
from stages.sample._clips import SampleOptions
from stages.sample._listed import Ints, ListedSampler

__all__ = ["Config", "Model"]


class Config(SampleOptions):
    """Options of `sample/random`."""

    frames: int = Field(32, ge=1, le=100_000, description="how many frames to take")


class Model(ListedSampler[Config]):
    """Draws frames without replacement; all of them if there are fewer."""

    def choose(self, timeline: Timeline) -> Ints:
        """Return the wanted rows of the timeline, rising."""
        count = len(timeline.pts_ns)
        generator = np.random.default_rng(self.context.seed)
        drawn = generator.choice(count, size=min(count, self.config.frames), replace=False)
        return np.sort(drawn).astype(np.int64)
