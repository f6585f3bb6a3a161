"""What each label of the camera would cost at a moment, given the motion around it.

A cost is 0 where a label explains the moment wholly and 1 where it explains nothing. The rates
are means over a short window, in image widths a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.action._planar import CameraMotion

__all__ = ["FEWEST", "LABELS", "PairMotion", "costs_of", "packed", "unpacked"]

Array = npt.NDArray[Any]

LABELS = (
    "static",
    "handheld",
    "pan-right",
    "pan-left",
    "tilt-up",
    "tilt-down",
    "zoom-in",
    "zoom-out",
    "roll-cw",
    "roll-ccw",
    "truck-right",
    "truck-left",
    "dolly-in",
    "dolly-out",
)
STATIC, HANDHELD = 0, 1
PANS, ZOOMS, TRUCKS, DOLLIES = [2, 3], [6, 7], [10, 11], [12, 13]

SMOOTH_NS = 200_000_000
"""Rates are averaged over this much either side."""
SHAKE_NS = 300_000_000
"""Jitter is measured over this much either side."""
SLOWEST = (0.004, 0.015)
"""Rate at which a motion is as likely as `static`, for a steady camera and for a shaking one:
a tripod in real clips stays under 0.001, a hand that holds still drifts by 0.01."""
HANDHELD_COST = 0.62
"""Below the cost of a label that explains less than 0.38 of the motion."""
PARALLAX = 0.025
"""Share of parallax at which a truck is as likely as a pan. Measured in rendered rooms: pans up to
0.015, trucks 0.03-0.15."""
APPROACH = 0.055
"""The same for a dolly and a zoom. Measured there: zooms 0.00-0.055, dollies 0.05-0.36."""
PARALLAX_COST = 0.35
DOUBT = 0.02
"""Where nothing tells them apart, it is a pan or a zoom."""
CLEAR_PX = 1.0 / 640
"""Motion between two frames below which parallax drowns in the noise of the flow."""
FEWEST = 0.35
"""Share of trusted flow below which a pair says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairMotion:
    """One pair of frames: when, what, and how much of the image it rests on."""

    start_ns: int
    end_ns: int
    motion: CameraMotion | None
    """None where nothing could be followed."""
    trust: float
    """Share of the image that follows `motion`."""
    moving: float
    """How sure it is, 0..1, that something moves by itself."""

    @property
    def middle_ns(self) -> int:
        """The moment it stands for."""
        return (self.start_ns + self.end_ns) // 2

    @property
    def seconds(self) -> float:
        """From the first frame to the second."""
        return (self.end_ns - self.start_ns) / 1e9


def packed(pairs: Sequence[PairMotion]) -> dict[str, Array]:
    """Return pairs as plain data.

    `times_ns` is int64 [N, 2], `known` bool [N] and `numbers` float64 [N, 14]: trust, moving, and
    the motion where it is known.
    """
    numbers = np.full((len(pairs), 14), np.nan)
    for row, pair in zip(numbers, pairs, strict=True):
        m = pair.motion
        row[:2] = pair.trust, pair.moving
        if m is not None:
            row[2:7] = m.pan, m.tilt, m.zoom, m.roll, m.truck
            row[7:11] = *m.shear, *m.bend
            row[11:] = m.spread, m.noise, m.size
    times = [(pair.start_ns, pair.end_ns) for pair in pairs]
    return {
        "times_ns": np.array(times, np.int64).reshape(-1, 2),
        "known": np.array([pair.motion is not None for pair in pairs], bool),
        "numbers": numbers,
    }


def unpacked(state: dict[str, Array]) -> list[PairMotion]:
    """Return the pairs that `packed` packed, number for number."""
    pairs: list[PairMotion] = []
    for (start_ns, end_ns), known, numbers in zip(
        state["times_ns"].tolist(), state["known"], state["numbers"], strict=True
    ):
        trust, moving, pan, tilt, zoom, roll, truck, *_, spread, noise, size = numbers.tolist()
        motion = CameraMotion(
            pan=pan,
            tilt=tilt,
            zoom=zoom,
            roll=roll,
            truck=truck,
            shear=numbers[7:9],
            bend=numbers[9:11],
            spread=spread,
            noise=noise,
            size=size,
        )
        pairs.append(
            PairMotion(
                start_ns=start_ns,
                end_ns=end_ns,
                motion=motion if known else None,
                trust=trust,
                moving=moving,
            )
        )
    return pairs


def costs_of(pairs: Sequence[PairMotion], at: int) -> Array:
    """Return the cost of every label, float64 [14], at pair `at`, given its neighbors."""
    here = pairs[at]
    if here.motion is None or here.trust < FEWEST:
        unknown = np.full(len(LABELS), 0.55)
        # What cannot be followed moves fast or shakes; it takes its neighbors' label if it can.
        unknown[HANDHELD] = 0.5
        return unknown
    near = [p for p in pairs if p.motion is not None and p.trust >= FEWEST]
    window = [p for p in near if abs(p.middle_ns - here.middle_ns) <= SHAKE_NS]
    core = [p for p in window if abs(p.middle_ns - here.middle_ns) <= SMOOTH_NS]
    turns = np.array([_turns(p) for p in window])
    pan, tilt, zoom, roll, truck = _mean(core, [_turns(p) for p in core])
    smooth = np.array([pan, tilt, zoom, roll])
    jitter = float(np.sqrt(((turns[:, :4] - smooth) ** 2).sum(axis=1).mean()))
    rest = abs(tilt) + abs(zoom) + abs(roll) + 0.5 * jitter + 1e-9
    total, total_truck = abs(pan) + rest, abs(truck) + rest
    size = float(np.linalg.norm(smooth)) + 0.3 * jitter
    slowest = float(np.clip(2 * jitter, *SLOWEST))
    moves = size**2 / (size**2 + slowest**2)
    share = np.array(
        [
            *_signed(pan / total),
            *_signed(tilt / total),
            *_signed(zoom / total),
            *_signed(roll / total),
            *_signed(truck / total_truck),
            *_signed(zoom / total),
        ]
    )
    costs = np.empty(len(LABELS))
    costs[STATIC] = moves
    costs[HANDHELD] = 1 - (1 - HANDHELD_COST) * moves
    costs[2:] = 1 - share * moves
    slid, neared = _depth_shares(window)
    depth = PARALLAX_COST * _clarity(here.motion) * moves
    costs[PANS] += depth * slid
    costs[ZOOMS] += depth * neared
    costs[TRUCKS] += depth * (1 - slid) + DOUBT
    costs[DOLLIES] += depth * (1 - neared) + DOUBT
    return costs


def _turns(pair: PairMotion) -> Array:
    m = pair.motion
    assert m is not None
    return np.array([m.pan, m.tilt, m.zoom, m.roll, m.truck]) / pair.seconds


def _mean(pairs: Sequence[PairMotion], values: Sequence[Any]) -> Array:
    weight = np.array([pair.seconds * pair.trust for pair in pairs])
    return np.average(np.array(values), axis=0, weights=weight)


def _depth_shares(window: Sequence[PairMotion]) -> tuple[float, float]:
    """Return how sure parallax is, 0..1, for a camera that slides and for one that comes nearer.

    Shear and bend keep their sign through the mean, so that noise falls out and depth stays.
    """
    motions = [(p.motion, p.seconds) for p in window if p.motion is not None]
    shear = _mean(window, [m.shear / s for m, s in motions])
    bend = _mean(window, [m.bend / s for m, s in motions])
    spread, noise, size = _mean(
        window, [[m.spread / s, m.noise / s, m.size / s] for m, s in motions]
    )
    slid = float(shear @ shear) + spread**2 - noise**2
    neared = slid + float(bend @ bend)
    scale = max(size, 1e-9)
    return _beyond(slid / scale**2, PARALLAX), _beyond(neared / scale**2, APPROACH)


def _beyond(square: float, border: float) -> float:
    square = max(square, 0.0)
    return square / (square + border**2)


def _signed(share: float) -> tuple[float, float]:
    return max(share, 0.0), max(-share, 0.0)


def _clarity(motion: CameraMotion) -> float:
    return motion.size**2 / (motion.size**2 + CLEAR_PX**2)
