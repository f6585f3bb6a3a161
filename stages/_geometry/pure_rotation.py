"""Model of a camera that only rotates and zooms, and its residuals.

Between two images of such a camera every point moves by the homography `K2 R K1^-1`, regardless of
its depth (Hartley and Zisserman, Multiple View Geometry, 8.4). Residuals of the best fit are
parallax, moving objects or noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.contract import Array

__all__ = ["RotationZoom", "fit_rotation_zoom"]

FOCAL_PRIOR = (0.0, 0.5)
"""Mean and deviation of log(f / longer side): phones are near 0.8, COLMAP's guess is 1.2."""
DISTORTION_DEVIATION = 0.03
"""Deviation of the radial coefficient, where the image corner has radius 1 (half diagonal)."""
STEPS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class RotationZoom:
    """A fitted rotation and zoom."""

    R: Array
    """float64 [3, 3]: maps directions from the first camera to the second."""
    focal_px: float
    """Focal length of the first image; close to the prior if the rotation is too small."""
    zoom: float
    """Focal length of the second image over that of the first."""
    residual_px: Array
    """float64 [N]: distance of each second point from its prediction by the model."""

    @property
    def angle_deg(self) -> float:
        """Rotation angle of the camera in degrees."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.R) - 1) / 2, -1, 1))))


def fit_rotation_zoom(
    p: Array, q: Array, size: tuple[int, int], *, focal_px: float | None = None, noise_px: float = 1
) -> RotationZoom:
    """Fit the rotation and zoom that map points `p` to `q`, both [N, 2] px, with outliers.

    Args:
        p: Points in the first image.
        q: The same points in the second image.
        size: Width and height of both images.
        focal_px: Focal length, if known.
        noise_px: Points with residuals of several times this are downweighted (Cauchy weights).
    """
    center = np.array(size) / 2
    side = float(max(size))
    a, b = np.asarray(p, np.float64) - center, np.asarray(q, np.float64) - center
    half_diagonal = float(np.hypot(*center))
    # Parameters: rotation vector, log zoom, log(f / side), radial distortion.
    x = np.zeros(6)
    x[4] = np.log(focal_px / side) if focal_px else FOCAL_PRIOR[0]
    x[:3] = _rotation_vector(_align_directions(a, b, np.exp(x[4]) * side))
    prior_mean = x[4]
    prior_weight = np.array([0, 0, 0, 0, 1e6 if focal_px else FOCAL_PRIOR[1] ** -2, 0])
    prior_weight[5] = DISTORTION_DEVIATION**-2
    target = np.array([0, 0, 0, 0, prior_mean, 0])

    def moved(x: Array) -> Array:
        f = np.exp(x[4]) * side
        za = a * (1 + x[5] * np.sum((a / half_diagonal) ** 2, axis=1, keepdims=True))
        rays = np.column_stack([za / f, np.ones(len(a))]) @ _rotation(x[:3]).T
        depth = np.maximum(rays[:, 2:], 1e-3)
        ideal = rays[:, :2] / depth * f * np.exp(x[3])
        # The inverse of a small radial distortion to first order.
        return ideal * (1 - x[5] * np.sum((ideal / half_diagonal) ** 2, axis=1, keepdims=True))

    # Start with the median residual as scale and tighten it, which downweights outliers.
    scale = max(noise_px, float(np.median(np.linalg.norm(moved(x) - b, axis=1))))
    steps = np.full(6, 1e-6)
    for _ in range(STEPS):
        error = b - moved(x)
        weight = 1 / (1 + np.sum(error**2, axis=1) / (2 * scale) ** 2)
        jacobian = np.stack([(moved(x + h) - moved(x)) / 1e-6 for h in np.diag(steps)], axis=-1)
        weighted = jacobian * weight[:, None, None] / noise_px**2
        normal = np.einsum("nij,nik->jk", weighted, jacobian) + np.diag(prior_weight + 1e-6)
        gradient = np.einsum("nij,ni->j", weighted, error) + prior_weight * (target - x)
        x = x + np.clip(np.linalg.solve(normal, gradient), -0.3, 0.3)
        scale = max(noise_px, 0.7 * scale)
    residual = np.linalg.norm(b - moved(x), axis=1)
    return RotationZoom(
        R=_rotation(x[:3]),
        focal_px=float(np.exp(x[4]) * side),
        zoom=float(np.exp(x[3])),
        residual_px=residual,
    )


def _align_directions(a: Array, b: Array, f: float) -> Array:
    """Return the rotation between bundles of rays, robustly (reweighted Kabsch)."""
    u, v = (np.column_stack([c / f, np.ones(len(c))]) for c in (a, b))
    u, v = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (u, v))
    weight = np.ones(len(a))
    R = np.eye(3)
    for _ in range(8):
        U, _, Vt = np.linalg.svd((v * weight[:, None]).T @ u)
        R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
        error = np.linalg.norm(v - u @ R.T, axis=1)
        weight = 1 / np.maximum(error, 1 / f)
    return R


def _rotation(w: Array) -> Array:
    """Return the rotation matrix of a rotation vector (Rodrigues' formula)."""
    angle = np.linalg.norm(w)
    x, y, z = w
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # The series near zero keeps the numeric derivative accurate.
    first = 1 - angle**2 / 6 if angle < 1e-4 else np.sin(angle) / angle
    second = 0.5 - angle**2 / 24 if angle < 1e-4 else (1 - np.cos(angle)) / angle**2
    return np.eye(3) + first * cross + second * cross @ cross


def _rotation_vector(R: Array) -> Array:
    angle = np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))
    axis = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / 2
    return axis * (angle / np.sin(angle) if 1e-6 < angle < np.pi - 1e-3 else 1)
