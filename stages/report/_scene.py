"""The reconstructed scene: interactive point cloud, a still, and the camera path from above."""

from __future__ import annotations

import base64
import re
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError, later
from stages._rendering.overview import Overview, frusta, overview, upright
from stages._rendering.scene import Cameras, Scene, read_scene
from stages.report._facts import Facts
from stages.report._formatting import amount, plural
from stages.report._images import jpeg_uri
from stages.report._markup import Markup, data_uri, embedded_json, tag

__all__ = ["place"]

render = later("stages._rendering.point_renderer")
"""Imported late, since it is compiled: every command describes the report, few make one."""

STILL_SIZE = (1280, 720)
MAP_PX = 720


def place(facts: Facts, most_points: int, seed: int) -> tuple[list[Markup], list[Markup]]:
    """Return the sections (viewer and map), and the data for the page's script."""
    try:
        scene = read_scene(facts.folder)
    except UsageError:
        return [], []
    xyz = np.empty((0, 3), np.float32) if scene.surface is None else scene.surface.xyz
    view = overview(xyz, scene.cameras)
    sections = [_viewer(scene, view)]
    if scene.cameras is not None and len(scene.cameras.centers) > 1:
        sections.append(_map(facts, scene, scene.cameras))
    return sections, [embedded_json("scene", _scene_data(scene, view, most_points, seed))]


def _viewer(scene: Scene, view: Overview) -> Markup:
    still = jpeg_uri(render.render_scene(scene, view, STILL_SIZE), 84)
    count = 0 if scene.surface is None else len(scene.surface.xyz)
    cameras = 0 if scene.cameras is None else len(scene.cameras.centers)
    said = f"The place as {plural(count, 'point')} with {plural(cameras, 'camera')} along the path"
    buttons = [
        tag("button", text, type="button", id=f"view-{name}", aria_pressed=pressed)
        for name, text, pressed in (
            ("reset", "Reset", None),
            ("fly", "Fly the path", "false"),
            ("cameras", "Cameras", "true"),
        )
    ]
    hint = "drag to turn · two fingers or right button to move · click, then wheel to zoom"
    return tag(
        "section",
        tag("h2", "The place"),
        tag(
            "figure",
            tag("img", src=still, alt=said, width=STILL_SIZE[0], height=STILL_SIZE[1]),
            tag("canvas", tabindex="0", role="img", aria_label=f"{said}; arrow keys turn it"),
            tag("div", buttons, class_="buttons"),
            tag("figcaption", hint),
            class_="viewer",
            id="viewer",
        ),
        id="place",
    )


def _scene_data(scene: Scene, view: Overview, most: int, seed: int) -> dict[str, Any]:
    """Return the cloud in 11 bytes per point: position 3 x uint16, color 3 x uint8, normal 2."""
    data: dict[str, Any] = {
        "center": _numbers(view.center),
        "eye": _numbers(view.eye),
        "up": _numbers(view.up),
        "radius": view.radius,
        "count": 0,
    }
    surface, cameras = scene.surface, scene.cameras
    if surface is not None:
        # Distant outliers would reduce the resolution of the quantized positions.
        near = np.linalg.norm(surface.xyz - view.center, axis=1) < 8 * view.radius
        rows = np.flatnonzero(near)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
        xyz = surface.xyz[rows].astype(np.float64)
        low = xyz.min(axis=0) if len(xyz) else np.zeros(3)
        extent = np.maximum(xyz.max(axis=0) - low, 1e-9) if len(xyz) else np.ones(3)
        data |= {
            "count": len(rows),
            "low": _numbers(low),
            "extent": _numbers(extent),
            "size": render.point_size(xyz, view.radius),
            "xyz": _base64(np.rint((xyz - low) / extent * 65535).astype("<u2")),
            "rgb": _base64(surface.rgb[rows]),
        }
        if surface.normals is not None:
            data["normals"] = _base64(octahedral(surface.normals[rows]))
    if cameras is not None:
        kept = np.unique(np.linspace(0, len(cameras.centers) - 1, 400).round().astype(int))
        data |= {
            "path": _numbers(cameras.centers[kept]),
            "frusta": _numbers(frusta(cameras, view.radius * 0.04)),
            "forward": _numbers(cameras.T_world_camera[kept, :3, 2]),
            "upward": _numbers(-cameras.T_world_camera[kept, :3, 1]),
            "half_height": cameras.field[1],
        }
    return data


def octahedral(normals: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return the octahedral encoding of unit vectors [N, 3], int8 [N, 2].

    Source: Cigolle et al., "A Survey of Efficient Representations for Independent Unit Vectors",
    JCGT 2014. Zero vectors become (0, 0), which decodes to +z.
    """
    length = np.maximum(np.abs(normals).sum(axis=1, keepdims=True), 1e-12)
    n = normals / length
    folded = (1 - np.abs(n[:, [1, 0]])) * np.where(n[:, :2] >= 0, 1, -1)
    square = np.where(n[:, 2:] >= 0, n[:, :2], folded)
    return np.rint(np.clip(square, -1, 1) * 127).astype(np.int8)


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _numbers(array: npt.NDArray[Any]) -> list[float]:
    return [float(f"{value:.6g}") for value in np.asarray(array, dtype=np.float64).ravel()]


def _map(facts: Facts, scene: Scene, cameras: Cameras) -> Markup:
    """Draw the path from above; north is the first camera's viewing direction."""
    up = upright(cameras)
    first = cameras.T_world_camera[0, :3, 2]
    north = first - up * (first @ up)
    if np.linalg.norm(north) < 0.1:
        north = cameras.T_world_camera[0, :3, 1] * -1
        north = north - up * (north @ up)
    north /= np.linalg.norm(north)
    axes = np.stack([np.cross(north, up), -north], axis=1)
    path = cameras.centers @ axes
    ground = path
    if scene.surface is not None and len(scene.surface.xyz) > 100:
        ground = np.concatenate([path, scene.surface.xyz[::20] @ axes])
    low, high = np.percentile(ground, [1, 99], axis=0)
    low, high = np.minimum(low, path.min(axis=0)), np.maximum(high, path.max(axis=0))
    # Avoid a sliver for a long narrow path: the short side is at least half the long one.
    extent = float(max((high - low).max(), 1e-9))
    middle = (low + high) / 2
    half = np.maximum((high - low) / 2, extent * 0.28) + 0.06 * extent
    scale = MAP_PX / (2 * half[0])
    height = round(2 * half[1] * scale)

    def to_px(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return (points - middle + half) * scale

    layers: list[Markup] = []
    if scene.surface is not None:
        heights = scene.surface.xyz @ up
        ceiling = float((cameras.centers @ up).max())
        shown = heights < ceiling + 0.05 * extent
        uv = to_px(scene.surface.xyz[shown] @ axes)
        dot = max(1.2, 0.5 * scale * render.point_size(scene.surface.xyz, extent / 2))
        layers.append(
            tag(
                "image",
                href=_ground(uv, heights[shown], scene.surface.rgb[shown], (MAP_PX, height), dot),
                width=MAP_PX,
                height=height,
            )
        )
    layers += _path(to_px(path), cameras, axes)
    unit = _unit_of(facts)
    layers.append(_scale_bar(scale, height, unit))
    length = float(np.linalg.norm(np.diff(cameras.centers, axis=0), axis=1).sum())
    return tag(
        "figure",
        tag(
            "svg",
            layers,
            viewBox=f"0 0 {MAP_PX} {height}",
            role="img",
            aria_label=f"The camera's path from above, {amount(length)} {unit} long",
        ),
        tag(
            "figcaption",
            f"The camera's path from above: {amount(length)} {unit} long, "
            f"{plural(len(path), 'view')}. Up is where the first view looked.",
        ),
        class_="card map",
    )


def _ground(
    uv: npt.NDArray[Any],
    heights: npt.NDArray[Any],
    rgb: npt.NDArray[np.uint8],
    size: tuple[int, int],
    dot_px: float,
) -> str:
    depth = np.full(size[::-1], np.inf, dtype=np.float32)
    index = np.full(size[::-1], -1, dtype=np.int32)
    # Seen from above, the highest point is nearest; depths must be above 0.
    z = (heights.max(initial=0) - heights + 1).astype(np.float32)
    radius = np.full(len(z), min(dot_px, 4), np.float32)
    render.splat(np.ascontiguousarray(uv, dtype=np.float32), z, radius, depth, index)
    picture = np.zeros((*size[::-1], 4), dtype=np.uint8)
    seen = index >= 0
    picture[seen, :3] = rgb[index[seen]][:, ::-1]
    picture[seen, 3] = 235
    data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 80])[1]
    return data_uri("image/webp", data.tobytes())


def _path(px: npt.NDArray[np.float64], cameras: Cameras, axes: npt.NDArray[Any]) -> list[Markup]:
    chosen = np.arange(0, len(px), max(1, -(-len(px) // 28)))
    ahead = cameras.T_world_camera[chosen, :3, 2] @ axes
    side = cameras.T_world_camera[chosen, :3, 0] @ axes
    wedges = []
    for at, forward, right in zip(px[chosen], ahead, side, strict=True):
        left, far = at + 20 * forward - 11 * right, at + 20 * forward + 11 * right
        points = f"{at[0]:.1f},{at[1]:.1f} {left[0]:.1f},{left[1]:.1f} {far[0]:.1f},{far[1]:.1f}"
        wedges.append(tag("polygon", points=points, class_="wedge"))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in px)
    return [
        *wedges,
        tag("polyline", points=line, class_="path-edge"),
        tag("polyline", points=line, class_="path"),
        tag("circle", cx=f"{px[0, 0]:.1f}", cy=f"{px[0, 1]:.1f}", r=7, class_="start"),
        tag("circle", cx=f"{px[-1, 0]:.1f}", cy=f"{px[-1, 1]:.1f}", r=7, class_="end"),
    ]


def _scale_bar(scale: float, height: int, unit: str) -> Markup:
    target = 110 / scale
    power = 10.0 ** np.floor(np.log10(target))
    length = max(p for p in (power, 2 * power, 5 * power) if p <= target * 1.0001)
    width = length * scale
    y = height - 18
    return tag(
        "g",
        tag("rect", x=10, y=y - 26, width=f"{width + 22:.0f}", height=36, rx=7, class_="plate"),
        tag("path", d=f"M20 {y - 6}v6h{width:.1f}v-6", class_="bar"),
        tag("text", f"{length:g} {unit}", x=f"{20 + width / 2:.1f}", y=y - 9),
        class_="scale",
    )


def _unit_of(facts: Facts) -> str:
    """Return `m` if the trajectory is marked as metric, else `units`."""
    with (facts.folder / "trajectory.tum").open(encoding="utf-8", errors="replace") as file:
        # Runs before version 0.2 use the British spelling.
        return "m" if re.search("unit met(er|re)", file.readline(200)) else "units"
