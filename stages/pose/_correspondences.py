"""Merge detector-free correspondences into features that several pairs share.

A detector-free matcher localizes a point independently in each pair. Structure from motion needs
the same point in many images, so points within a small radius in one image become one feature,
at the position of the most confident one, as hloc does with LoFTR (`match_dense`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from pipeline.contract import Array
from stages.pose._features import Features
from stages.pose._front_end import PairMatches

__all__ = ["MERGE_PX", "Correspondences", "features_of"]

MERGE_PX = 0.5
"""Points of one image closer than this are merged, in pixels of the matcher's input image.
Measured on ten keyframes of a rendered room with exact correspondences of every eighth pixel,
perturbed by 0.3 px (0.7 px): trajectory error at 0.25 px 0.09 % (0.36 %), at 0.5 px 0.14 %
(0.20 %), at 0.75 px 0.54 % (0.78 %), at hloc's 1 px 0.98 % (3.3 %): points from many pairs are so
dense that a larger radius merges unrelated ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Correspondences:
    """The same points in two images."""

    i: int
    j: int
    xy_i: Array
    """float32 [M, 2] px, pixel centers at 0.5."""
    xy_j: Array
    """float32 [M, 2] px."""
    score: Array
    """float32 [M]: confidence, higher is better."""


def features_of(
    found: list[Correspondences], count: int, *, radius_px: float = MERGE_PX
) -> tuple[list[Features], list[PairMatches]]:
    """Merge the points of each image, and return the matches between the merged features.

    Args:
        found: Correspondences of the pairs.
        count: Number of images.
        radius_px: Merge radius in image pixels.

    Returns:
        The features of every image, the most confident first and without descriptors; and the
        matches of each pair, in the order given, at most one per feature.
    """
    # Endpoints of all correspondences, per image: one entry for each pair.
    ends: list[list[tuple[Array, Array]]] = [[] for _ in range(count)]
    for one in found:
        ends[one.i].append((one.xy_i, one.score))
        ends[one.j].append((one.xy_j, one.score))
    features, numbers = [], []
    for image in ends:
        xy = np.concatenate([np.zeros((0, 2), np.float32), *(xy for xy, _ in image)])
        score = np.concatenate([np.zeros(0, np.float32), *(score for _, score in image)])
        kept, which = _merged(xy, score, radius_px)
        features.append(Features(xy=xy[kept], descriptors=np.zeros((len(kept), 0), np.float32)))
        lengths = np.cumsum([len(part) for part, _ in image])[:-1]
        numbers.append(iter(np.split(which, lengths) if image else []))
    return features, [
        PairMatches(i=one.i, j=one.j, matches=_unique(pair, one.score))
        for one in found
        for pair in [np.stack([next(numbers[one.i]), next(numbers[one.j])], axis=1)]
    ]


def _merged(xy: Array, score: Array, radius_px: float) -> tuple[Array, Array]:
    """Return the rows that are kept, the best first, and the kept row that each row is merged into.

    A row is kept unless a better kept row is within the radius; it is merged into the nearest.
    """
    if not len(xy):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(-score, kind="stable")
    near = cKDTree(xy[order]).query_ball_point(xy[order], radius_px)
    stays = np.ones(len(xy), bool)
    for rank, others in enumerate(near):
        if stays[rank]:
            stays[[other for other in others if other > rank]] = False
    kept = order[stays]
    _, which = cKDTree(xy[kept]).query(xy)
    return kept, which.astype(np.int64)


def _unique(matches: Array, score: Array) -> Array:
    """Return the rows [M, 2] that have the best score for their feature on both sides."""
    rows = np.argsort(-score, kind="stable")
    for side in (0, 1):
        _, first = np.unique(matches[rows, side], return_index=True)
        rows = rows[np.sort(first)]
    return matches[np.sort(rows)]
