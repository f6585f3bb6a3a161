"""Camera paths for showing a scene: through known poses, or in orbit around their focus.

Poses are `T_world_camera` [N, 4, 4] with OpenCV axes; intrinsics are [3, 3] in px. SciPy is
imported where it is used: it would cost every command half a second, and few need camera paths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contract import Splats
from stages._geometry.transforms import upright

__all__ = [
    "between",
    "fit_intrinsics",
    "look_at",
    "orbit",
    "orbit_focus",
    "solid_points",
    "through",
    "walk",
]

Array = npt.NDArray[Any]

CANDIDATES, CAMERAS = 1500, 64
"""Maximum number of points tried as the focus of an orbit, and of cameras that score them."""

SWAY = (0.08, 0.04)
"""Minimum standard deviations of an orbit in radians, so that it moves even for a static camera."""

REACH, NEARBY = 1.0, 0.6
"""Extent of an orbit in standard deviations from the median camera, and radius in standard
deviations within which it is pulled to the cameras. Chosen by eye on a rendered room and on fox:
views between cameras on an arc look good, views beyond them do not."""

FINE = 720
"""Number of steps in which an orbit is computed before it is resampled evenly."""

FULL_CIRCLE = np.radians(80.0)
"""Largest gap in azimuth of cameras that are considered to surround their focus."""


def fit_intrinsics(K: Array, size: tuple[int, int], wanted: tuple[int, int]) -> Array:
    """Return the intrinsics [3, 3] for images of another size.

    If the aspect ratios differ the image is cropped, never widened, since nothing is known outside
    the camera's field of view.

    Args:
        K: [3, 3] for images of `size`.
        size: (width, height) px.
        wanted: (width, height) px.
    """
    scale = max(wanted[0] / size[0], wanted[1] / size[1])
    fitted = np.array(K, dtype=np.float64)
    fitted[:2, :2] *= scale
    fitted[:2, 2] = (fitted[:2, 2] - np.array(size) / 2) * scale + np.array(wanted) / 2
    return fitted


def solid_points(splats: Splats, most: int = 20_000) -> Array:
    """Return the centers [N, 3] of visible splats, at most `most`, evenly sampled."""
    solid = splats.means[splats.opacity_logits > -1]
    return _spread(solid if len(solid) else splats.means, most).astype(np.float64)


def between(T_first: Array, T_second: Array, share: float) -> Array:
    """Interpolate between two poses [4, 4]: positions linearly, rotations by slerp."""
    from scipy.spatial.transform import Rotation, Slerp

    turn = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([T_first[:3, :3], T_second[:3, :3]])))
    T = np.eye(4)
    T[:3, :3] = turn(share).as_matrix()
    T[:3, 3] = (1 - share) * T_first[:3, 3] + share * T_second[:3, 3]
    return T


def through(T_world_camera: Array, count: int, distance: float) -> tuple[Array, Array]:
    """Return a smooth camera path through poses, with even apparent motion.

    Positions follow a Catmull-Rom spline, rotations are interpolated by slerp. Both are
    parameterized by image motion: a rotation counts like a sideways motion by that angle at
    `distance`.

    Args:
        T_world_camera: [K, 4, 4], at least one.
        count: Number of poses to return, including the first and the last of the given ones.
        distance: Distance of the scene from the cameras, world units.

    Returns:
        Poses [count, 4, 4], and the position of each among the given ones, [count] in 0..K-1:
        2.25 is a quarter of the way from pose 2 to pose 3.
    """
    from scipy.interpolate import CubicHermiteSpline
    from scipy.spatial.transform import Rotation, Slerp

    centers, R = T_world_camera[:, :3, 3], T_world_camera[:, :3, :3]
    if len(centers) == 1:
        return np.repeat(T_world_camera, count, axis=0), np.zeros(count)
    turns = Rotation.from_matrix(R)
    moved = np.linalg.norm(np.diff(centers, axis=0), axis=1) / max(distance, 1e-12)
    moved += (turns[:-1].inv() * turns[1:]).magnitude()
    # Keeps the knots increasing where poses are equal.
    moved = np.maximum(moved, max(1e-3 * float(moved.mean()), 1e-9))
    knots = np.concatenate([[0.0], np.cumsum(moved)])
    at = np.linspace(0, knots[-1], count)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Slerp(knots, turns)(at).as_matrix()
    poses[:, :3, 3] = CubicHermiteSpline(knots, centers, _tangents(knots, centers))(at)
    return poses, np.interp(at, knots, np.arange(len(knots)))


def walk(T_world_camera: Array, K: Array, size: tuple[int, int], xyz: Array, count: int) -> Array:
    """Return a camera path along known cameras; see `through` and, for arguments, `orbit`."""
    focus, _ = orbit_focus(T_world_camera, K, size, xyz)
    away = np.linalg.norm(T_world_camera[:, :3, 3] - focus, axis=1)
    return through(T_world_camera, count, float(np.median(away)))[0]


def _tangents(knots: Array, points: Array) -> Array:
    """Return the velocities [K, 3] of a Catmull-Rom spline with uneven knots.

    Source: Barry and Goldman, "A recursive evaluation algorithm for a class of Catmull-Rom
    splines", SIGGRAPH 1988, differentiated at its knots.
    """
    step = np.diff(knots)[:, None]
    slope = np.diff(points, axis=0) / step
    tangents = np.empty_like(points)
    tangents[0], tangents[-1] = slope[0], slope[-1]
    before, after = step[:-1], step[1:]
    tangents[1:-1] = (slope[:-1] * after + slope[1:] * before) / (before + after)
    return tangents


def look_at(eye: Array, target: Array, up: Array) -> Array:
    """Return level poses [..., 4, 4] at `eye` [..., 3] that look at `target` [..., 3]."""
    forward = _unit(target - eye)
    right = _unit(np.cross(forward, up))
    poses = np.zeros((*eye.shape[:-1], 4, 4))
    poses[..., :3, 0], poses[..., :3, 1] = right, np.cross(forward, right)
    poses[..., :3, 2], poses[..., :3, 3] = forward, eye
    poses[..., 3, 3] = 1
    return poses


def orbit_focus(
    T_world_camera: Array, K: Array, size: tuple[int, int], xyz: Array
) -> tuple[Array, Array]:
    """Return the point most cameras look at: central and at a typical depth for most of them.

    Args:
        T_world_camera: [K, 4, 4].
        K: [3, 3], shared by all cameras.
        size: (width, height) px, for K.
        xyz: Points [N, 3] of the scene; may be empty.

    Returns:
        The point [3], and which cameras see it, bool [K].
    """
    centers, ahead = T_world_camera[:, :3, 3], T_world_camera[:, :3, 2]
    tried = _spread(xyz, CANDIDATES)
    asked = _spread(T_world_camera, CAMERAS)
    score = np.zeros(len(tried))
    for T in asked:
        aside, z = _aside(tried, T, K, size)
        if np.any(aside < 1):
            usual = np.median(z[aside < 1])
            depth = np.log(np.where(z > 0, z, usual) / usual)
            score += np.maximum(1 - aside, 0) * np.exp(-2 * depth**2)
    if not np.any(score > 0):
        return (centers + ahead).mean(axis=0), np.ones(len(centers), dtype=np.bool_)
    focus = tried[int(np.argmax(score))].astype(np.float64)
    sees = np.array([_aside(focus[None], T, K, size)[0][0] < 1 for T in T_world_camera])
    return focus, sees


def _aside(xyz: Array, T: Array, K: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the distance of points from the image center (1 is its border), and their depths."""
    local = (xyz - T[:3, 3]) @ T[:3, :3]
    z = local[:, 2]
    half = np.array(size) / 2 / np.array([K[0, 0], K[1, 1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        aside = np.max(np.abs(local[:, :2]) / z[:, None] / half, axis=1)
    return np.where(z > 0, aside, np.inf), z


def _spread(rows: Array, most: int) -> Array:
    """Return at most `most` rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]


def orbit(T_world_camera: Array, K: Array, size: tuple[int, int], xyz: Array, count: int) -> Array:
    """Return a smooth closed camera path around the focus of the cameras.

    It stays near the cameras, and so shows what they saw. Cameras that surround their focus give a
    full circle at their own heights and distances; others an ellipse along the two directions in
    which they are spread most (as seen from the focus: sideways, up, away).

    Args:
        T_world_camera: [K, 4, 4], at least one.
        K: [3, 3], shared by all cameras.
        size: (width, height) px, for K.
        xyz: Points [N, 3] of the scene; may be empty.
        count: Number of poses; the last is followed by the first again.

    Returns:
        Poses [count, 4, 4].
    """
    focus, sees = orbit_focus(T_world_camera, K, size, xyz)
    cameras = T_world_camera[sees] if np.any(sees) else T_world_camera
    up = -upright(cameras)[1]
    away = cameras[:, :3, 3] - focus
    # The first axis points to the mean of the cameras, so that azimuths are near 0.
    mean = away.mean(axis=0)
    first = mean - up * (mean @ up)
    if np.linalg.norm(first) < 0.05 * float(np.mean(np.linalg.norm(away, axis=1))):
        first = away[0] - up * (away[0] @ up)
    if np.linalg.norm(first) < 1e-9:
        first = np.cross(up, np.eye(3)[int(np.argmin(np.abs(up)))])
    first = _unit(first)
    second = np.cross(up, first)
    local = away @ np.stack([first, second, up], axis=1)
    distance = np.maximum(np.linalg.norm(local, axis=1), 1e-9)
    azimuth = np.arctan2(local[:, 1], local[:, 0])
    elevation = np.arcsin(np.clip(local[:, 2] / distance, -1, 1))
    where = np.stack([azimuth, elevation, np.log(distance)], axis=1)
    phase = np.linspace(0, 2 * np.pi, FINE + 1)
    gap = _largest_gap(azimuth)
    path = _circle(where, gap, phase) if gap < FULL_CIRCLE else _ellipse(where, phase)
    path = _even(path, count)
    angle, height = path[:, 0], np.clip(path[:, 1], -1.4, 1.4)
    level = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    toward = np.cos(height)[:, None] * level + np.sin(height)[:, None] * up
    poses = look_at(focus + np.exp(path[:, 2])[:, None] * toward, focus, up)
    # Keep the cameras' mean offset from the focus: the other side was not recorded.
    turn = _onto_axis(_unit(np.einsum("kji,kj->ki", cameras[:, :3, :3], -away)))
    eyes = poses[:, :3, 3]
    return look_at(eyes, eyes + poses[:, :3, :3] @ turn[:, 2], up)


def _onto_axis(directions: Array) -> Array:
    """Return the rotation [3, 3] that turns the mean of unit vectors [K, 3] to +z."""
    from scipy.spatial.transform import Rotation

    x, y, z = _unit(directions.mean(axis=0) + np.array([0, 0, 1e-6]))
    yaw, pitch = np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))
    return Rotation.from_euler("yx", [-yaw, pitch]).as_matrix()


def _largest_gap(azimuth: Array) -> float:
    ordered = np.sort(azimuth)
    return float(np.max(np.diff(np.append(ordered, ordered[0] + 2 * np.pi))))


def _circle(where: Array, gap: float, phase: Array) -> Array:
    """Return a full circle [N, 3] with the height and distance of the cameras at each azimuth."""
    width = max(gap, np.radians(15.0))
    apart = phase[:, None] - where[None, :, 0]
    apart = (apart + np.pi) % (2 * np.pi) - np.pi
    weight = np.exp(-0.5 * (apart / width) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.column_stack([phase, weight @ where[:, 1:]])


def _ellipse(where: Array, phase: Array) -> Array:
    """Return an ellipse [N, 3] along the two main directions of azimuth, elevation, distance.

    Cameras on an arc do not cover the ellipse's other half: every pose is moved to the mean of the
    cameras near it (one step of mean shift), which bends the ellipse toward them.
    """
    center = np.median(where, axis=0)
    spread = where - center
    floor = np.diag([SWAY[0] ** 2, SWAY[1] ** 2, 0.0])
    variance, axes = np.linalg.eigh(spread.T @ spread / len(where) + floor)
    # Ascending: the last is the largest.
    deviation = np.sqrt(np.maximum(variance, 0))
    path = (
        center
        + np.sin(phase)[:, None] * REACH * deviation[2] * axes[:, 2]
        + np.cos(phase)[:, None] * REACH * deviation[1] * axes[:, 1]
    )
    apart = (path[:, None] - where[None]) / (NEARBY * deviation[2])
    closeness = -0.5 * np.sum(apart**2, axis=-1)
    weight = np.exp(closeness - closeness.max(axis=1, keepdims=True))
    drawn = weight @ where / weight.sum(axis=1, keepdims=True)
    # Keep part of the ellipse, so that the path moves even for a single camera.
    return 0.75 * drawn + 0.25 * path


def _even(path: Array, count: int) -> Array:
    """Return `count` evenly spaced points on a closed path [N, 3] that ends at its start."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.arange(count) / count * length[-1]
    return np.stack([np.interp(at, length, column) for column in path.T], axis=1)


def _unit(v: Array) -> Array:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)
