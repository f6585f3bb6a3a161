"""Alignment of predicted depth to the scale of the views, by sparse points, view by view.

A network predicts depth up to a scale, or inverse depth up to a scale and a shift, and both drift
from frame to frame. Each view is fitted robustly to the sparse points that it observes; fits of
neighboring views are then coupled, the more so the less certain a fit is compared with the
network's drift (a random walk with Gaussian steps, solved for all views at once). A jump that noise
does not explain is preserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.contract import Views
from pipeline.errors import PartNotMade
from stages.depth._robust import Fit, robust_fit
from stages.depth._temporal_scale import smooth_over_time

__all__ = [
    "LEAST_POINTS",
    "Alignment",
    "Anchors",
    "Kind",
    "align",
    "anchors_of",
    "one_scale",
    "residual_of",
]

Floats = npt.NDArray[np.float64]
Map = npt.NDArray[np.float32]

Kind = Literal["inverse", "scale", "affine"]
"""How depth follows from a prediction p: `inverse`: 1 / (scale p + shift); `scale`: scale p;
`affine`: scale p + shift."""

LEAST_POINTS = 8
"""Minimum number of points of a view; fewer do not allow detecting outliers."""
CELLS = 8
"""A network's errors are smooth: points in one cell of an 8 x 8 grid count as one measurement."""
LEAST_SPREAD = 0.02
"""Minimum interquartile range of the predictions at a view's points, as a share of that over all
views; below it, scale and shift cannot be separated."""
NEARER, FARTHER = 4.0, 4.0
"""Factors by which depth may exceed the nearest and the farthest points, which are a sample."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """Measured depths in one view."""

    xy: Floats
    """[N, 2] px"""
    z: Floats
    """[N], in the units of the views."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Mapping from predictions to depth for each view."""

    kind: Kind
    scale: Floats
    """[K]"""
    shift: Floats
    """[K], in the units of the inverse depth or of the depth; 0 for `scale`."""
    residual: Floats
    """[K]: median of |aligned / measured - 1| over a view's points, of inverse depths for
    `inverse`, which is finite even where the depth is not; NaN for a view without points."""
    borrowed: npt.NDArray[np.bool_]
    """[K]: views with too few points, which use their neighbors' fits."""
    nearest: float
    farthest: float
    """Depths below `nearest` or above `farthest` are discarded."""

    def depth(self, k: int, predicted: Map) -> Map:
        """Return the depth of view k, float32 [H, W]; NaN where it is implausible."""
        value = predicted * np.float32(self.scale[k]) + np.float32(self.shift[k])
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "inverse":
                value = np.where(value > 0, 1 / value, np.float32(np.nan))
            inside = (value >= self.nearest) & (value <= self.farthest)
        return np.where(inside, value, np.float32(np.nan)).astype(np.float32, copy=False)


def anchors_of(views: Views) -> list[Anchors]:
    """Return the sparse points that each view observes, as measured depths."""
    xyz = views.points.astype(np.float64)[views.observed_point]
    R, t = views.T_world_camera[:, :3, :3], views.T_world_camera[:, :3, 3]
    # z of R^T (x - t), for the view of each observation.
    z = np.sum((xyz - t[views.observed_view]) * R[views.observed_view, :, 2], axis=1)
    rows, columns = views.images.shape[1:3]
    xy = views.observed_xy.astype(np.float64)
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(z) & (z > 0) & np.all((xy >= 0) & (xy < (columns, rows)), axis=1)
    found = []
    for k in range(len(views.images)):
        mine = sound & (views.observed_view == k)
        found.append(Anchors(xy[mine], z[mine]))
    return found


def align(
    predicted: npt.NDArray[np.float32],
    anchors: list[Anchors],
    kind: Kind,
    *,
    drift: float,
    seed: int = 0,
) -> Alignment:
    """Fit predictions to measured depths.

    Args:
        predicted: float32 [K, H, W], NaN unknown, in temporal order.
        anchors: Measured depths of the K views.
        kind: How depth follows from the prediction.
        drift: Standard deviation of the network's own change from one view to the next, as a share
            of the depth (`scale`) or of the spread of its predictions; with 0 all views share one
            fit.
        seed: Random seed of the robust fits.

    Raises:
        PartNotMade: No view has enough points with a prediction.
    """
    samples = [_Sample.of(kind, p, a) for p, a in zip(predicted, anchors, strict=True)]
    most = max((len(sample.x) for sample in samples), default=0)
    if most < LEAST_POINTS:
        raise PartNotMade(
            f"learned depth takes its scale from at least {LEAST_POINTS} sparse points in a view, "
            f"but the best of {len(samples)} views has {most} with a prediction; move the camera "
            "sideways through a textured scene to get more"
        )
    units = _Units.of(kind, samples)
    fits = [_fit(units, sample, [seed, k]) for k, sample in enumerate(samples)]
    if all(fit is None for fit in fits):
        raise PartNotMade(
            f"learned depth contradicts the sparse points in all of the {len(samples)} views: "
            "its order of depths differs; use another depth.checkpoint, or depth.model=multiview"
        )
    certain = [
        None if fit is None else fit.covariance * sample.dependence(fit.good)
        for fit, sample in zip(fits, samples, strict=True)
    ]
    theta = smooth_over_time(fits, certain, drift)
    scale, shift = units.back(theta)
    every = np.concatenate([sample.z for sample in samples])
    near, far = np.percentile(every, [1, 99])
    made = Alignment(
        kind=kind,
        scale=scale,
        shift=shift,
        residual=np.full(len(samples), np.nan),
        borrowed=np.array([fit is None for fit in fits]),
        nearest=float(near) / NEARER,
        farthest=float(far) * FARTHER,
    )
    for k, sample in enumerate(samples):
        made.residual[k] = _residual(made, k, sample)
    return made


def one_scale(
    measured: npt.NDArray[np.float32], anchors: list[Anchors], *, seed: int = 0
) -> float | None:
    """Return the factor that makes depth [K, H, W] agree with the points of all views.

    None if fewer than `LEAST_POINTS` points have known depth.
    """
    samples = [_Sample.of("scale", m, a) for m, a in zip(measured, anchors, strict=True)]
    x = np.concatenate([sample.x for sample in samples])
    z = np.concatenate([sample.z for sample in samples])
    if len(x) < LEAST_POINTS:
        return None
    fit = robust_fit(np.ones((len(x), 1)), np.log(z / x), [seed], positive=False)
    return None if fit is None else float(np.exp(fit.theta[0]))


def residual_of(depth: npt.NDArray[np.float32], anchors: list[Anchors]) -> float:
    """Return the median of |depth / measured - 1| over all points of all views; NaN for none."""
    samples = [_Sample.of("scale", d, a) for d, a in zip(depth, anchors, strict=True)]
    off = np.concatenate([np.abs(sample.x / sample.z - 1) for sample in samples])
    return float(np.median(off)) if len(off) else float("nan")


@dataclass(frozen=True, slots=True)
class _Sample:
    """Predictions and measurements at the points of a view."""

    x: Floats
    """[N]: predictions."""
    z: Floats
    """[N]: measured depths."""
    cell: npt.NDArray[np.int64]
    """[N]: grid cell of each point."""

    @classmethod
    def of(cls, kind: Kind, predicted: Map, anchors: Anchors) -> _Sample:
        # Nearest pixel: interpolation would invent depths at a depth edge.
        column, row = np.floor(anchors.xy).astype(np.int64).T
        x = predicted[row, column].astype(np.float64)
        known = (np.isfinite(x) & (x > 0)) if kind == "scale" else np.isfinite(x)
        rows, columns = predicted.shape
        cell = row * CELLS // rows * CELLS + column * CELLS // columns
        return cls(x[known], anchors.z[known], cell[known])

    def dependence(self, good: npt.NDArray[np.bool_]) -> float:
        """Return the number of good points per independent measurement."""
        return np.count_nonzero(good) / len(np.unique(self.cell[good]))


@dataclass(frozen=True, slots=True)
class _Units:
    """Units in which the fits of all views are near (1, 1) or 0, which makes them comparable."""

    kind: Kind
    center: float
    spread: float
    """Interquartile range of the predictions at the points; `center` is their median."""
    target: float
    """Median of the fitted quantity: the inverse depth or the depth."""

    @classmethod
    def of(cls, kind: Kind, samples: list[_Sample]) -> _Units:
        x = np.concatenate([sample.x for sample in samples])
        z = np.concatenate([sample.z for sample in samples])
        low, center, high = np.percentile(x, [25, 50, 75])
        target = float(np.median(1 / z if kind == "inverse" else z))
        return cls(kind, float(center), max(float(high - low), 1e-12), target)

    def rows(self, x: Floats, z: Floats) -> tuple[Floats, Floats]:
        """Return A [N, p] and y [N] of a view; p is 1 for `scale`, fitted in the logarithm."""
        if self.kind == "scale":
            return np.ones((len(x), 1)), np.log(z / x)
        y = (1 / z if self.kind == "inverse" else z) / self.target
        return np.stack([(x - self.center) / self.spread, np.ones_like(x)], axis=1), y

    def back(self, theta: Floats) -> tuple[Floats, Floats]:
        """Convert theta [K, p] to scale and shift, both [K]."""
        if self.kind == "scale":
            return np.exp(theta[:, 0]), np.zeros(len(theta))
        scale = theta[:, 0] * self.target / self.spread
        return scale, theta[:, 1] * self.target - scale * self.center


def _fit(units: _Units, sample: _Sample, seed: list[int]) -> Fit | None:
    A, y = units.rows(sample.x, sample.z)
    if len(y) < LEAST_POINTS:
        return None
    if units.kind != "scale" and np.ptp(np.percentile(A[:, 0], [25, 75])) < LEAST_SPREAD:
        return None
    return robust_fit(A, y, seed, positive=units.kind != "scale")


def _residual(made: Alignment, k: int, sample: _Sample) -> float:
    if not len(sample.x):
        return float("nan")
    value = made.scale[k] * sample.x + made.shift[k]
    share = value * sample.z if made.kind == "inverse" else value / sample.z
    return float(np.median(np.abs(share - 1)))
