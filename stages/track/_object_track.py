"""One thing in view: where it was, where it is expected, and how well something seen fits that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.contract import Array
from stages._formats.packed_masks import packed, unpacked
from stages._geometry.boxes import overlap_of

__all__ = ["FrameDetections", "ObjectTrack", "overlaps"]


@dataclass(frozen=True, slots=True, eq=False)
class FrameDetections:
    """What a model saw in one frame."""

    box: Array
    """float32 [4] px: left, top, right, bottom."""
    label: str
    score: float
    mask: Array | None
    """bool [H, W], or None where only the box is known."""
    thing: int = 0
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
    in_clip: int = 0
    """The number that the model has given it in the clip at hand; 0 none."""

    @classmethod
    def first(cls, seen: FrameDetections, now: int) -> ObjectTrack:
        """Return a thing that was not there before."""
        return cls(
            label=seen.label,
            first_ns=now,
            last_ns=now,
            first_box=seen.box.copy(),
            box=seen.box.copy(),
            score=seen.score,
            mask=None if seen.mask is None else packed(seen.mask),
            shape=(0, 0) if seen.mask is None else (seen.mask.shape[0], seen.mask.shape[1]),
            in_clip=seen.thing,
        )

    def see(self, seen: FrameDetections, now: int) -> None:
        """Take note of where it is now."""
        dt_s = (now - self.last_ns) / 1e9
        step = (_middle(seen.box) - _middle(self.box)) / dt_s
        self.speed = (float(step[0]), float(step[1]))
        self.box, self.last_ns = seen.box.copy(), now
        self.mask = None if seen.mask is None else packed(seen.mask)
        self.score += seen.score
        self.times += 1
        self.in_clip = seen.thing

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


def overlaps(things: list[ObjectTrack], seen: list[FrameDetections], now: int) -> Array:
    """Return the overlap of what is expected with what was seen, float64 [N, M] in 0..1.

    It is 0 where they are called differently. What the model has followed itself within a clip is
    one and the same, or not, wherever it is.
    """
    out = np.zeros((len(things), len(seen)))
    for i, thing in enumerate(things):
        way = thing.expected(now)
        mask = None
        for j, one in enumerate(seen):
            if one.label != thing.label:
                continue
            if one.thing and thing.in_clip:
                out[i, j] = float(one.thing == thing.in_clip)
                continue
            moved = thing.box + np.array([*way, *way], np.float32)
            out[i, j] = overlap_of(moved, one.box)
            if out[i, j] > 0 and one.mask is not None and thing.mask is not None:
                mask = _moved(thing, way) if mask is None else mask
                both, either = np.sum(mask & one.mask), np.sum(mask | one.mask)
                out[i, j] = both / max(either, 1)
    return out


def _moved(thing: ObjectTrack, way: tuple[float, float]) -> Array:
    assert thing.mask is not None
    height, width = thing.shape
    mask = unpacked(thing.mask, height, width).astype(np.uint8)
    shift = np.array([[1, 0, round(way[0])], [0, 1, round(way[1])]], np.float32)
    return cv2.warpAffine(mask, shift, (width, height), flags=cv2.INTER_NEAREST) > 0


def _middle(box: Array) -> Array:
    return (box[:2] + box[2:]) / 2
