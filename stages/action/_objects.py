"""Which part of a pair moves by itself: compact residuals that no camera motion explains.

What the plane of the dominant motion leaves over is parallax or an object. Parallax points to or
from one epipole everywhere (plane + parallax: Irani and Anandan, PAMI 1998, eq. 7), so while the
camera moves the residual across the epipolar lines counts, and along them only what is too long
for depth: an object that moves slowly along them is missed.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.action._planar import NOISE_PX, PlanarFit
from stages.action._samples import FlowSamples

__all__ = ["object_evidence"]

Array = npt.NDArray[Any]

LEAST_PX = (0.6, 1.2)
"""Least residual of an object before a camera at rest, and before one that moves: the slightest
movement slides edges along themselves (the aperture problem) by up to a pixel (measured)."""
TIMES_NOISE = 5.0
"""Least residual of an object in medians of all residuals."""
OF_MOTION = 0.15
"""Least residual of an object in sizes of the camera's motion: flow errs by a share of it at the
edges of things."""
FLAT = 0.02
"""Median residual, in sizes of the camera's motion, up to which there is no parallax to speak of
(measured: pans 0.008-0.015, trucks 0.025 and more)."""
DEPTH = (0.3, 2.0)
"""Longest residual, in sizes of the camera's motion, that depth is believed to cause: where there
is no parallax to speak of, and where there is."""
LEAST_CELLS = 3
MOST = 4.0
"""What one cell can add: its residual beyond the limit, in limits."""
HALF_SURE = 6.0
"""Sum over a patch that is as likely an error of the flow as an object. Measured: errors at the
edges of things reach 1-4, a pedestrian 20 px tall 8-15."""
MOVING_PX = (0.25, 1.0)
"""Camera motion from which on residuals may be parallax, and where the second limit holds."""
TEXTURED = 0.15
"""Weight below which a sample is no witness."""


CHOOSING = 300
"""Samples, at most about, that choose the epipole."""


def _epipoles() -> Array:
    """Return candidates [M, 3], homogeneous: over and around the image, and at infinity."""
    x, y = np.meshgrid(np.linspace(-0.75, 0.75, 9), np.linspace(-0.45, 0.45, 7))
    near = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    angle = np.arange(24) * np.pi / 24
    far = np.stack([np.cos(angle), np.sin(angle), np.zeros(24)], axis=1)
    return np.concatenate([near, far])


EPIPOLES = _epipoles()


def object_evidence(samples: FlowSamples, fit: PlanarFit) -> float:
    """Return how sure it is, 0..1, that something in the pair moves by itself.

    Args:
        samples: The flow of one pair.
        fit: Its dominant motion.
    """
    seen = samples.weight > TEXTURED
    if seen.sum() < 2 * LEAST_CELLS:
        return 0.0
    at, residual, pixel = samples.at[seen], fit.residual[seen], samples.pixel
    size = fit.size
    length = np.linalg.norm(residual, axis=1)
    strange = length
    if size > MOVING_PX[0] * pixel:
        flat = float(np.median(length)) < FLAT * size
        nearest = DEPTH[0 if flat else 1] * size
        across = _across(at, residual, NOISE_PX * pixel)
        strange = np.maximum(across, length - nearest)
    noise = float(np.median(strange))
    least = float(np.interp(size / pixel, MOVING_PX, LEAST_PX)) * pixel
    limit = max(least, TIMES_NOISE * noise, OF_MOTION * size)
    excess = np.zeros(samples.cells, np.float32)
    row, column = samples.cell[seen].T
    np.maximum.at(excess, (row, column), np.clip(strange / limit - 1, 0, MOST))
    count, patch, stats, _ = cv2.connectedComponentsWithStats(
        (excess > 0).astype(np.uint8), connectivity=8
    )
    strength = np.bincount(patch.ravel(), weights=excess.ravel(), minlength=count)
    strength[0] = 0
    strength[stats[:, cv2.CC_STAT_AREA] < LEAST_CELLS] = 0
    return float(strength.max() / (strength.max() + HALF_SURE))


def _across(at: Array, residual: Array, noise: float) -> Array:
    """Return the residual [N] across the epipolar lines of the epipole that explains most."""
    few = slice(None, None, 1 + len(at) // CHOOSING)
    across = _across_each(EPIPOLES, at[few], residual[few])
    scale = max(float(np.median(np.linalg.norm(residual, axis=1))), noise)
    best = int(np.argmin((across / (across + scale)).sum(axis=1)))
    return _across_each(EPIPOLES[best : best + 1], at, residual)[0]


def _across_each(epipoles: Array, at: Array, residual: Array) -> Array:
    """Return the lengths [M, N] of the residuals across the lines to each epipole."""
    dx = epipoles[:, :1] - epipoles[:, 2:] * at[:, 0]
    dy = epipoles[:, 1:2] - epipoles[:, 2:] * at[:, 1]
    across = np.abs(dx * residual[:, 1] - dy * residual[:, 0])
    return across / np.maximum(np.hypot(dx, dy), 1e-9)
