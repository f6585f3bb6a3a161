"""A fixed number of frames, evenly spread over the time of the source."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.contract import Timeline
from stages.sample._clips import SampleOptions
from stages.sample._listed import Ints, ListedSampler

__all__ = ["Config", "Model"]


class Config(SampleOptions):
    """Options of `sample/uniform`."""

    frames: int = Field(32, ge=1, le=100_000, description="how many frames to take")


class Model(ListedSampler[Config]):
    """Takes the middle of each of N equal parts of the time, or all frames if there are fewer."""

    def choose(self, timeline: Timeline) -> Ints:
        """Return the wanted rows of the timeline, rising.

        The middle of each segment is what action models take at test time (Wang et al., Temporal
        Segment Networks, ECCV 2016).
        """
        count = len(timeline.pts_ns)
        if count <= self.config.frames:
            return np.arange(count, dtype=np.int64)
        # The last frame is shown for as long as an average one.
        pts = timeline.pts_ns
        end = pts[-1] + (pts[-1] - pts[0]) / (count - 1)
        edges = np.linspace(pts[0], end, self.config.frames + 1)
        # What is shown at the middle of a part.
        rows = np.searchsorted(pts, (edges[1:] + edges[:-1]) / 2, side="right") - 1
        rows = np.unique(rows)
        if len(rows) < self.config.frames:
            # Long gaps hold no frames: fill up with those nearest to the even spread.
            rows = _filled(rows, count, self.config.frames)
        return rows


def _filled(rows: Ints, count: int, wanted: int) -> Ints:
    free = np.setdiff1d(np.arange(count), rows)
    extra = free[np.linspace(0, len(free) - 1, wanted - len(rows)).round().astype(int)]
    return np.union1d(rows, extra).astype(np.int64)
