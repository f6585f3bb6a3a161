"""Flow of large pictures in overlapping tiles, blended where they overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Tile", "blended", "tiles"]

Tile = tuple[slice, slice]
"""Rows and columns of a picture."""


def tiles(height: int, width: int, side: int, overlap: int) -> list[Tile]:
    """Cover a picture with equal tiles.

    Args:
        height: Of the picture, px.
        width: Of the picture, px.
        side: Longest side of a tile, px.
        overlap: By how much neighbors overlap at least, px; less than `side`.
    """
    rows, columns = (_spans(length, side, overlap) for length in (height, width))
    return [(row, column) for row in rows for column in columns]


def _spans(length: int, side: int, overlap: int) -> list[slice]:
    if length <= side:
        return [slice(0, length)]
    count = -(-(length - overlap) // (side - overlap))
    starts = np.linspace(0, length - side, count).round().astype(int)
    return [slice(int(start), int(start) + side) for start in starts]


def blended(parts: list[tuple[Tile, npt.NDArray[Any]]], height: int, width: int) -> Any:
    """Join the flows of tiles into float32 [height, width, 2]; each counts less towards its edge.

    Args:
        parts: Tiles, and the flow of each, float32 [h, w, 2] px.
        height: Of the picture, px.
        width: Of the picture, px.
    """
    if len(parts) == 1:
        return parts[0][1]
    total = np.zeros((height, width, 2), np.float32)
    weight = np.zeros((height, width, 1), np.float32)
    for (rows, columns), flow in parts:
        h, w = flow.shape[:2]
        inner = np.minimum.outer(_ramp(h), _ramp(w))[..., None]
        total[rows, columns] += inner * flow
        weight[rows, columns] += inner
    return total / weight


def _ramp(length: int) -> npt.NDArray[np.float32]:
    """Return the distance of each pixel to the nearer edge, px."""
    place = np.arange(length, dtype=np.float32)
    return np.minimum(place, length - 1 - place) + 1
