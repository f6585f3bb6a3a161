"""Samplers that choose from the timeline, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.contract import DecodedFrame, Frames, Reader, Stage, Timeline
from stages.sample._clips import (
    ClipOptions,
    SampleOptions,
    SelectedFrame,
    clips,
    contiguous_scans,
    convert,
)
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
        cursor = Cursor(reader, timeline.index[self.choose(timeline)])
        carry_over, carried_over = CarryOver(), list[SelectedFrame]()
        if self._restored is not None:
            carry_over = CarryOver.restored(self._restored["carry"])
            needed = [index for index, _, _ in carry_over.frames]
            again = cursor.resume(self._restored["course"], needed)
            carried_over = [convert(frame) for frame in again.values()]
        self._cursor, self._carry_over = cursor, carry_over
        return self._clips(reader, chain(carried_over, self._take(cursor)), carry_over)

    def snapshot(self) -> dict[str, Any] | None:
        """Return where it stands between two clips; None with a camera."""
        cursor = self._cursor and self._cursor.snapshot()
        return cursor and {"course": cursor, "carry": self._carry_over.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        """Let `process` yield the clips after a snapshot."""
        self._restored = state

    _cursor: Cursor | None = None
    _carry_over = CarryOver()
    _restored: dict[str, Any] | None = None

    def _clips(
        self, reader: Reader, selected: Iterator[SelectedFrame], carry_over: CarryOver | None = None
    ) -> Iterator[Frames]:
        return clips(
            reader,
            selected,
            frames=self.clip_frames,
            overlap=self.overlap,
            seconds=self.config.clip_s,
            carry_over=carry_over,
        )

    def _take(self, cursor: Cursor) -> Iterator[SelectedFrame]:
        for frame in cursor:
            yield convert(frame)
            self.progress(cursor.done, cursor.total)


class FollowingSampler(ListedSampler[C]):
    """One that can also choose from a camera's pictures as they come, by `follow`."""

    def follow(self, frames: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
        """Yield those that `choose` would take if these were all; hold one at most."""
        raise NotImplementedError

    def process(self, reader: Reader) -> Iterator[Frames]:
        """Take the chosen frames and group them into clips."""
        if reader.probe.kind != "camera":
            return super().process(reader)
        return self._clips(reader, self._from_camera(reader))

    def _from_camera(self, reader: Reader) -> Iterator[SelectedFrame]:
        for shot, frames in enumerate(contiguous_scans(reader)):
            for frame in self.follow(frames):
                yield convert(frame, shot=shot)


def nearest_rows(times_ns: npt.NDArray[Any], pts_ns: Ints) -> Ints:
    """Return the rows shown nearest to the given rising times, each once."""
    after = np.clip(np.searchsorted(pts_ns, times_ns), 1, max(len(pts_ns) - 1, 1))
    if len(pts_ns) == 1:
        return np.zeros(1, dtype=np.int64)
    before = after - 1
    closer = times_ns - pts_ns[before] <= pts_ns[after] - times_ns
    return np.unique(np.where(closer, before, after))
