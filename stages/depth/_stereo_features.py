"""Sparse matches of a stereo pair, to check its rectification and find its disparity range."""

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
"""Maximum ratio of the distances of the best and second best match (Lowe, IJCV 2004)."""
LEAST_MATCHES = 8
"""Minimum number of matches of a pair; fewer are ignored."""
NEAR_MEDIAN_PX = 3.0
"""Matches whose vertical displacement differs more from the pair's median are mismatches."""


def matched_moves(left: Image, right: Image) -> Floats:
    """Return displacements (x, y) of features from left to right view, float64 [N, 2] px.

    Args:
        left: RGB, uint8 [H, W, 3].
        right: RGB, uint8 [H, W, 3].
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
    """Return the match of each descriptor that passes the ratio test."""
    return {
        best.queryIdx: best.trainIdx
        for best, second in matcher.knnMatch(words, others, k=2)
        if best.distance < RATIO * second.distance
    }
