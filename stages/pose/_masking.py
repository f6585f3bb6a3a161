"""Excludes points on moving objects, which carry no information about the camera."""

from __future__ import annotations

import numpy as np

from pipeline.contract import Array

__all__ = ["at_rest"]


def at_rest(xy: Array, mask: Array) -> Array:
    """Return which points are outside a mask, bool [N].

    Args:
        xy: Points [N, 2] px; those outside the image are clamped to its border.
        mask: bool [H, W], True where something moves.
    """
    height, width = mask.shape
    finite = np.nan_to_num(xy, nan=-1, posinf=-1, neginf=-1)
    column = np.clip(finite[:, 0].astype(np.int64), 0, width - 1)
    line = np.clip(finite[:, 1].astype(np.int64), 0, height - 1)
    return ~mask[line, column]
