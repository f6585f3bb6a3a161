"""Samplers that choose from the timeline, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.messages import Frames
from pipeline.source import Picture, Reader, Timeline
from pipeline.stage import Stage
from stages.sample._clips import ClipOptions, Kept, SampleOptions, clips, keep, stretches

__all__ = ["FollowingSampler", "ListedSampler", "nearest_rows"]

C = TypeVar("C", bound=ClipOptions)
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
        """Take the chosen frames and group them into clips.

        Raises:
            SourceError: The source is a camera, which has no timeline.
        """
        timeline = reader.timeline()
        wanted = timeline.index[self.choose(timeline)]
        kept = self._take(reader.pictures(wanted.tolist()), len(wanted))
        return self._clips(reader, kept)

    def _clips(self, reader: Reader, kept: Iterator[Kept]) -> Iterator[Frames]:
        seconds = self.config.clip_s
        return clips(reader, kept, frames=self.clip_frames, overlap=self.overlap, seconds=seconds)

    def _take(self, pictures: Iterator[Picture], total: int) -> Iterator[Kept]:
        for done, picture in enumerate(pictures, start=1):
            yield keep(picture)
            self.progress(done, total)


class FollowingSampler(ListedSampler[C]):
    """One that can also choose from a camera's pictures as they come, by `follow`."""

    def follow(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        """Yield those that `choose` would take if these were all; hold one at most."""
        raise NotImplementedError

    def process(self, reader: Reader) -> Iterator[Frames]:
        """Take the chosen frames and group them into clips."""
        if reader.probe.kind != "camera":
            return super().process(reader)
        return self._clips(reader, self._from_camera(reader))

    def _from_camera(self, reader: Reader) -> Iterator[Kept]:
        for shot, pictures in enumerate(stretches(reader)):
            for picture in self.follow(pictures):
                yield keep(picture, shot=shot)


def nearest_rows(times_ns: npt.NDArray[Any], pts_ns: Ints) -> Ints:
    """Return the rows shown nearest to the given rising times, each once."""
    after = np.clip(np.searchsorted(pts_ns, times_ns), 1, max(len(pts_ns) - 1, 1))
    if len(pts_ns) == 1:
        return np.zeros(1, dtype=np.int64)
    before = after - 1
    closer = times_ns - pts_ns[before] <= pts_ns[after] - times_ns
    return np.unique(np.where(closer, before, after))
