"""Robust linear fits: least median of squares, then Tukey's biweight.

Up to half of the data may be outliers (Rousseeuw and Leroy, Robust Regression, 1987); on the
inliers the fit is almost as efficient as least squares (MM-estimation, Yohai 1987).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fit", "robust_fit"]

Floats = npt.NDArray[np.float64]

SEEDS = 400
"""Number of exact fits tried; with half outliers, a fit through two points is good 1 time in 4."""
MOST_FOR_SEEDS = 2000
"""Maximum number of rows on which seeds are compared."""
TUKEY = 4.685
"""Tukey's constant: 95 % efficiency for normal errors."""
CUT = 2.5
"""Residuals beyond this many standard deviations are outliers (Rousseeuw and Leroy, p. 44)."""
TURNS = 30
EXACT = 1e-9
"""Standard deviation, as a share of the data's size, below which a fit counts as exact."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Result of a fit."""

    theta: Floats
    """[p]: coefficients."""
    covariance: Floats
    """[p, p]: covariance of the coefficients, for independent errors."""
    good: npt.NDArray[np.bool_]
    """[N]: rows that are inliers."""


def robust_fit(A: Floats, y: Floats, seed: list[int], *, positive: bool) -> Fit | None:
    """Fit y = A theta; return None if the rows do not determine it.

    Args:
        A: [N, p], p of 1 or 2.
        y: [N]
        seed: Random seed for drawing the exact fits.
        positive: Whether the first coefficient must be above 0.
    """
    count, size = A.shape
    if count < size + 1:
        return None
    rng = np.random.default_rng(seed)
    theta = _least_median(A, y, rng, positive=positive)
    if theta is None:
        return None
    floor = EXACT * max(float(np.median(np.abs(y))), 1e-30)
    residual = np.abs(y - A @ theta)
    # 1.4826 converts the median of normal errors to their standard deviation; 5 / (N - p) corrects
    # it for few rows (Rousseeuw and Leroy, p. 44).
    sigma = 1.4826 * (1 + 5 / (count - size)) * float(np.median(residual)) + floor
    good = residual <= CUT * sigma
    sigma = float(np.sqrt(np.sum(residual[good] ** 2) / max(good.sum() - size, 1))) + floor
    for _ in range(TURNS):
        weight = np.clip(1 - ((y - A @ theta) / (TUKEY * sigma)) ** 2, 0, None) ** 2
        normal = A.T @ (A * weight[:, None])
        if not _sound(normal):
            return None
        fresh = np.linalg.solve(normal, A.T @ (weight * y))
        done = np.allclose(fresh, theta, rtol=1e-9, atol=1e-12)
        theta = fresh
        if done:
            break
    if positive and theta[0] <= 0:
        return None
    good = np.abs(y - A @ theta) <= CUT * sigma
    normal = A[good].T @ A[good]
    if not _sound(normal):
        return None
    return Fit(theta, sigma**2 * np.linalg.inv(normal), good)


def _least_median(
    A: Floats, y: Floats, rng: np.random.Generator, *, positive: bool
) -> Floats | None:
    count, size = A.shape
    if count > MOST_FOR_SEEDS:
        rows = rng.choice(count, MOST_FOR_SEEDS, replace=False)
        A, y, count = A[rows], y[rows], MOST_FOR_SEEDS
    picked = rng.integers(0, count, (SEEDS, size))
    if size == 1:
        first = A[picked[:, 0], 0]
        usable = first != 0
        seeds = (y[picked[usable, 0]] / first[usable])[:, None]
    else:
        pairs, right = A[picked], y[picked]
        spread = pairs[:, 0, 0] * pairs[:, 1, 1] - pairs[:, 0, 1] * pairs[:, 1, 0]
        usable = np.abs(spread) > 1e-12
        seeds = np.linalg.solve(pairs[usable], right[usable][..., None])[..., 0]
    if positive:
        seeds = seeds[seeds[:, 0] > 0]
    if not len(seeds):
        return None
    medians = np.median(np.abs(y - seeds @ A.T), axis=1)
    return seeds[int(np.argmin(medians))]


def _sound(normal: Floats) -> bool:
    return bool(np.all(np.isfinite(normal)) and np.linalg.cond(normal) < 1e10)
