"""A few hundred trustworthy flow vectors of a pair, spread evenly over the image.

The image is cut into cells, `ACROSS` to a row, and each cell gives the flow where its texture is
strongest. Coordinates have their origin in the middle of the image and are measured in image
widths, so that nothing that follows depends on the resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["FlowSamples", "sample_flow"]

Array = npt.NDArray[Any]

ACROSS = 40
FINE = 4
"""Texture is measured on an image of up to `FINE` pixels a cell side: what DIS works on."""
TEXTURE_LEVELS = 2.0
"""Gradient in gray levels a pixel at which a sample counts half: compression noise lies below."""
BLANK_WEIGHT = 0.02
"""What a sample without any texture still counts, so that a blank image has a fit at all."""
WORKING_WIDTH = 640
SPARSE_SHARE = 0.5
"""If fewer cells than this know the flow at their sample, the model is a sparse one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSamples:
    """Flow at N points of one pair; lengths are in image widths."""

    at: Array
    """float64 [N, 2]: the middle between where the point was and where it went. About it a
    rotation or zoom of any size is linear in the position up to third order."""
    flow: Array
    """float64 [N, 2]"""
    weight: Array
    """float64 [N] in 0..1: confidence squared times texture."""
    confidence: Array
    """float64 [N] in 0..1"""
    cell: Array
    """int64 [N, 2]: row and column of the cell."""
    cells: tuple[int, int]
    """Rows and columns of the grid of cells."""
    pixel: float
    """The pixel, in widths, in which the error of the flow is measured: the frame's own, or that
    of a frame 640 wide, since larger ones have their flow computed at about that size."""


def sample_flow(flow: Array, confidence: Array, image: Array) -> FlowSamples:
    """Sample the flow [H, W, 2] px of one pair, with confidence [H, W] and first image [H, W, 3].

    A sparse flow gives its known points instead; there may be none.
    """
    h, w = confidence.shape
    step = max(1, round(w / ACROSS))
    reduce = max(1, step // FINE)
    n = step // reduce
    size = (max(w // reduce, 1), max(h // reduce, 1))
    texture = _texture(image, size)
    rows, columns = max(size[1] // n, 1), max(size[0] // n, 1)
    tall, wide = min(n, size[1]), min(n, size[0])
    cells = texture[: rows * tall, : columns * wide].reshape(rows, tall, columns, wide)
    cells = cells.transpose(0, 2, 1, 3).reshape(rows * columns, tall * wide)
    strongest = cells.argmax(axis=1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    y = (row * tall + strongest // wide) * reduce + reduce // 2
    x = (column * wide + strongest % wide) * reduce + reduce // 2
    y, x = np.minimum(y, h - 1), np.minimum(x, w - 1)
    energy = cells[np.arange(len(cells)), strongest]
    known = np.isfinite(flow[y, x, 0])
    if known.mean() < SPARSE_SHARE:
        y, x = np.nonzero(confidence > 0)
        row = np.minimum(y // (tall * reduce), rows - 1)
        column = np.minimum(x // (wide * reduce), columns - 1)
        energy = np.full(len(y), np.inf)
        known = np.ones(len(y), bool)
    y, x, row, column, energy = y[known], x[known], row[known], column[known], energy[known]
    moved = flow[y, x].astype(np.float64) / w
    center = np.stack([x + 0.5 - w / 2, y + 0.5 - h / 2], axis=1) / w
    sure = confidence[y, x].astype(np.float64)
    textured = 1 / (1 + TEXTURE_LEVELS**2 / np.maximum(energy, 1e-9)) + BLANK_WEIGHT
    return FlowSamples(
        at=center + moved / 2,
        flow=moved,
        weight=sure**2 * np.minimum(textured, 1.0),
        confidence=sure,
        cell=np.stack([row, column], axis=1),
        cells=(rows, columns),
        pixel=1 / min(w, WORKING_WIDTH),
    )


def _texture(image: Array, size: tuple[int, int]) -> Array:
    """Return the squared gradient of the luma at a reduced size, in gray levels a pixel."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    dx = cv2.Sobel(gray, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(gray, cv2.CV_32F, 0, 1, scale=1 / 8)
    return dx * dx + dy * dy
