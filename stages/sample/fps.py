"""Frames at a fixed rate, by the container's times."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.source import Timeline
from stages.sample._clips import SampleOptions
from stages.sample._listed import Ints, ListedSampler, nearest_rows

__all__ = ["Config", "Model"]


class Config(SampleOptions):
    """Options of `sample/fps`."""

    fps: float = Field(5.0, gt=0, le=1000, description="frames a second")


class Model(ListedSampler[Config]):
    """Takes the frame nearest to each tick of a clock; never one twice."""

    def choose(self, timeline: Timeline) -> Ints:
        """Return the wanted rows of the timeline, rising."""
        pts = timeline.pts_ns
        step = 1e9 / self.config.fps
        ticks = np.arange(int((pts[-1] - pts[0]) / step + 1e-6) + 1)
        return nearest_rows(pts[0] + ticks * step, pts)
