"""Samplers that choose from the timeline, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.messages import Frames
from pipeline.source import Picture, Reader, Timeline
from pipeline.stage import Options, Stage
from stages.sample._clips import Kept, SampleOptions, clips, keep

__all__ = ["ListedSampler", "nearest_rows"]

C = TypeVar("C", bound=Options)
Ints = npt.NDArray[np.int64]


class ListedSampler(Stage[C]):
    """Takes the rows of the timeline that `choose` names; only these are converted.

    Cuts cannot be seen between frames that are never decoded: all frames belong to one shot.
    """

    isolated = True
    overlap = 1

    def choose(self, timeline: Timeline) -> Ints:
        """Return the wanted rows of the timeline, rising."""
        raise NotImplementedError

    @property
    def clip_frames(self) -> int:
        """How many frames a clip holds."""
        assert isinstance(self.config, SampleOptions)
        return self.config.clip_frames

    def process(self, reader: Reader) -> Iterator[Frames]:
        """Take the chosen frames and group them into clips."""
        timeline = reader.timeline()
        wanted = timeline.index[self.choose(timeline)]
        kept = self._take(reader.pictures(wanted.tolist()), len(wanted))
        return clips(reader, kept, frames=self.clip_frames, overlap=self.overlap)

    def _take(self, pictures: Iterator[Picture], total: int) -> Iterator[Kept]:
        for done, picture in enumerate(pictures, start=1):
            yield keep(picture)
            self.progress(done, total)


def nearest_rows(times_ns: npt.NDArray[Any], pts_ns: Ints) -> Ints:
    """Return the rows shown nearest to the given rising times, each once."""
    after = np.clip(np.searchsorted(pts_ns, times_ns), 1, max(len(pts_ns) - 1, 1))
    if len(pts_ns) == 1:
        return np.zeros(1, dtype=np.int64)
    before = after - 1
    closer = times_ns - pts_ns[before] <= pts_ns[after] - times_ns
    return np.unique(np.where(closer, before, after))
