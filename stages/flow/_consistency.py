"""How far to trust a flow: does the way back lead to where it began?

The forward-backward error of a pixel p is e = |f(p) + b(p + f(p))|, where f is the flow from t to
t+1 and b the flow back. Sundaram, Brox and Keutzer (ECCV 2010, eq. 5) call p occluded where

    e² > 0.01 (|f|² + |b|²) + 0.5 px².

The confidence is 2^(-e² / that bound): 1 where both flows agree, 0.5 on their border, and 0 where
p leaves the image. It says nothing of blank walls, where two flows may agree on nothing.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["confidence", "confidence_of"]

FloatArray = npt.NDArray[Any]

RELATIVE = 0.01
ABSOLUTE_PX2 = 0.5
OUTSIDE_PX = 0.5
"""A pixel leaves the image when its center passes the outer edge of the border pixels."""


def confidence(forward: FloatArray, backward: FloatArray) -> FloatArray:
    """Return float32 [H, W] in 0..1 of a dense flow [H, W, 2] px, given the flow back."""
    h, w = forward.shape[:2]
    fx, fy = cv2.split(forward)
    map_x = fx + np.arange(w, dtype=np.float32)
    map_y = fy + np.arange(h, dtype=np.float32)[:, None]
    back = cv2.remap(
        backward, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).reshape(h, w, 2)
    bx, by = cv2.split(back)
    found = confidence_of(fx, fy, bx, by)
    low, high = -OUTSIDE_PX, OUTSIDE_PX - 1
    inside_x = cv2.inRange(map_x, low, w + high)
    inside_y = cv2.inRange(map_y, low, h + high)
    found[cv2.bitwise_and(inside_x, inside_y) == 0] = 0
    return found


def confidence_of(fx: FloatArray, fy: FloatArray, bx: FloatArray, by: FloatArray) -> FloatArray:
    """Return the confidence of flows (fx, fy) whose ways back are (bx, by), any equal shapes."""
    error = (fx + bx) ** 2 + (fy + by) ** 2
    bound = fx * fx + fy * fy
    bound += bx * bx + by * by
    bound *= RELATIVE
    bound += ABSOLUTE_PX2
    error /= bound
    error *= -math.log(2)
    return np.exp(error, out=error)
