"""One thing in view: where it was, where it is expected, and how well something seen fits that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.contract import Array
from stages._formats.packed_masks import packed, unpacked
from stages._geometry.boxes import overlap_of

__all__ = ["ObjectTrack", "Observation", "overlaps"]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a model saw in one frame."""

    box: Array
    """float32 [4] px: left, top, right, bottom."""
    label: str
    score: float
    mask: Array | None
    """bool [H, W], or None where only the box is known."""
    object_id: int = 0
    """Its number in the clip, from 1, where the model has followed it itself."""


@dataclass(kw_only=True, slots=True, eq=False)
class ObjectTrack:
    """A thing that is followed."""

    label: str
    first_ns: int
    last_ns: int
    first_box: Array
    box: Array
    """float32 [4] px, where it was seen last."""
    score: float
    """Sum over the frames that showed it."""
    mask: Array | None
    """Packed."""
    shape: tuple[int, int]
    """Of the mask; (0, 0) where there is none."""
    speed: tuple[float, float] = (0.0, 0.0)
    """px a second."""
    times: int = 1
    """How many frames showed it."""
    number: int = 0
    """From 1, once it has been seen often enough."""
    object_id: int = 0
    """The number that the model has given it in the clip at hand; 0 none."""

    @classmethod
    def begin(cls, observation: Observation, now: int) -> ObjectTrack:
        """Return a thing that was not there before."""
        return cls(
            label=observation.label,
            first_ns=now,
            last_ns=now,
            first_box=observation.box.copy(),
            box=observation.box.copy(),
            score=observation.score,
            mask=None if observation.mask is None else packed(observation.mask),
            shape=(0, 0)
            if observation.mask is None
            else (observation.mask.shape[0], observation.mask.shape[1]),
            object_id=observation.object_id,
        )

    def update(self, observation: Observation, now: int) -> None:
        """Take note of where it is now."""
        dt_s = (now - self.last_ns) / 1e9
        step = (_center(observation.box) - _center(self.box)) / dt_s
        self.speed = (float(step[0]), float(step[1]))
        self.box, self.last_ns = observation.box.copy(), now
        self.mask = None if observation.mask is None else packed(observation.mask)
        self.score += observation.score
        self.times += 1
        self.object_id = observation.object_id

    def expected(self, now: int) -> tuple[float, float]:
        """Return how far it should have gone since it was seen, px."""
        dt_s = (now - self.last_ns) / 1e9
        return self.speed[0] * dt_s, self.speed[1] * dt_s

    def snapshot(self) -> dict[str, Any]:
        """Return it as plain data."""
        names = ("label", "first_ns", "last_ns", "first_box", "box", "score", "times", "number")
        state: dict[str, Any] = {name: getattr(self, name) for name in names}
        state |= {"shape": list(self.shape), "speed": list(self.speed)}
        return state if self.mask is None else {**state, "mask": self.mask}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> ObjectTrack:
        """Return the thing of a snapshot."""
        pairs = {name: tuple(state[name]) for name in ("shape", "speed")}
        return cls(**{"mask": None, **state, **pairs})


def overlaps(tracks: list[ObjectTrack], observations: list[Observation], now: int) -> Array:
    """Return the overlap of what is expected with what was seen, float64 [N, M] in 0..1.

    It is 0 where they are called differently. What the model has followed itself within a clip is
    one and the same, or not, wherever it is.
    """
    out = np.zeros((len(tracks), len(observations)))
    for i, track in enumerate(tracks):
        way = track.expected(now)
        mask = None
        for j, one in enumerate(observations):
            if one.label != track.label:
                continue
            if one.object_id and track.object_id:
                out[i, j] = float(one.object_id == track.object_id)
                continue
            moved = track.box + np.array([*way, *way], np.float32)
            out[i, j] = overlap_of(moved, one.box)
            if out[i, j] > 0 and one.mask is not None and track.mask is not None:
                mask = _moved(track, way) if mask is None else mask
                both, either = np.sum(mask & one.mask), np.sum(mask | one.mask)
                out[i, j] = both / max(either, 1)
    return out


def _moved(track: ObjectTrack, way: tuple[float, float]) -> Array:
    assert track.mask is not None
    height, width = track.shape
    mask = unpacked(track.mask, height, width).astype(np.uint8)
    shift = np.array([[1, 0, round(way[0])], [0, 1, round(way[1])]], np.float32)
    return cv2.warpAffine(mask, shift, (width, height), flags=cv2.INTER_NEAREST) > 0


def _center(box: Array) -> Array:
    return (box[:2] + box[2:]) / 2
