"""Whether the camera moved from its place, told from matches alone.

COLMAP registers every frame of a pan: any small translation explains its matches as well as none.
So the question is put the other way round, for many pairs of keyframes: which share of the
verified matches lies off a turn and zoom of the camera on the spot?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.messages import Array
from pipeline.turning import fit_turn
from stages.pose._features import Features
from stages.pose._matching import Pair

__all__ = ["Evidence", "parallax_evidence"]

PAIRS = 60
MATCHES = 250
TOLERANCE = 0.003
"""Of the longer side, and at least 1.5 px: noise of SIFT, rolling shutter, lens."""
ENOUGH = 0.4
"""Share of matches off a turn and zoom in the fifth of the pairs with the most of it.

Measured: rendered pans and zooms 0.00, a hand-held pan over a bedroom 0.2 to 0.4; aerial
fly-bys, orbits, walks and drives 0.75 to 1.00."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the matches say about the motion of the camera."""

    unexplained: float = 0.0
    """80th percentile over the pairs of the share of matches off a turn and zoom."""
    residual_px: float = 0.0
    """80th percentile over the pairs of the median distance from it."""
    moved_px: float = 0.0
    """80th percentile over the pairs of the median motion."""
    pairs: int = 0
    """How many were looked at."""

    @property
    def no_parallax(self) -> bool:
        """Whether a camera that never left its place explains all that was seen."""
        return self.pairs > 0 and self.unexplained < ENOUGH


def parallax_evidence(
    pairs: list[Pair],
    features: list[Features],
    size: tuple[int, int],
    focal_px: float | None,
) -> Evidence:
    """Fit a turn and zoom to the matches of up to 60 pairs, spread over all."""
    if not pairs:
        return Evidence()
    tolerance = max(1.5, TOLERANCE * max(size))
    rows = []
    for pair in pairs[:: max(1, len(pairs) // PAIRS)]:
        spread = np.linspace(0, len(pair.inliers) - 1, min(MATCHES, len(pair.inliers)))
        p, q = _points(pair.i, pair.j, features, pair.inliers[spread.astype(np.int64)])
        residual = fit_turn(p, q, size, focal_px=focal_px).residual_px
        moved = np.linalg.norm(p - q, axis=1)
        rows.append((np.mean(residual > tolerance), np.median(residual), np.median(moved)))
    unexplained, residual, moved = np.percentile(np.array(rows), 80, axis=0)
    return Evidence(
        unexplained=float(unexplained),
        residual_px=float(residual),
        moved_px=float(moved),
        pairs=len(rows),
    )


def _points(i: int, j: int, features: list[Features], matches: Array) -> tuple[Array, Array]:
    return features[i].xy[matches[:, 0]], features[j].xy[matches[:, 1]]
