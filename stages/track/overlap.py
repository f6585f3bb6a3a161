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
from stages.track._object_track import ObjectTrack, Observation, overlaps

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
        self._tracks: list[ObjectTrack] = []
        self._confirmed = 0
        self._reported = 0
        self._shot = -1
        self._last_index = -1
        self._model = ""

    def process(self, frames: Frames, masks: Masks) -> Tracks | None:
        """Follow the things of a clip; return those that are gone."""
        self._model = masks.model
        finished: list[ObjectTrack] = []
        if frames.shot != self._shot:
            finished, self._tracks = self._tracks, []
        self._shot = frames.shot
        for track in self._tracks:
            track.object_id = 0
        for t in range(len(frames.images)):
            if frames.index[t] <= self._last_index:
                continue
            self._last_index = int(frames.index[t])
            now = int(frames.pts_ns[t])
            self._follow(_observations(masks, t), now)
            late = now - round(self.config.patience_s * 1e9)
            finished += [track for track in self._tracks if track.last_ns < late]
            self._tracks = [track for track in self._tracks if track.last_ns >= late]
        return self._message(finished)

    def finish(self) -> Tracks | None:
        """Tell of what is still in view."""
        tracks = self._message(self._tracks)
        self.measure("tracks_count", self._reported)
        return tracks

    def snapshot(self) -> dict[str, Any]:
        """Return what is in view, as plain data."""
        return {
            "things": [track.snapshot() for track in self._tracks],
            "numbers": [self._confirmed, self._reported, self._shot, self._last_index],
            "model": self._model,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._tracks = [ObjectTrack.restored(track) for track in state["things"]]
        self._confirmed, self._reported, self._shot, self._last_index = state["numbers"]
        self._model = state["model"]

    def _follow(self, observations: list[Observation], now: int) -> None:
        # Here, since whoever only describes the stage need not load it.
        from scipy.optimize import linear_sum_assignment

        overlap = overlaps(self._tracks, observations, now)
        tracks, rows = linear_sum_assignment(-overlap) if overlap.size else ((), ())
        fresh = set(range(len(observations)))
        for track, row in zip(tracks, rows, strict=True):
            if overlap[track, row] >= self.config.min_overlap:
                self._tracks[track].update(observations[row], now)
                fresh.discard(int(row))
        self._tracks += [ObjectTrack.begin(observations[row], now) for row in sorted(fresh)]
        for track in self._tracks:
            if not track.number and track.times >= self.config.min_seen:
                self._confirmed += 1
                track.number = self._confirmed

    def _message(self, finished: list[ObjectTrack]) -> Tracks | None:
        known = sorted((track for track in finished if track.number), key=lambda t: t.number)
        if not known:
            return None
        self._reported += len(known)
        start = np.array([track.first_ns for track in known], np.int64)
        return Tracks(
            start_ns=start,
            end_ns=np.maximum([track.last_ns for track in known], start + SHORTEST_NS),
            score=np.array([track.score / track.times for track in known], np.float32),
            label=tuple(track.label for track in known),
            kind=("object",) * len(known),
            model=(self._model,) * len(known),
            track=np.array([track.number for track in known], np.int64),
            start_box=np.array([track.first_box for track in known], np.float32),
            end_box=np.array([track.box for track in known], np.float32),
        )


def _observations(masks: Masks, t: int) -> list[Observation]:
    """Return what was seen in a frame of a clip."""
    rows = np.flatnonzero(masks.frame == t)
    found = list[Observation]()
    for n, row in enumerate(rows.tolist(), 1):
        mask: Array | None = None if masks.instance is None else masks.instance[t] == n
        number = 0 if masks.thing is None else int(masks.thing[row])
        found.append(
            Observation(masks.box[row], masks.label[row], float(masks.score[row]), mask, number)
        )
    return found
