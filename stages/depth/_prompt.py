"""Rough depth maps as network prompts: sparse points and triangulated depth, densified."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.depth._align import Anchors
from stages.depth._fill import extended

__all__ = ["prompt_of"]

Map = npt.NDArray[np.float32]

LONG_SIDE = 256
"""Longer side of a prompt in px, that of the depth sensor used in training (Lin et al. 2024)."""


def prompt_of(anchors: Anchors, size: tuple[int, int], geometry: Map | None) -> Map:
    """Return a dense depth map float32 [h, w] in the units of the views.

    Args:
        anchors: Measured depths, at least one.
        size: (height, width) of the view, px.
        geometry: Triangulated depth [H, W] of the view, NaN unknown; None if there is none.
    """
    scale = min(LONG_SIDE / max(size), 1.0)
    rows, columns = (max(round(side * scale), 1) for side in size)
    # Means of inverse depth, which is linear in the image along a plane.
    total, count = np.zeros((rows, columns)), np.zeros((rows, columns))
    column, row = np.floor(anchors.xy * ((columns, rows) / np.array(size[::-1]))).astype(int).T
    np.add.at(total, (row, column), 1 / anchors.z)
    np.add.at(count, (row, column), 1)
    if geometry is not None:
        dense, share = _reduced(geometry, (columns, rows))
        total, count = np.where(share > 0, dense, total), np.where(share > 0, 1, count)
    known = count > 0
    near = np.divide(total, count, out=np.zeros_like(total), where=known)
    middle = float(np.median(near[known]))
    smooth = extended((near - middle).astype(np.float32), known, float(max(rows, columns)))
    # A membrane stays within the range of its fixed values, and fades to their median.
    return (1 / (smooth + np.float32(middle))).astype(np.float32)


def _reduced(depth: Map, size: tuple[int, int]) -> tuple[Map, Map]:
    """Return the mean inverse depth of the known pixels under each pixel, and their share."""
    known = np.isfinite(depth)
    near = np.divide(1, depth, out=np.zeros_like(depth), where=known)
    share = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(near, size, interpolation=cv2.INTER_AREA)
    return np.divide(total, share, out=np.zeros_like(total), where=share > 0), share
