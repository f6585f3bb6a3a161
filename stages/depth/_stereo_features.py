"""A few features matched between the views of a stereo pair: are they rectified, how near is it?"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_MATCHES", "matched_moves"]

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

FEATURES = 500
LONGEST_SIDE_PX = 640
RATIO = 0.75
"""The best match must be so much nearer than the second best (Lowe, IJCV 2004)."""
LEAST_MATCHES = 8
"""Of a pair; fewer say nothing."""
NEAR_MEDIAN_PX = 3.0
"""Vertical moves of a pair that differ more from their median are mismatches."""


def matched_moves(left: Image, right: Image) -> Floats:
    """Return the moves (x, y) of features from the left to the right view, float64 [N, 2] px.

    Args:
        left: RGB, uint8 [H, W, 3].
        right: The same.
    """
    scale = min(1.0, LONGEST_SIDE_PX / max(left.shape[:2]))
    sift = cv2.SIFT.create(FEATURES)
    (points, words), (others, other_words) = (
        sift.detectAndCompute(_reduced(view, scale), None) for view in (left, right)
    )
    none = np.empty((0, 2))
    if min(len(points), len(others)) < LEAST_MATCHES:
        return none
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    there, back = (_best(matcher, *pair) for pair in ((words, other_words), (other_words, words)))
    moves = [np.subtract(others[j].pt, points[i].pt) for i, j in there.items() if back.get(j) == i]
    if len(moves) < LEAST_MATCHES:
        return none
    found = np.array(moves) / scale
    sound = np.abs(found[:, 1] - np.median(found[:, 1])) <= NEAR_MEDIAN_PX / scale
    return found[sound]


def _reduced(image: Image, scale: float) -> Image:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale == 1:
        return gray
    return cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _best(matcher: cv2.BFMatcher, words: Floats, others: Floats) -> dict[int, int]:
    """Return the match of each word that has one plainly better than the rest."""
    return {
        best.queryIdx: best.trainIdx
        for best, second in matcher.knnMatch(words, others, k=2)
        if best.distance < RATIO * second.distance
    }
