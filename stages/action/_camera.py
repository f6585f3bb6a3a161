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

__all__ = ["FEWEST", "LABELS", "PairMotion", "costs_of"]

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
0.01, trucks and dollies 0.04-0.13."""
PARALLAX_COST = 0.35
CLEAR_PX = 1.0 / 640
"""Motion between two frames below which parallax drowns in the noise of the flow."""
FEWEST = 0.3
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
    def rates(self) -> Array:
        """Pan, tilt, zoom, roll and truck in widths a second."""
        m = self.motion
        assert m is not None
        seconds = (self.end_ns - self.start_ns) / 1e9
        return np.array([m.pan, m.tilt, m.zoom, m.roll, m.truck]) / seconds


def costs_of(pairs: Sequence[PairMotion], at: int) -> Array:
    """Return the cost of every label, float64 [14], at pair `at`, given its neighbours."""
    here = pairs[at]
    if here.motion is None or here.trust < FEWEST:
        unknown = np.full(len(LABELS), 0.55)
        # What cannot be followed moves fast or shakes; it takes its neighbours' label if it can.
        unknown[HANDHELD] = 0.5
        return unknown
    near = [p for p in pairs if p.motion is not None and p.trust >= FEWEST]
    smooth = _mean_rates([p for p in near if abs(p.middle_ns - here.middle_ns) <= SMOOTH_NS])
    window = [p for p in near if abs(p.middle_ns - here.middle_ns) <= SHAKE_NS]
    jitter = float(np.sqrt(np.mean([((p.rates - smooth)[:4] ** 2).sum() for p in window])))
    pan, tilt, zoom, roll, truck = smooth
    rest = abs(tilt) + abs(zoom) + abs(roll) + 0.5 * jitter + 1e-9
    total, total_truck = abs(pan) + rest, abs(truck) + rest
    size = float(np.linalg.norm(smooth[:4])) + 0.3 * jitter
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
    depth = PARALLAX_COST * _clarity(here.motion) * moves
    parallax = here.motion.parallax
    seen = parallax**2 / (parallax**2 + PARALLAX**2)
    costs[[2, 3, 6, 7]] += depth * seen
    costs[[10, 11, 12, 13]] += depth * (1 - seen) + 0.02
    return costs


def _mean_rates(pairs: Sequence[PairMotion]) -> Array:
    weight = np.array([(p.end_ns - p.start_ns) * p.trust for p in pairs])
    return (np.array([p.rates for p in pairs]) * weight[:, None]).sum(axis=0) / weight.sum()


def _signed(share: float) -> tuple[float, float]:
    return max(share, 0.0), max(-share, 0.0)


def _clarity(motion: CameraMotion) -> float:
    return motion.size**2 / (motion.size**2 + CLEAR_PX**2)
