"""Boxes in images: left, top, right, bottom in px."""

from __future__ import annotations

import numpy as np

from pipeline.contract import Array

__all__ = ["box_of", "overlap_of"]


def box_of(mask: Array) -> Array:
    """Return the box, float32 [4], of a mask [H, W] with at least one pixel."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def overlap_of(a: Array, b: Array) -> float:
    """Return the intersection over union of two boxes [4]."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / total if total > 0 else 0.0
