"""A software renderer for point clouds: a z-buffer of discs with eye-dome lighting.

It needs no graphics driver, so it works on every computer.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages._geometry.transforms import invert, project
from stages._kernels.compiling import kernel_decorator
from stages._rendering.overview import Overview, frusta
from stages._rendering.scene import Scene

__all__ = ["eye_dome", "render", "render_scene", "splat"]

Array = npt.NDArray[Any]

BACKGROUND = ((30, 33, 42), (13, 14, 19))
"""RGB at the top and at the bottom."""

EYE_DOME_STRENGTH = 14.0
"""Chosen by eye on rooms and objects: edges are visible, colors are preserved."""

PATH_RGB, FRUSTUM_RGB = (255, 170, 60), (120, 190, 255)

LARGEST_DISC_PX = 12.0

kernel = kernel_decorator()


@kernel(error_model="python", fastmath=False)
def splat(uv, z, radius, depth, index):  # pragma: no cover (compiled)
    """Draw discs into a z-buffer; the nearest wins.

    Args:
        uv: float32 [N, 2]: centers, px; pixel (0, 0) has its center at (0.5, 0.5).
        z: float32 [N]: depths; discs with depths not above 0 are skipped.
        radius: float32 [N]: px; the pixel under the center is always drawn.
        depth: float32 [H, W]: nearest depth so far, modified in place.
        index: int32 [H, W]: row of the nearest disc, modified in place.
    """
    height, width = depth.shape
    for n in range(len(z)):
        if not z[n] > 0:
            continue
        u, v, r = uv[n, 0], uv[n, 1], radius[n]
        if not (-r <= u < width + r and -r <= v < height + r):
            continue
        r2 = r * r
        middle_x, middle_y = int(np.floor(u)), int(np.floor(v))
        for y in range(max(0, int(v - r)), min(height, int(v + r) + 1)):
            for x in range(max(0, int(u - r)), min(width, int(u + r) + 1)):
                dx, dy = x + 0.5 - u, y + 0.5 - v
                inside = dx * dx + dy * dy <= r2 or (x == middle_x and y == middle_y)
                if inside and z[n] < depth[y, x]:
                    depth[y, x] = z[n]
                    index[y, x] = n


def eye_dome(depth: Array, strength: float, reach_px: int) -> npt.NDArray[np.float32]:
    """Return the eye-dome shading of each pixel, float32 [H, W] in 0..1.

    Source: Boucheny, "Interactive scientific visualization of large datasets: towards a
    perceptive-based approach", 2009: a pixel is darkened by neighbors in front of it.

    Args:
        depth: float32 [H, W]; infinite for empty pixels.
        strength: Darkness per unit of log2 depth.
        reach_px: Distance of the neighbors.
    """
    return np.exp(np.float32(-strength / 8) * _steps_ahead(np.log2(depth), reach_px))


@kernel(error_model="python", fastmath=False)
def _steps_ahead(log, reach_px):  # pragma: no cover (compiled)
    """Sum the depth differences of the 8 neighbors in front, each clamped to 0.25."""
    height, width = log.shape
    response = np.zeros((height, width), dtype=np.float32)
    for y in range(height):
        for x in range(width):
            here = log[y, x]
            if here == np.inf:
                continue
            total = np.float32(0)
            for dy in (-reach_px, 0, reach_px):
                for dx in (-reach_px, 0, reach_px):
                    v = min(max(y + dy, 0), height - 1)
                    u = min(max(x + dx, 0), width - 1)
                    total += min(max(here - log[v, u], np.float32(0)), np.float32(0.25))
            response[y, x] = total
    return response


def render(
    xyz: Array,
    rgb: Array,
    normals: Array | None,
    *,
    K: Array,
    T_world_camera: Array,
    size: tuple[int, int],
    point_size: float,
    segments: list[tuple[Array, tuple[int, int, int]]] | None = None,
) -> npt.NDArray[np.uint8]:
    """Render points [N, 3] and line segments; RGB [H, W, 3].

    Args:
        xyz: Points in the world.
        rgb: uint8 [N, 3].
        normals: [N, 3] or None. Back-facing points are skipped, so that the inside of a room is
            visible from outside.
        K: Intrinsics for an image of `size`.
        T_world_camera: Pose of the view.
        size: (width, height) px. Drawn at twice the size, then halved for antialiasing.
        point_size: Diameter of a point in world units.
        segments: Lines [S, 2, 3] with a color.
    """
    width, height = size[0] * 2, size[1] * 2
    K2 = np.diag([2.0, 2.0, 1.0]) @ K
    T_camera_world = invert(T_world_camera)
    depth = np.full((height, width), np.inf, dtype=np.float32)
    index = np.full((height, width), -1, dtype=np.int32)
    uv, z = project(xyz, K2, T_camera_world)
    if normals is not None:
        away = np.einsum("ij,ij->i", normals, T_world_camera[:3, 3] - xyz) < 0
        z = np.where(away, 0, z)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.clip(0.5 * K2[0, 0] * point_size / z, 1.0, LARGEST_DISC_PX)
    splat(_f32(uv), _f32(z), _f32(radius), depth, index)
    picture = _backdrop(width, height)
    seen = index >= 0
    light = eye_dome(depth, EYE_DOME_STRENGTH, 2)
    picture[seen] = rgb[index[seen]] * light[seen][:, None]
    for lines, color in segments or []:
        _draw(picture, depth, lines, color, K2, T_camera_world)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).round().astype(np.uint8)


def _draw(
    picture: Array, depth: Array, lines: Array, color: tuple[int, int, int], K: Array, T: Array
) -> None:
    """Draw lines as dense dots; behind surfaces they are drawn faintly."""
    share = np.linspace(0, 1, 240)[None, :, None]
    dots = (lines[:, :1] * (1 - share) + lines[:, 1:] * share).reshape(-1, 3)
    uv, z = project(dots, K, T)
    own = np.full_like(depth, np.inf)
    index = np.full(depth.shape, -1, dtype=np.int32)
    splat(_f32(uv), _f32(z), np.full(len(z), 1.3, np.float32), own, index)
    hit = index >= 0
    opacity = np.where(own[hit] < depth[hit] * 1.01, 0.95, 0.25)[:, None]
    picture[hit] = picture[hit] * (1 - opacity) + np.array(color) * opacity


def _backdrop(width: int, height: int) -> npt.NDArray[np.float32]:
    top, bottom = (np.array(rgb, dtype=np.float32) for rgb in BACKGROUND)
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return np.repeat((1 - share) * top + share * bottom, width, axis=1).astype(np.float32)


def _f32(array: Array) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)


def render_scene(scene: Scene, view: Overview, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Render a run's surface (the vertices, for a mesh), path and cameras; RGB [H, W, 3]."""
    surface, cameras = scene.surface, scene.cameras
    segments: list[tuple[Array, tuple[int, int, int]]] = []
    if cameras is not None:
        segments.append((frusta(cameras, view.radius * 0.04), FRUSTUM_RGB))
        if len(cameras.centers) > 1:
            path = np.stack([cameras.centers[:-1], cameras.centers[1:]], axis=1)
            segments.append((path, PATH_RGB))
    xyz = np.empty((0, 3), np.float32) if surface is None else surface.xyz
    return render(
        xyz,
        np.empty((0, 3), np.uint8) if surface is None else surface.rgb,
        None if surface is None else surface.normals,
        K=view.intrinsics(*size),
        T_world_camera=view.pose(),
        size=size,
        point_size=point_size(xyz, view.radius),
        segments=segments,
    )


def point_size(xyz: Array, radius: float) -> float:
    """Return the point diameter that closes the gaps of a surface sampled by these points.

    A surface that fills the view's sphere has an area of about 2 pi radius^2, which is divided
    among the points; the factor 1.5 covers the diagonal of a square grid.
    """
    return 1.5 * float(np.sqrt(2 * np.pi * radius**2 / max(len(xyz), 2000)))
