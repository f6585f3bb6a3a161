"""What the packets of a video tell without decoding: times, order and random access points."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PacketIndex", "PacketRun", "rising", "to_ns"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def to_ns(ticks: npt.ArrayLike, time_base: Any) -> Ints:
    """Convert container ticks to nanoseconds, rounded to the nearest, without overflow."""
    num, den = int(time_base.numerator), int(time_base.denominator)
    whole, rest = np.divmod(np.asarray(ticks, dtype=np.int64) * num, den)
    return whole * 1_000_000_000 + (rest * 1_000_000_000 + den // 2) // den


@dataclass(frozen=True)
class PacketRun:
    """Packets to decode in one go: from a random access point to the last that is needed."""

    first: int
    """Place in decoding order of the keyframe to begin with."""
    last: int
    """Place of the last packet that a wanted frame needs."""
    ranks: Ints
    """The wanted frames, by their place in presentation order."""


@dataclass(frozen=True)
class PacketIndex:
    """All packets of a stream in decoding order, and the frames in presentation order."""

    pts: Ints
    """int64 [P] ticks, in decoding order."""
    dts: Ints
    """int64 [P] ticks; where the container lacks one, the smallest pts from there on."""
    keyframe: Bools
    """bool [P]: random access points."""
    shown: Ints
    """int64 [N]: place in decoding order of each frame that is shown, in presentation order."""
    governor: Ints
    """int64 [N]: the keyframe's place from which decoding must begin to get each shown frame."""

    @classmethod
    def of(cls, pts: Ints, dts: list[int | None], keyframe: Bools, discard: Bools) -> PacketIndex:
        """Order the packets.

        A frame is governed by the last keyframe that comes before it both in decoding and in
        presentation order: pictures that lead an open group need the group before it.
        """
        order = np.argsort(pts, kind="stable")
        shown = order[~discard[order]]
        keys = np.flatnonzero(keyframe)
        if len(keys) == 0 or keys[0] != 0:
            # Nothing says where decoding may begin: begin at the beginning.
            keys = np.concatenate([[0], keys]).astype(np.int64)
        nearest = np.searchsorted(keys, shown, side="right") - 1
        governor = keys[nearest]
        for place, i in enumerate(shown):
            while governor[place] > 0 and pts[governor[place]] > pts[i]:
                nearest[place] -= 1
                governor[place] = keys[nearest[place]]
        return cls(pts, _filled(dts, pts), keyframe, shown.astype(np.int64), governor)

    def plan(self, ranks: Ints) -> list[PacketRun]:
        """Group the wanted frames (rising ranks) into runs that decode no packet in vain.

        Frames of one group of pictures share a run; two groups share one where nothing lies
        between them that could be skipped.
        """
        if len(ranks) == 0:
            return []
        needed = np.maximum.accumulate(self.shown[ranks])
        begin = self.governor[ranks]
        breaks = np.flatnonzero(begin[1:] > needed[:-1] + 1) + 1
        return [
            PacketRun(int(begin[part].min()), int(needed[part].max()), ranks[part])
            for part in np.split(np.arange(len(ranks)), breaks)
        ]

    def next_keyframe(self, place: int) -> int | None:
        """Return the place of the first keyframe after `place`, or None."""
        later = np.flatnonzero(self.keyframe[place + 1 :])
        return place + 1 + int(later[0]) if len(later) else None


def _filled(dts: list[int | None], pts: Ints) -> Ints:
    bound = np.minimum.accumulate(pts[::-1])[::-1]
    return np.array(
        [int(b) if d is None else d for d, b in zip(dts, bound, strict=True)], dtype=np.int64
    )


def rising(ticks: list[int | None], step: int) -> tuple[Ints, int]:
    """Make times strictly rise: fill what lacks, and go on after a jump back.

    Args:
        ticks: Times of the frames as they come out of the decoder.
        step: Nominal duration of a frame in ticks.

    Returns:
        int64 [N] ticks, and how many had to be changed.
    """
    out = np.empty(len(ticks), dtype=np.int64)
    changed, offset = 0, 0
    step = max(step, 1)
    for i, tick in enumerate(ticks):
        before = int(out[i - 1]) if i else -step
        if tick is None:
            out[i] = before + step
            changed += 1
        elif i and tick + offset <= before:
            changed += 1
            if before - (tick + offset) > 4 * step:
                # The clock was set back: the rest follows on from here.
                offset = before + step - tick
                out[i] = before + step
            else:
                out[i] = before + 1
        else:
            out[i] = tick + offset
    return out, changed


def nominal_step(rate: float | None, time_base: Any) -> int:
    """Return the nominal duration of a frame in ticks (25 frames a second where unknown)."""
    base = Fraction(int(time_base.numerator), int(time_base.denominator))
    return max(1, round(1 / (Fraction(rate or 25.0).limit_denominator(100_000) * base)))
