"""Front ends: where features and their matches come from. SIFT is one, learned networks others.

A front end finds features in every keyframe and matches them between the pairs that are worth it.
All that follows is the same for each: verification by one geometry, evidence of parallax, mapping.
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
    """What a front end takes for the same points in two images, before any geometry is asked."""

    i: int
    j: int
    matches: Array
    """int [M, 2]: numbers of the features in image i and in image j."""


class FrontEnd(Protocol):
    """Finds features and matches them."""

    detects: bool
    """Whether the features of `describe` are those that are matched. Where they only tell which
    images are alike, few of them are no reason to give up."""
    sure: int
    """Neighbors within a shot that are matched whatever the features say."""

    def describe(
        self, keyframes: Keyframes, most: int, found: Callable[[int], None]
    ) -> list[Features]:
        """Return up to `most` features of each keyframe; `found` takes the number of each done."""
        ...

    def match(
        self, keyframes: Keyframes, features: list[Features], pairs: list[tuple[int, int]]
    ) -> tuple[list[Features], Iterable[PairMatches]]:
        """Return the matches of the pairs, in their order, and the features that they number."""
        ...


class SiftFrontEnd:
    """SIFT and its nearest neighbors (`_features.py`)."""

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
        """Return nearest neighbors, each pair when it is asked for."""
        del keyframes
        return features, (
            PairMatches(i=i, j=j, matches=match(features[i], features[j])) for i, j in pairs
        )


def valid_points(keyframes: Keyframes, i: int, xy: Array) -> Array:
    """Return which points [N, 2] px of keyframe i may take part, bool [N].

    The keypoints of every front end pass here: they are numbers, lie on the picture, and on nothing
    that moves.
    """
    height, width = keyframes.images.shape[1:3]
    # What is no number compares as False.
    inside: Array = np.all((xy >= 0) & (xy <= (width, height)), axis=1)
    if keyframes.masks is None:
        return inside
    return inside & at_rest(xy, keyframes.masks[i])


def drop_invalid(keyframes: Keyframes, features: list[Features]) -> list[Features]:
    """Return the features whose points are admitted and whose descriptors are numbers."""
    result = []
    for i, some in enumerate(features):
        rows = valid_points(keyframes, i, some.xy) & np.isfinite(some.descriptors).all(axis=1)
        if not rows.all():
            some = replace(some, xy=some.xy[rows], descriptors=some.descriptors[rows])
        result.append(some)
    return result
