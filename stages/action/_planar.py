"""The flow of a plane, fitted robustly, and what it says of the camera.

A camera that turns or zooms moves every point, and one that moves past a plane moves that plane,
by a flow of eight parameters (Longuet-Higgins and Prazdny 1980; Adiv, PAMI 1985, eq. 6)::

    u = a + b x + c y + g x² + h x y
    v = d + e x + f y + g x y + h y²

With focal length F (in widths) and rotation ω a camera at rest has a = -F ω_y, d = F ω_x,
c = -e = ω_z, b = f = zoom, g = a / F², h = d / F². What differs from that is parallax: b ≠ f or
c ≠ -e (a slanted plane that slides past) or a residual (things before and behind the plane).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.action._samples import FlowSamples

__all__ = ["CameraMotion", "PlanarFit", "camera_motion", "fit_plane"]

Array = npt.NDArray[Any]

NOISE_PX = 0.25
"""Error of good flow: measured 0.1-0.3 px (DIS fast, rendered rooms)."""
COARSE_TO_FINE = (2.0, 1.5, 1.0, 1.0, 1.0, 1.0)
"""Scale of the robust weight in each iteration, in medians of the residual so far."""
RADIUS = 0.3
"""Mean distance of a pixel from the middle of a 16:9 image in widths: turns rates of zoom and
roll into mean image motion, comparable with that of pan and tilt."""
GROUND = 0.3
"""Image motion that a shear of the ground stands for: its share of the image's half height."""
ORBIT = (1.2, 2.0)
"""An orbit turns against its truck, so that bend and shear exceed the mean motion; from the first
ratio on it is taken for one, from the second on wholly. The corner of a room that slides past
bends the flow by up to 1.2 of its mean (measured in the rendered rooms)."""
LONGER = 1.5
"""Variance of the noise of DIS along the motion by that across it (measured: zooms)."""
UNSURE = 0.7
"""Shear that people who move about in the image feign, in residuals across the motion."""
BEND = 0.12
"""Mean of x² + y² over a 16:9 image in widths: turns a bend into mean image motion."""
AT_REST = 0.7
"""Share of still samples, in those that follow the motion, from which on the camera rests."""
FITTING_PX, FITTING_SHARE = 1.5, 0.3
"""A sample follows the dominant motion, parallax included, up to this residual in pixels or in
sizes of the motion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanarFit:
    """The dominant motion of a pair."""

    parameters: Array
    """float64 [8]: a, d, b, c, e, f, g, h of the module's equations, in widths a pair."""
    fitted: Array
    """float64 [N, 2]: the flow that they give at the samples."""
    residual: Array
    """float64 [N, 2]: flow less `fitted`."""
    size: float
    """Mean length of `fitted` in widths."""
    support: float
    """Share of the samples, 0..1, that are trusted and follow it, parallax included."""


def fit_plane(samples: FlowSamples) -> PlanarFit:
    """Fit by least squares, then by iteratively reweighted ones (Geman-McClure), coarse to fine."""
    basis = _basis(samples.at)
    rows = basis.reshape(-1, 8)
    # Without texture anywhere the system is singular; a little ridge keeps it solvable.
    ridge = 1e-6 * max(samples.weight.sum(), 1e-9) * np.array([0.01, 0.01, 1, 1, 1, 1, 1, 1])
    parameters, noise = np.zeros(8), NOISE_PX * samples.pixel
    for factor in (None, *COARSE_TO_FINE):
        weight = samples.weight
        if factor is not None:
            square = ((samples.flow - basis @ parameters) ** 2).sum(axis=1)
            scale = max(factor * float(np.sqrt(np.median(square))), noise)
            weight = weight / (1 + square / scale**2) ** 2
        weighted = (basis * weight[:, None, None]).reshape(-1, 8)
        parameters = np.linalg.solve(
            rows.T @ weighted + np.diag(ridge), weighted.T @ samples.flow.reshape(-1)
        )
    found = _with(samples, basis, parameters)
    if _rather_at_rest(samples, found):
        return _with(samples, basis, np.zeros(8))
    return found


def _with(samples: FlowSamples, basis: Array, parameters: Array) -> PlanarFit:
    fitted = basis @ parameters
    residual = samples.flow - fitted
    total = max(float(samples.weight.sum()), 1e-12)
    size = float(np.sqrt((samples.weight * (fitted**2).sum(axis=1)).sum() / total))
    limit = max(FITTING_PX * samples.pixel, FITTING_SHARE * size)
    follows = np.linalg.norm(residual, axis=1) <= limit
    support = float(np.mean(follows & (samples.confidence > 0.5)))
    return PlanarFit(
        parameters=parameters, fitted=fitted, residual=residual, size=size, support=support
    )


def _rather_at_rest(samples: FlowSamples, found: PlanarFit) -> bool:
    """Tell whether the fit has locked on an object before a dull background at rest."""
    if found.support > 0.5 or found.size < 2 * samples.pixel:
        return False
    still = np.linalg.norm(samples.flow, axis=1) < samples.pixel
    return float(np.mean(still & (samples.confidence > 0.5))) > AT_REST * found.support


def _basis(at: Array) -> Array:
    x, y = at.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    u = np.stack([one, zero, x, y, zero, zero, x * x, x * y], axis=-1)
    v = np.stack([zero, one, zero, zero, x, y, x * y, y * y], axis=-1)
    return np.stack([u, v], axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraMotion:
    """What the camera did in one pair, as mean image motion in widths, signed as the labels."""

    pan: float
    """Above 0: the scene moves left, so the camera turned or moved right."""
    tilt: float
    """Above 0: the scene moves down, so the camera turned up."""
    zoom: float
    """Above 0: the scene expands."""
    roll: float
    """Above 0: the scene turns counter-clockwise, so the camera turned clockwise."""
    truck: float
    """Above 0: the camera moved right, if there is parallax: `pan`, but in an orbit less what bend
    and shear of the flow show to be rotation."""
    shear: Array
    """float64 [2]: image motion by which planes off the axis slide or turn; 0 for a camera that
    only turns and zooms."""
    bend: Array
    """float64 [2]: image motion by which slanted planes bend as they come nearer; 0 under a zoom,
    and under a rotation as far as the focal length is right."""
    spread: float
    """Median residual along the motion less the noise across it: depth before and behind."""
    noise: float
    """What shear and spread must exceed."""
    size: float
    """Mean length of the dominant motion."""


def camera_motion(samples: FlowSamples, fit: PlanarFit, focal: float) -> CameraMotion:
    """Read the camera's motion off the fit; `focal` is the focal length in widths."""
    a, d, b, c, e, f, g, h = fit.parameters
    # The smaller of the two: past a slanted plane only one of them is not zero.
    zoom, roll = _common(b, f), _common(c, -e)
    # A slanted plane that comes nearer bends the flow as well, by up to its slope times the zoom
    # (slopes up to 1.2 in the rendered rooms); only what exceeds that is rotation. The ground,
    # near below and far above, shears the flow of a truck.
    bend = np.sign(g) * max(abs(g) - 1.2 * abs(zoom), 0.0)
    turned = bend * focal**2 - GROUND * (c + e)
    orbit = np.clip((abs(turned) / max(abs(a), 1e-9) - ORBIT[0]) / (ORBIT[1] - ORBIT[0]), 0, 1)
    along, across = _along_and_across(samples.weight, fit)
    return CameraMotion(
        pan=float(-a),
        tilt=float(d),
        zoom=zoom * RADIUS,
        roll=roll * RADIUS,
        truck=float(orbit * turned - a),
        shear=RADIUS / 2 * np.array([b - f, c + e]),
        bend=BEND * np.array([g - a / focal**2, h - d / focal**2]),
        spread=float(np.sqrt(max(along**2 - LONGER * across**2, 0.0))),
        noise=UNSURE * across,
        size=fit.size,
    )


def _common(first: float, second: float) -> float:
    if first * second <= 0:
        return 0.0
    return float(np.sign(first) * min(abs(first), abs(second)))


def _along_and_across(weight: Array, fit: PlanarFit) -> tuple[float, float]:
    """Return the median residual along the fitted flow and across it.

    Parallax lies along it (when the camera moves and does not turn), noise lies both ways.
    """
    length = np.linalg.norm(fit.fitted, axis=1)
    keep = (length > 0.3 * np.median(length)) & (weight > 0.1)
    if keep.sum() < 16:
        return 0.0, 0.0
    direction = fit.fitted[keep] / np.maximum(length[keep], 1e-12)[:, None]
    x, y = fit.residual[keep].T
    along = np.abs(x * direction[:, 0] + y * direction[:, 1])
    across = np.abs(x * direction[:, 1] - y * direction[:, 0])
    return float(np.median(along)), float(np.median(across))
