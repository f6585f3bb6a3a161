"""Temporal smoothing of the fits of neighboring views, weighted by their uncertainty.

Maximum-likelihood path of a random walk measured with errors: the Rauch-Tung-Striebel smoother
(1965), solved for all views at once as a banded linear system.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import solveh_banded

from stages.depth._robust import Fit

__all__ = ["smooth_over_time"]

Floats = npt.NDArray[np.float64]

JUMP = 3.0
"""Neighboring fits more than this many standard deviations apart are a jump, and tied weakly."""
LEAST_DRIFT = 1e-4
"""Replaces a drift of 0, which would make the system singular."""


def smooth_over_time(fits: list[Fit | None], certain: list[Floats | None], drift: float) -> Floats:
    """Return theta [K, p]: each view's fit, tied to those of its neighbors.

    Args:
        fits: Fits of the K views in temporal order, at least one; None for a view without a fit.
        certain: Covariances [p, p] of their coefficients.
        drift: Standard deviation of a step of the walk, in the units of the coefficients.
    """
    drift = max(drift, LEAST_DRIFT)
    size = len(next(fit.theta for fit in fits if fit is not None))
    count = len(fits)
    ties = _ties(fits, certain, drift)
    # Lower band of a symmetric matrix: band[d, i] is the element (i + d, i).
    band = np.zeros((size + 1, count * size))
    right = np.zeros(count * size)
    for k, (fit, covariance) in enumerate(zip(fits, certain, strict=True)):
        at = k * size
        if fit is not None and covariance is not None:
            # Floor the uncertainty at a hundredth of the walk's step, to keep the system solvable.
            information = np.linalg.inv(covariance + (0.01 * drift) ** 2 * np.eye(size))
            for d in range(size):
                for i in range(size - d):
                    band[d, at + i] += information[i + d, i]
            right[at : at + size] += information @ fit.theta
    for k, tie in enumerate(ties):
        for i in range(k * size, (k + 1) * size):
            band[0, i] += tie
            band[0, i + size] += tie
            band[size, i] -= tie
    theta = solveh_banded(band, right, lower=True).reshape(count, size)
    return _positive(theta, fits) if size == 2 else theta


def _ties(fits: list[Fit | None], certain: list[Floats | None], drift: float) -> Floats:
    """Return the coupling of each pair of neighbors [K - 1]: 1 / drift^2, less at a jump."""
    ties = np.full(max(len(fits) - 1, 0), drift**-2)
    for k in range(len(ties)):
        here, there = fits[k], fits[k + 1]
        mine, other = certain[k], certain[k + 1]
        if here is None or there is None or mine is None or other is None:
            continue
        apart = there.theta - here.theta
        expected = mine + other + drift**2 * np.eye(len(apart))
        ratio = float(apart @ np.linalg.solve(expected, apart)) / len(apart) / JUMP**2
        if ratio > 1:
            ties[k] *= ratio**-2
    return ties


def _positive(theta: Floats, fits: list[Fit | None]) -> Floats:
    """Replace fits with a scale of 0 or below by the fit of the nearest view that has one."""
    own = [k for k, fit in enumerate(fits) if fit is not None]
    for k in np.flatnonzero(theta[:, 0] <= 0):
        nearest = fits[min(own, key=lambda j: abs(j - k))]
        if nearest is not None:
            theta[k] = nearest.theta
    return theta
