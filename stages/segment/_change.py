"""How much a picture changes between two frames beyond what the camera's motion explains.

Flow in dull places is a guess, and of what moves fast it is wrong. What changes is seen in either
case: the next frame, brought back by the motion of the dominant plane and to the same exposure,
less the frame itself.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.contract import Array

__all__ = ["beyond", "change"]

WINDOW_PX = 5
SLIDES_PX = 0.7
"""How far an edge may seem to slide without anything moving: registration is no better."""
LEAST_NOISE = 1.0
"""Gray levels."""
TIMES_NOISE = 4.0
SAMPLE = 4
"""One pixel in so many of each row and column tells the exposure."""
DARK, LEAST_SAMPLES = 8, 20
"""Gray levels below which a ratio tells nothing, and how many pixels must tell."""


def change(gray: Array, after: Array, H: Array) -> tuple[Array, float]:
    """Return the change of each pixel, float32 [H, W] gray levels, and its median (the noise).

    Args:
        gray: uint8 [H, W], the frame.
        after: uint8 [H, W], the next one.
        H: [3, 3], takes pixels (centers at 0.5) of the first to the second.
    """
    height, width = gray.shape
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    # OpenCV's pixel centers lie at whole numbers.
    back = np.linalg.inv(half) @ H @ half
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpPerspective(np.ones_like(gray), back, (width, height), flags=flags) > 0
    moved = cv2.warpPerspective(after, back, (width, height), flags=flags).astype(np.float32)
    here = gray.astype(np.float32)
    difference = np.abs(_exposure(moved, here, seen) * moved - here)
    dx = cv2.Sobel(here, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(here, cv2.CV_32F, 0, 1, scale=1 / 8)
    difference = np.maximum(difference - SLIDES_PX * np.hypot(dx, dy), 0)
    difference = cv2.blur(difference, (WINDOW_PX, WINDOW_PX))
    noise = float(np.median(difference[seen])) if seen.any() else np.inf
    return np.where(seen, difference, 0).astype(np.float32), noise


def beyond(difference: Array, noise: float) -> Array:
    """Return a change in units of what noise may do: above 1 it is more."""
    return difference / np.float32(TIMES_NOISE * max(1.4826 * noise, LEAST_NOISE))


def _exposure(moved: Array, here: Array, seen: Array) -> float:
    """Return the factor that brings one picture to the exposure of another: the median ratio.

    A gain before the curve of a display (a power) is a gain after it.
    """
    good = seen & (moved > DARK) & (here > DARK)
    good = good[::SAMPLE, ::SAMPLE]
    if np.count_nonzero(good) < LEAST_SAMPLES:
        return 1.0
    return float(np.median(here[::SAMPLE, ::SAMPLE][good] / moved[::SAMPLE, ::SAMPLE][good]))
