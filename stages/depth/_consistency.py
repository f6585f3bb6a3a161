"""Consistency checks between the depth maps of neighboring views; shared by the models."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.depth._kernels import kernel

__all__ = ["drop_speckles", "keep_consistent"]


@kernel()
def keep_consistent(near, others, A, b, tolerance, least, out):
    """Fill `out` float32 [H, W] with the inverse depths that other views confirm; 0 elsewhere.

    A view confirms a point if its own map has the same depth there, within `tolerance`. It
    contradicts the point if its own surface is far behind it. A surface in front of the point is
    neutral. A point is kept with at least `least` confirmations, and more of them than
    contradictions.

    `near` float32 [H, W] is the inverse depth of this view, 0 unknown; `others` [N, H, W] are those
    of its neighbors, to whose pixels A [N, 3, 3] and b [N, 3] map.
    """
    count, rows, columns = others.shape
    for y in range(rows):
        v = y + 0.5
        for x in range(columns):
            u = x + 0.5
            w = near[y, x]
            out[y, x] = 0
            if w <= 0:
                continue
            confirmed, denied = 0, 0
            for k in range(count):
                qz = A[k, 2, 0] * u + A[k, 2, 1] * v + A[k, 2, 2] + w * b[k, 2]
                if qz <= 1e-6:
                    continue
                qx = (A[k, 0, 0] * u + A[k, 0, 1] * v + A[k, 0, 2] + w * b[k, 0]) / qz
                qy = (A[k, 1, 0] * u + A[k, 1, 1] * v + A[k, 1, 2] + w * b[k, 1]) / qz
                column, row = int(np.floor(qx)), int(np.floor(qy))
                if column < 0 or row < 0 or column >= columns or row >= rows:
                    continue
                other = others[k, row, column]
                if other <= 0:
                    continue
                # The point's depth in the other view is qz / w: ratio of its depth to the map's.
                ratio = qz / w * other
                if abs(ratio - 1) < tolerance:
                    confirmed += 1
                elif ratio < 1 - 3 * tolerance:
                    denied += 1
            if confirmed >= least and confirmed > denied:
                out[y, x] = w


def drop_speckles(
    near: npt.NDArray[np.float32], size_px: int, step: float
) -> npt.NDArray[np.float32]:
    """Return inverse depths [H, W] without connected patches smaller than `size_px` pixels.

    Neighboring pixels are connected if their depths differ by less than `step` (a share).
    """
    # The logarithm turns a ratio into a difference; 16 bits hold 14 e-foldings at half a percent.
    known = near > 0
    if not known.any():
        return near
    reference = float(np.median(near[known]))
    unit = step / 4
    log = np.zeros(near.shape, np.float32)
    np.log(near / reference, out=log, where=known)
    levels = np.where(known, np.clip(np.rint(log / unit), -32000, 32000), -32768).astype(np.int16)
    cv2.filterSpeckles(levels, -32768, size_px, 4)
    return np.where(levels > -32768, near, np.float32(0))
