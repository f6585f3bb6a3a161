"""Things followed by overlap: what lies where a thing was expected, and is called the same, is it.

SORT (Bewley et al., ICIP 2016) without its Kalman filter: things go on as they went between the
last two frames that showed them. Pairs are chosen all at once (Hungarian method). Where masks are
known they are compared, boxes otherwise.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context, Frames, Masks, Options, Stage, Tracks
from stages.track._object_track import FrameDetections, ObjectTrack, overlaps

__all__ = ["Config", "Model"]

SHORTEST_NS = 1_000_000


class Config(Options):
    """Options of `track/overlap`."""

    min_overlap: float = Field(
        0.3, gt=0, le=1, description="least overlap (intersection over union) of one and the same"
    )
    min_seen: int = Field(
        3, ge=1, le=1000, description="things seen in fewer frames are taken for errors"
    )
    patience_s: float = Field(
        1.0, ge=0, le=60, description="a thing that was not seen for so long is gone, s"
    )


class Model(Stage[Config]):
    """Numbers the things of a stream; each is told once it is gone."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Begin with nothing in view."""
        super().open(context)
        self._things: list[ObjectTrack] = []
        self._numbered = 0
        self._told = 0
        self._shot = -1
        self._last_index = -1
        self._model = ""

    def process(self, frames: Frames, masks: Masks) -> Tracks | None:
        """Follow the things of a clip; return those that are gone."""
        self._model = masks.model
        gone: list[ObjectTrack] = []
        if frames.shot != self._shot:
            gone, self._things = self._things, []
        self._shot = frames.shot
        for thing in self._things:
            thing.in_clip = 0
        for t in range(len(frames.images)):
            if frames.index[t] <= self._last_index:
                continue
            self._last_index = int(frames.index[t])
            now = int(frames.pts_ns[t])
            self._follow(_seen(masks, t), now)
            late = now - round(self.config.patience_s * 1e9)
            gone += [thing for thing in self._things if thing.last_ns < late]
            self._things = [thing for thing in self._things if thing.last_ns >= late]
        return self._tracks(gone)

    def finish(self) -> Tracks | None:
        """Tell of what is still in view."""
        tracks = self._tracks(self._things)
        self.measure("tracks_count", self._told)
        return tracks

    def snapshot(self) -> dict[str, Any]:
        """Return what is in view, as plain data."""
        return {
            "things": [thing.snapshot() for thing in self._things],
            "numbers": [self._numbered, self._told, self._shot, self._last_index],
            "model": self._model,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._things = [ObjectTrack.restored(thing) for thing in state["things"]]
        self._numbered, self._told, self._shot, self._last_index = state["numbers"]
        self._model = state["model"]

    def _follow(self, seen: list[FrameDetections], now: int) -> None:
        # Here, since whoever only describes the stage need not load it.
        from scipy.optimize import linear_sum_assignment

        overlap = overlaps(self._things, seen, now)
        things, rows = linear_sum_assignment(-overlap) if overlap.size else ((), ())
        fresh = set(range(len(seen)))
        for thing, row in zip(things, rows, strict=True):
            if overlap[thing, row] >= self.config.min_overlap:
                self._things[thing].see(seen[row], now)
                fresh.discard(int(row))
        self._things += [ObjectTrack.first(seen[row], now) for row in sorted(fresh)]
        for thing in self._things:
            if not thing.number and thing.times >= self.config.min_seen:
                self._numbered += 1
                thing.number = self._numbered

    def _tracks(self, gone: list[ObjectTrack]) -> Tracks | None:
        known = sorted((thing for thing in gone if thing.number), key=lambda t: t.number)
        if not known:
            return None
        self._told += len(known)
        start = np.array([thing.first_ns for thing in known], np.int64)
        return Tracks(
            start_ns=start,
            end_ns=np.maximum([thing.last_ns for thing in known], start + SHORTEST_NS),
            score=np.array([thing.score / thing.times for thing in known], np.float32),
            label=tuple(thing.label for thing in known),
            kind=("object",) * len(known),
            model=(self._model,) * len(known),
            track=np.array([thing.number for thing in known], np.int64),
            start_box=np.array([thing.first_box for thing in known], np.float32),
            end_box=np.array([thing.box for thing in known], np.float32),
        )


def _seen(masks: Masks, t: int) -> list[FrameDetections]:
    """Return what was seen in a frame of a clip."""
    rows = np.flatnonzero(masks.frame == t)
    found = list[FrameDetections]()
    for n, row in enumerate(rows.tolist(), 1):
        mask: Array | None = None if masks.instance is None else masks.instance[t] == n
        number = 0 if masks.thing is None else int(masks.thing[row])
        found.append(
            FrameDetections(masks.box[row], masks.label[row], float(masks.score[row]), mask, number)
        )
    return found
