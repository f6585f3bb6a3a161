"""Samplers that choose from the timeline, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.contract import DecodedFrame, Frames, Reader, Stage, Timeline
from stages.sample._clips import ClipOptions, SampleOptions, SelectedFrame, clips, keep, stretches
from stages.sample._cursor import CarryOver, Cursor

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
        course = Cursor(reader, timeline.index[self.choose(timeline)].tolist())
        carry, carried = CarryOver(), list[SelectedFrame]()
        if self._restored is not None:
            carry = CarryOver.restored(self._restored["carry"])
            needed = [index for index, _, _ in carry.frames]
            again = course.go_on(self._restored["course"], needed)
            carried = [keep(picture) for picture in again.values()]
        self._course, self._carry = course, carry
        return self._clips(reader, chain(carried, self._take(course)), carry)

    def snapshot(self) -> dict[str, Any] | None:
        """Return where it stands between two clips; None with a camera."""
        course = self._course and self._course.snapshot()
        return course and {"course": course, "carry": self._carry.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        """Let `process` yield the clips after a snapshot."""
        self._restored = state

    _course: Cursor | None = None
    _carry = CarryOver()
    _restored: dict[str, Any] | None = None

    def _clips(
        self, reader: Reader, kept: Iterator[SelectedFrame], carry: CarryOver | None = None
    ) -> Iterator[Frames]:
        return clips(
            reader,
            kept,
            frames=self.clip_frames,
            overlap=self.overlap,
            seconds=self.config.clip_s,
            carry=carry,
        )

    def _take(self, course: Cursor) -> Iterator[SelectedFrame]:
        for picture in course:
            yield keep(picture)
            self.progress(course.done, course.total)


class FollowingSampler(ListedSampler[C]):
    """One that can also choose from a camera's pictures as they come, by `follow`."""

    def follow(self, pictures: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
        """Yield those that `choose` would take if these were all; hold one at most."""
        raise NotImplementedError

    def process(self, reader: Reader) -> Iterator[Frames]:
        """Take the chosen frames and group them into clips."""
        if reader.probe.kind != "camera":
            return super().process(reader)
        return self._clips(reader, self._from_camera(reader))

    def _from_camera(self, reader: Reader) -> Iterator[SelectedFrame]:
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
