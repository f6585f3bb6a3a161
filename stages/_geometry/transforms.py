"""Rigid transforms, similarity transforms, intrinsics and axis conventions of other programs.

`T_a_b` maps coordinates from frame b to frame a: `x_a = T_a_b @ x_b`. Cameras have OpenCV axes
(x right, y down, z forward); pixel (0, 0) has its center at (0.5, 0.5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "OPENCV_FROM_OPENGL",
    "align_sim3",
    "invert",
    "project",
    "quaternion_wxyz",
    "rotation_angle_deg",
    "rotation_from_wxyz",
    "scale_intrinsics",
    "unproject",
    "upright",
]

Array = npt.NDArray[Any]

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenGL and Blender cameras look along -z with y up: `T_world_cv = T_world_gl @ this`."""


def invert(T: Array) -> Array:
    """Invert rigid transforms [..., 4, 4] exactly, with the transpose of R instead of a solve."""
    R = np.swapaxes(T[..., :3, :3], -1, -2)
    inverse = np.zeros_like(T)
    inverse[..., :3, :3] = R
    inverse[..., :3, 3] = -(R @ T[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def quaternion_wxyz(R: Array) -> Array:
    """Return the unit quaternion (w >= 0) of a rotation [3, 3] (Shepperd's method)."""
    trace = np.trace(R)
    choices = np.array([trace, R[0, 0], R[1, 1], R[2, 2]])
    largest = int(np.argmax(choices))
    q = np.empty(4)
    if largest == 0:
        q[:] = 1 + trace, R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    else:
        i = largest - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        q[0] = R[k, j] - R[j, k]
        q[1 + i] = 1 + R[i, i] - R[j, j] - R[k, k]
        q[1 + j] = R[j, i] + R[i, j]
        q[1 + k] = R[k, i] + R[i, k]
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q


def rotation_from_wxyz(q: Array) -> Array:
    """Return the rotation [3, 3] of a quaternion (w, x, y, z) of any length above zero."""
    w, x, y, z = np.asarray(q, dtype=np.float64) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_angle_deg(R: Array) -> Array:
    """Return the angles of rotations [..., 3, 3] in degrees."""
    cosine = (np.trace(R, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def scale_intrinsics(K: Array, sx: float, sy: float) -> Array:
    """Return the intrinsics [..., 3, 3] of the image resized by `sx`, `sy`."""
    return np.diag([sx, sy, 1.0]) @ K


def project(xyz: Array, K: Array, T_camera_world: Array) -> tuple[Array, Array]:
    """Project world points [N, 3] into one camera.

    Returns:
        Pixels [N, 2] and depths z [N]; pixels are meaningless where z <= 0.
    """
    camera = xyz @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
    z = camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = (camera @ K.T)[:, :2] / z[:, None]
    return uv, z


def unproject(depth: Array, K: Array, T_world_camera: Array) -> Array:
    """Return the world points [H, W, 3] of a depth map [H, W]; NaN stays NaN."""
    h, w = depth.shape
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).T
    return (rays * depth[..., None]) @ T_world_camera[:3, :3].T + T_world_camera[:3, 3]


def align_sim3(source: Array, target: Array) -> tuple[float, Array, Array]:
    """Return s, R [3, 3], t [3] that best align points [N, 3]: `target ~ s R source + t`.

    Least squares in closed form: Umeyama, IEEE PAMI 13(4), 1991. For collinear points the rotation
    about their line is undetermined; with one distinct point s = 1 and R = I.
    """
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    variance = float(np.mean(np.sum(a**2, axis=1)))
    if variance == 0:
        return 1.0, np.eye(3), mean_target - mean_source
    U, D, Vt = np.linalg.svd(b.T @ a / len(a))
    mirror = np.array([1, 1, np.linalg.det(U @ Vt)])
    R = U @ np.diag(mirror) @ Vt
    s = float(D @ mirror) / variance
    return s, R, mean_target - s * R @ mean_source


def upright(T_world_camera: Array) -> Array:
    """Return the rotation [3, 3] that turns a world so that its y axis points down.

    Cameras are assumed to be held level, so that the x axes of all cameras [K, 4, 4] are
    horizontal. If these do not span the horizon (a camera that never rotates), the mean y axis
    decides. The horizontal direction of the first camera becomes z.
    """
    x, y = T_world_camera[:, :3, 0], T_world_camera[:, :3, 1]
    mean = y.mean(axis=0)
    # Eigenvector of the smallest leveling error; the prior breaks ties toward the mean y axis.
    _, vectors = np.linalg.eigh(x.T @ x / len(x) - 0.01 * np.outer(mean, mean))
    down = vectors[:, 0] * (1 if vectors[:, 0] @ mean >= 0 else -1)
    forward = T_world_camera[0, :3, 2] - down * (T_world_camera[0, :3, 2] @ down)
    if np.linalg.norm(forward) < 1e-3:
        forward = -(T_world_camera[0, :3, 1] - down * (T_world_camera[0, :3, 1] @ down))
    forward /= np.linalg.norm(forward)
    return np.stack([np.cross(down, forward), down, forward])
