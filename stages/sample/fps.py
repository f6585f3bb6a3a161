"""Frames at a fixed rate, by the container's times."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from pipeline.contract import DecodedFrame, Timeline
from stages.sample._clips import SampleOptions
from stages.sample._listed import FollowingSampler, Ints, nearest_rows

__all__ = ["Config", "Model"]


class Config(SampleOptions):
    """Options of `sample/fps`."""

    fps: float = Field(5.0, gt=0, le=1000, description="frames a second")


class Model(FollowingSampler[Config]):
    """Takes the frame nearest to each tick of a clock; never one twice."""

    def choose(self, timeline: Timeline) -> Ints:
        """Return the wanted rows of the timeline, rising."""
        pts = timeline.pts_ns
        step = 1e9 / self.config.fps
        ticks = np.arange(int((pts[-1] - pts[0]) / step + 1e-6) + 1)
        return nearest_rows(pts[0] + ticks * step, pts)

    def follow(self, frames: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
        """Yield the picture nearest to each tick; the clock starts with the first."""
        step = 1e9 / self.config.fps
        before = next(frames, None)
        if before is None:
            return
        start_ns = before.pts_ns
        yield before
        taken = True
        for frame in frames:
            # The ticks after `before` and up to `frame`; most often there is none or one.
            first = math.floor((before.pts_ns - start_ns) / step + 1e-6) + 1
            last = math.floor((frame.pts_ns - start_ns) / step + 1e-6)
            middle = (before.pts_ns + frame.pts_ns) / 2 - start_ns
            if first <= last and first * step <= middle and not taken:
                yield before
            taken = first <= last and last * step > middle
            if taken:
                yield frame
            before = frame
