"""Fills holes of measured depth with predicted depth, without steps at the seams.

The ratio of measured to predicted depth is known where both are. Into a hole it is extended as a
membrane fixed at the rim (Poisson blending, Perez et al. 2003, in the logarithm of the depth),
fading to 1 with the distance from the rim. Rims at which the two clearly disagree are ignored:
there the prediction blurs an edge, or the measurement is of another surface.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.depth._kernels import kernel

__all__ = ["extended", "filled"]

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

REACH = 0.15
"""Distance at which a correction has faded to a third, as a share of the longer side."""
SMOOTH_PX = 5
"""Side of the window over which the ratio is averaged, since single pixels are noisy."""
PLAIN = 3.0
"""Ratios more than this many standard deviations from the median are ignored, unless they are
within `LEAST_DISAGREEMENT`."""
LEAST_DISAGREEMENT = 0.05
"""Ratios this close to the median (a share) are always used."""
SWEEPS = 24
"""Gauss-Seidel sweeps per pyramid level; coarser levels have solved the low frequencies."""


def filled(measured: Map, predicted: Map) -> Map:
    """Return depth [H, W]: `measured` where it is known, else `predicted`, fitted at the rims.

    NaN is unknown in both; the result is NaN where neither is known.
    """
    known = np.isfinite(measured)
    both = known & np.isfinite(predicted)
    out = np.where(known, measured, predicted).astype(np.float32, copy=False)
    if not both.any() or known.all():
        return out
    ratio = np.zeros(measured.shape, np.float32)
    np.log(np.divide(measured, predicted, out=ratio, where=both), out=ratio, where=both)
    middle = float(np.median(ratio[both]))
    off = np.abs(ratio - middle)
    spread = 1.4826 * float(np.median(off[both]))
    agreeing = both & (off <= max(PLAIN * spread, LEAST_DISAGREEMENT))
    if not agreeing.any():
        return out
    reach_px = max(REACH * max(measured.shape), 1.0)
    correction = extended(_smooth(ratio, agreeing), agreeing, reach_px)
    hole = ~known & np.isfinite(predicted)
    out[hole] = predicted[hole] * np.exp(correction[hole])
    return out


def extended(value: Map, known: Mask, reach_px: float) -> Map:
    """Return `value` [H, W], smoothly extended from where it is known, fading to 0.

    Solves the screened Laplace equation: the mean of the neighbors, damped toward 0, and `value`
    where it is known. `reach_px` is the distance at which it has faded to a third; inf: no fading.
    """
    out = np.where(known, value, np.float32(0)).astype(np.float32)
    if min(known.shape) > 2 and not known.all():
        small, share = _halved(out, known)
        coarse = extended(small, share > 0, reach_px / 2)
        larger = cv2.resize(coarse, (known.shape[1], known.shape[0]))
        out = np.where(known, out, larger).astype(np.float32)
    _relax(out, known, np.float32(1 / reach_px**2), SWEEPS)
    return out


@kernel()
def _relax(value, known, pull, sweeps):
    """Sweep over the unknown pixels of `value` [H, W], in alternating directions."""
    rows, columns = value.shape
    for sweep in range(sweeps):
        for row in range(rows):
            y = row if sweep % 2 == 0 else rows - 1 - row
            for column in range(columns):
                x = column if sweep % 2 == 0 else columns - 1 - column
                if known[y, x]:
                    continue
                total, count = np.float32(0), np.float32(0)
                if y > 0:
                    total += value[y - 1, x]
                    count += np.float32(1)
                if y + 1 < rows:
                    total += value[y + 1, x]
                    count += np.float32(1)
                if x > 0:
                    total += value[y, x - 1]
                    count += np.float32(1)
                if x + 1 < columns:
                    total += value[y, x + 1]
                    count += np.float32(1)
                value[y, x] = total / (count + pull)


def _halved(value: Map, known: Mask) -> tuple[Map, Map]:
    """Return the mean of the known pixels of each 2 x 2 block, and their share."""
    size = (-(-value.shape[1] // 2), -(-value.shape[0] // 2))
    share = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(np.where(known, value, 0), size, interpolation=cv2.INTER_AREA)
    return np.divide(total, share, out=np.zeros_like(total), where=share > 0), share


def _smooth(value: Map, known: Mask) -> Map:
    window = (SMOOTH_PX, SMOOTH_PX)
    share = cv2.blur(known.astype(np.float32), window, borderType=cv2.BORDER_CONSTANT)
    total = cv2.blur(np.where(known, value, 0), window, borderType=cv2.BORDER_CONSTANT)
    return np.divide(total, share, out=np.zeros_like(total), where=known)
