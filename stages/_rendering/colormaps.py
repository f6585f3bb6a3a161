"""Standard color maps of flow and depth."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "UNKNOWN_RGB",
    "color_wheel",
    "depth_colors",
    "flow_colors",
    "flow_planes",
    "has_no_gap",
    "inverse_depth_range",
]

UNKNOWN_RGB = (84, 84, 88)
"""Color of unknown values, dark gray, which neither scale contains."""

ANGLES, RADII = 512, 128

PLANE_REACH = 3.0
"""Largest component of flow in the table of planes, in units of the scale."""
PLANE_SIDE = 769
"""Entries along each axis of the table of planes: 128 per unit of the scale."""
PLANE_BLOCK = 64

Bytes = npt.NDArray[np.uint8]


def color_wheel() -> npt.NDArray[np.float64]:
    """Return the 55 colors of the wheel, float64 [55, 3] in 0..1.

    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011;
    the numbers of steps are those of Middlebury's `colorcode.cpp`, as in torchvision.
    """
    parts = []
    # Each segment keeps one channel at 1 while another rises or falls.
    for steps, full, moving, rises in (
        (15, 0, 1, True),
        (6, 1, 0, False),
        (4, 1, 2, True),
        (11, 2, 1, False),
        (13, 2, 0, True),
        (6, 0, 2, False),
    ):
        part = np.zeros((steps, 3))
        ramp = np.floor(255 * np.arange(steps) / steps) / 255
        part[:, full] = 1
        part[:, moving] = ramp if rises else 1 - ramp
        parts.append(part)
    return np.concatenate(parts)


@cache
def _flow_table() -> npt.NDArray[np.uint8]:
    """Return the color of every (angle, radius), uint8 [ANGLES * RADII, 3]."""
    wheel = color_wheel()
    n = len(wheel)
    # OpenCV measures the angle of (u, v) from 0 to 2 pi; the wheel starts at (-1, 0).
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    position = (np.arctan2(-np.sin(angle), -np.cos(angle)) / np.pi + 1) / 2 * (n - 1)
    low = np.floor(position).astype(int)
    share = (position - low)[:, None]
    hue = (1 - share) * wheel[low % n] + share * wheel[(low + 1) % n]
    radius = np.linspace(0, 1, RADII)[None, :, None]
    table = np.floor(255 * (1 - radius * (1 - hue[:, None]))).astype(np.uint8)
    return table.reshape(-1, 3)


def flow_colors(flow: npt.NDArray[np.float32], scale_px: float) -> npt.NDArray[np.uint8]:
    """Color flow [H, W, 2] by direction and, up to `scale_px`, by magnitude; RGB [H, W, 3].

    Unknown flow (NaN) is dark gray. The table differs from the exact formula by at most 5 gray
    levels.
    """
    u, v = cv2.split(flow)
    magnitude, angle = cv2.cartToPolar(u, v)
    known = np.isfinite(magnitude)
    if not known.all():
        magnitude, angle = np.where(known, magnitude, 0), np.where(known, angle, 0)
    row = (angle * np.float32(ANGLES / (2 * np.pi)) + np.float32(0.5)).astype(np.int32)
    radius = np.minimum(magnitude * np.float32((RADII - 1) / scale_px), RADII - 1)
    column = (radius + np.float32(0.5)).astype(np.int32)
    colors = np.take(_flow_table(), (row & (ANGLES - 1)) * RADII + column, axis=0)
    if not known.all():
        colors[~known] = UNKNOWN_RGB
    return colors


@cache
def _plane_tables() -> tuple[Bytes, Bytes]:
    """Return tables of luma [SIDE, SIDE] and chroma [SIDE, SIDE, 2] of flow (u along columns)."""
    luma = np.empty((PLANE_SIDE, PLANE_SIDE), np.uint8)
    chroma = np.empty((PLANE_SIDE, PLANE_SIDE, 2), np.uint8)
    wheel = color_wheel().astype(np.float32)
    step, n = np.roll(wheel, -1, axis=0) - wheel, len(wheel)
    axis = np.linspace(-PLANE_REACH, PLANE_REACH, PLANE_SIDE, dtype=np.float32)
    # In blocks, since the whole table in floating point would take 30 MB.
    for first in range(0, PLANE_SIDE, PLANE_BLOCK):
        rows = slice(first, first + PLANE_BLOCK)
        v = axis[rows, None]
        position = (np.arctan2(-v, -axis) / np.float32(np.pi) + 1) * np.float32((n - 1) / 2)
        low = position.astype(np.int32)
        hue = wheel[low] + (position - low)[..., None] * step[low]
        radius = np.minimum(np.hypot(axis, v), 1)[..., None]
        luma[rows], chroma[rows] = _yuv(1 - radius * (1 - hue))
    return luma, chroma


def _yuv(rgb: npt.NDArray[Any]) -> tuple[Bytes, Bytes]:
    """Convert colors [..., 3] in 0..1 to 8 bits of limited range (BT.709); luma and chroma."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    chroma = np.stack([(b - y) / 1.8556, (r - y) / 1.5748], axis=-1)
    return np.uint8(16.5 + 219 * y), np.uint8(128.5 + 224 * chroma)  # type: ignore[return-value]


def has_no_gap(flow: npt.NDArray[np.float32]) -> bool:
    """Return whether every vector of a flow [H, W, 2] is known."""
    return math.isfinite(sum(cv2.sumElems(flow)))


def _at_size(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize [h, w, ...] to a height and width."""
    rows, columns = size[0] - values.shape[0], size[1] - values.shape[1]
    if rows in (0, 1) and columns in (0, 1):
        # A missing row or column replicates the border.
        border = (0, rows, 0, columns, cv2.BORDER_REPLICATE)
        return cv2.copyMakeBorder(values, *border) if rows or columns else values
    # Nearest, since interpolation with unknown neighbors would give unknown flow.
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST)


def flow_planes(
    flow: npt.NDArray[np.float32],
    scale_px: float,
    size: tuple[int, int],
    known: npt.NDArray[np.bool_] | None = None,
) -> tuple[Bytes, Bytes, Bytes]:
    """Color flow [h, w, 2] like `flow_colors`, as planes for a video encoder.

    Equivalent to a conversion to 4:2:0 at an eighth of the cost: luma and chroma are read from a
    table by (u, v), chroma at every second pixel.

    Args:
        flow: Flow in px.
        scale_px: Magnitude of flow with full saturation, px.
        size: Even height and width of the image.
        known: Where flow is known [h, w]; None if everywhere.

    Returns:
        Luma [H, W], Cb and Cr [H/2, W/2].
    """
    height, width = size
    if known is not None:
        flow = np.where(known[..., None], flow, np.float32(0))
        known = _at_size(known.view(np.uint8), size) > 0
    flow = _at_size(flow, size)
    if cv2.norm(flow, cv2.NORM_INF) > PLANE_REACH * scale_px:
        length = np.hypot(flow[..., :1], flow[..., 1:])
        flow = flow * np.minimum(1, scale_px / np.maximum(length, np.float32(1e-9)))
    middle = (PLANE_SIDE - 1) / 2
    at = flow * np.float32(middle / (PLANE_REACH * scale_px))
    at += np.float32(middle)
    coarse = cv2.resize(at, (width // 2, height // 2), interpolation=cv2.INTER_NEAREST)
    luma_of, chroma_of = _plane_tables()
    luma: Any = cv2.remap(luma_of, at, None, cv2.INTER_NEAREST)
    chroma: Any = cv2.remap(chroma_of, coarse, None, cv2.INTER_NEAREST)
    if known is not None:
        gray, tint = _yuv(np.array(UNKNOWN_RGB) / 255)
        luma[~known] = gray
        chroma[~known[::2, ::2]] = tint
    return luma, *cv2.split(chroma)  # type: ignore[return-value]


def inverse_depth_range(depth: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the range of 1/depth without the outer 2 % on either side.

    One in 16 pixels is sampled. If no depth is known the range is (0, 1).
    """
    sample = depth[..., ::4, ::4]
    sample = sample[np.isfinite(sample) & (sample > 0)]
    if sample.size == 0:
        return 0.0, 1.0
    far, near = np.percentile(1 / sample.astype(np.float64), [2, 98])
    return float(far), float(max(near, far * 1.05))


def depth_colors(depth: npt.NDArray[Any], inverse: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Color one depth map [H, W] by inverse depth, red near and blue far; RGB [H, W, 3].

    Args:
        depth: Depth in any unit; NaN, infinite and non-positive values are unknown: dark gray.
        inverse: Inverse depths of the far and the near end of the scale.
    """
    known = np.isfinite(depth) & (depth > 0)
    far, near = inverse
    nearness = (1 / np.where(known, depth, 1) - far) / (near - far)
    levels = (np.clip(nearness, 0, 1) * 255).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    colors[~known] = UNKNOWN_RGB
    return colors  # type: ignore[return-value]
