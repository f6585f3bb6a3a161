"""Overview of a reconstruction: a view from behind and above the cameras that frames it all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stages._rendering.scene import Cameras

__all__ = ["Overview", "frusta", "overview", "upright"]

Array = npt.NDArray[np.float64]

YAW, PITCH = np.radians(24.0), np.radians(24.0)
"""Angles sideways and down from the cameras' own direction: walls show depth, floors their plan."""

FAR = 3.0
"""Points farther than this many times the 15th percentile of distances are not framed."""

FIELD_OF_VIEW = np.radians(40.0)
"""Vertical field of view, narrow enough for weak perspective."""

FILLED = (16 / 9 * 0.84, 0.84)
"""Half width and half height of the scene in a 16:9 frame with half height 1."""


@dataclass(frozen=True)
class Overview:
    """A viewpoint on a sphere around the center of the scene."""

    center: Array
    """float64 [3]: point about which the view rotates."""
    radius: float
    """Radius of the sphere around `center` that contains nearly all points."""
    up: Array
    """float64 [3], unit."""
    eye: Array
    """float64 [3]: position of the viewer."""

    def pose(self) -> Array:
        """Return `T_world_camera` [4, 4] (OpenCV axes)."""
        forward = _unit(self.center - self.eye)
        right = _unit(np.cross(forward, self.up))
        T = np.eye(4)
        T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        T[:3, 3] = self.eye
        return T

    def intrinsics(self, width: int, height: int) -> Array:
        """Return K [3, 3] for an image of this size."""
        focal = height / 2 / np.tan(FIELD_OF_VIEW / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def upright(cameras: Cameras | None) -> Array:
    """Return the mean up direction of the cameras, a unit vector [3]."""
    down = np.array([0.0, 1.0, 0.0])
    if cameras is not None:
        mean = cameras.T_world_camera[:, :3, 1].mean(axis=0)
        down = mean if np.linalg.norm(mean) > 0.1 else cameras.T_world_camera[0, :3, 1]
    return -_unit(down)


def overview(xyz: npt.NDArray[np.float32], cameras: Cameras | None) -> Overview:
    """Choose a view of points [N, 3] and cameras; either may be empty."""
    shown = xyz[:: max(1, len(xyz) // 50_000)].astype(np.float64)
    if len(shown) < 8 and cameras is not None:
        shown = np.concatenate([shown, cameras.centers])
    if cameras is not None and len(shown) > 100:
        # Outdoors, most points are far behind the subject.
        away = np.linalg.norm(shown - cameras.centers.mean(axis=0), axis=1)
        shown = shown[away < FAR * np.percentile(away, 15)]
    low, high = np.percentile(shown, [3, 97], axis=0)
    center = (low + high) / 2
    radius = float(np.percentile(np.linalg.norm(shown - center, axis=1), 96)) or 1.0
    up = upright(cameras)
    ahead = np.array([0.0, 0.0, 1.0])
    if cameras is not None:
        mean = cameras.T_world_camera[:, :3, 2].mean(axis=0)
        # A camera around an object has no mean direction: use the first view.
        ahead = mean if np.linalg.norm(mean) > 0.4 else cameras.T_world_camera[0, :3, 2]
    level = ahead - up * (ahead @ up)
    if np.linalg.norm(level) < 0.1:
        level = np.cross(up, [1.0, 0.0, 0.0] if abs(up[0]) < 0.9 else [0.0, 0.0, 1.0])
    level = _unit(level)
    aside = np.cross(level, up)
    toward = np.cos(PITCH) * (np.cos(YAW) * level + np.sin(YAW) * aside) - np.sin(PITCH) * up
    view = Overview(center, radius, up, center - radius / np.sin(FIELD_OF_VIEW / 2) * toward)
    if cameras is not None:
        shown = np.concatenate([shown, np.repeat(cameras.centers, 1 + len(shown) // 400, axis=0)])
    for _ in range(4):
        view = _framed(view, shown)
    return view


def _framed(view: Overview, shown: Array) -> Overview:
    """Return the view moved and zoomed so that `shown` [N, 3] fills a 16:9 frame."""
    T = view.pose()
    local = (shown - T[:3, 3]) @ T[:3, :3]
    local = local[local[:, 2] > 1e-3 * view.radius]
    if len(local) < 8:
        return view
    plane = local[:, :2] / local[:, 2:] / np.tan(FIELD_OF_VIEW / 2)
    low, high = np.percentile(plane, [1, 99], axis=0)
    distance = float(np.linalg.norm(view.eye - view.center))
    middle = (low + high) / 2 * np.tan(FIELD_OF_VIEW / 2) * distance
    shift = T[:3, :2] @ middle
    zoom = float(np.clip(np.max((high - low) / 2 / FILLED), 0.3, 3))
    center = view.center + shift
    return replace(view, center=center, eye=center + zoom * (view.eye - view.center))


def frusta(cameras: Cameras, size: float, most: int = 32) -> Array:
    """Return line segments [S, 2, 3] of camera pyramids, `size` deep, at most `most` cameras."""
    x, y = cameras.field
    corners = np.array([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]]) * size
    step = max(1, -(-len(cameras.centers) // most))
    segments = []
    for T in cameras.T_world_camera[::step]:
        far = corners @ T[:3, :3].T + T[:3, 3]
        segments += [(T[:3, 3], corner) for corner in far]
        segments += [(far[i], far[(i + 1) % 4]) for i in range(4)]
    return np.array(segments)


def _unit(v: Array) -> Array:
    return v / np.linalg.norm(v)
