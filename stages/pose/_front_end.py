"""Front ends, which provide features and their matches: SIFT or learned networks.

A front end extracts features from every keyframe and matches them between selected pairs. What
follows is the same for all: two-view geometric verification, parallax evidence, mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from pipeline.contract import Array, Keyframes
from stages.pose._features import Features, extract, match
from stages.pose._masking import at_rest

__all__ = ["FrontEnd", "PairMatches", "SiftFrontEnd", "drop_invalid", "valid_points"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairMatches:
    """Putative matches of two images, before geometric verification."""

    i: int
    j: int
    matches: Array
    """int [M, 2]: indices of the features in image i and in image j."""


class FrontEnd(Protocol):
    """Extracts features and matches them."""

    detects: bool
    """Whether the features of `describe` are the ones that are matched. Where they only serve to
    select pairs, too few of them is not a reason to give up."""
    sure: int
    """Neighbors within a shot that are matched regardless of their features."""

    def describe(
        self, keyframes: Keyframes, most: int, found: Callable[[int], None]
    ) -> list[Features]:
        """Return up to `most` features per keyframe; `found` is called with the index of each."""
        ...

    def match(
        self, keyframes: Keyframes, features: list[Features], pairs: list[tuple[int, int]]
    ) -> tuple[list[Features], Iterable[PairMatches]]:
        """Return the features, and the matches of the pairs, in order, as indices into them."""
        ...


class SiftFrontEnd:
    """SIFT and nearest-neighbor matching (`_features.py`)."""

    detects = True
    sure = 2

    def describe(
        self, keyframes: Keyframes, most: int, found: Callable[[int], None]
    ) -> list[Features]:
        """Return SIFT features of each keyframe."""
        features = []
        for i, image in enumerate(keyframes.images):
            features.append(extract(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), most=most))
            found(i)
        return drop_invalid(keyframes, features)

    def match(
        self, keyframes: Keyframes, features: list[Features], pairs: list[tuple[int, int]]
    ) -> tuple[list[Features], Iterator[PairMatches]]:
        """Return nearest neighbors, computed lazily for each pair."""
        del keyframes
        return features, (
            PairMatches(i=i, j=j, matches=match(features[i], features[j])) for i, j in pairs
        )


def valid_points(keyframes: Keyframes, i: int, xy: Array) -> Array:
    """Return which points [N, 2] px of keyframe i are valid, bool [N].

    Applied to the keypoints of every front end: valid ones are finite, inside the image and not on
    a moving object.
    """
    height, width = keyframes.images.shape[1:3]
    # NaN compares as False.
    inside: Array = np.all((xy >= 0) & (xy <= (width, height)), axis=1)
    if keyframes.masks is None:
        return inside
    return inside & at_rest(xy, keyframes.masks[i])


def drop_invalid(keyframes: Keyframes, features: list[Features]) -> list[Features]:
    """Return the features with valid points and finite descriptors."""
    result = []
    for i, some in enumerate(features):
        rows = valid_points(keyframes, i, some.xy) & np.isfinite(some.descriptors).all(axis=1)
        if not rows.all():
            some = replace(some, xy=some.xy[rows], descriptors=some.descriptors[rows])
        result.append(some)
    return result
