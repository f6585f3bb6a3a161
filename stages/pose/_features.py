"""Local features of gray images and their matches: SIFT with root normalization.

OpenCV extracts, BLAS matches. Measured at 640x360, one thread: 35 ms per image and 1 ms per pair
of 800 features, against 190 ms and 60 ms with COLMAP's own CPU extractor and matcher at the same
number of features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from pipeline.contract import Array

__all__ = ["Features", "extract", "match"]

SMALLEST_SIDE = 16
"""SIFT's pyramid finds nothing below this side length in px."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Features of one image, strongest first."""

    xy: Array
    """float32 [N, 2] px, pixel centers at 0.5."""
    descriptors: Array
    """float32 [N, D], unit length; D is 128 for SIFT."""

    def __len__(self) -> int:
        return len(self.xy)

    @classmethod
    def none(cls) -> Self:
        """Return no features."""
        return cls(xy=np.zeros((0, 2), np.float32), descriptors=np.zeros((0, 128), np.float32))


def extract(gray: Array, *, most: int, contrast: float = 0.013) -> Features:
    """Extract up to `most` SIFT features from a gray image, uint8 [H, W].

    The contrast threshold is a third of OpenCV's default, above which blurred and dim video has
    few features (measured: 400 against 1,500 on an aerial clip).
    """
    if min(gray.shape) < SMALLEST_SIDE:
        return Features.none()
    sift = cv2.SIFT_create(
        nfeatures=most, contrastThreshold=contrast, edgeThreshold=10, enable_precise_upscale=True
    )
    keypoints, descriptors = sift.detectAndCompute(gray, None)
    if descriptors is None or not len(keypoints):
        return Features.none()
    order = np.argsort([-k.response for k in keypoints], kind="stable")[:most]
    xy = np.array([keypoints[i].pt for i in order], np.float32) + 0.5
    # RootSIFT: the Hellinger kernel as a dot product (Arandjelovic and Zisserman, CVPR 2012).
    root = np.sqrt(descriptors[order] / np.maximum(descriptors[order].sum(1, keepdims=True), 1e-6))
    return Features(xy=xy, descriptors=root)


def match(a: Features, b: Features, *, ratio: float = 0.85) -> Array:
    """Return mutual nearest neighbors that pass Lowe's ratio test, int [M, 2].

    The test compares angles between descriptors, as COLMAP does.
    """
    if len(a) < 2 or len(b) < 2:
        return np.zeros((0, 2), np.int64)
    # Not numpy's `@`: its BLAS uses all cores regardless of the stage's thread count, and on a busy
    # CPU its waiting threads cost more than the product (measured: 15 ms against 0.2 ms).
    cosine = cv2.gemm(a.descriptors, b.descriptors, 1, None, 0, flags=cv2.GEMM_2_T)
    best = cosine.argmax(1)
    rows = np.arange(len(a))
    first = cosine[rows, best]
    # Comparing maxima is five times as fast as a second argmax across the rows.
    mutual = first >= cosine.max(0)[best]
    cosine[rows, best] = -1
    second = cosine.max(1)
    angle = np.arccos(np.clip(first, -1, 1))
    # 0.7 rad is COLMAP's maximum distance of a match.
    good = mutual & (angle < 0.7) & (angle < ratio * np.arccos(np.clip(second, -1, 1)))
    return np.stack([rows[good], best[good]], axis=1)
