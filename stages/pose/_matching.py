"""Selection of keyframe pairs that overlap, and geometric verification of their matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.contract import Array
from pipeline.errors import later
from stages.pose._features import Features, match
from stages.pose._front_end import PairMatches

pycolmap = later("pycolmap")

__all__ = ["Pair", "choose_pairs", "verify"]

COARSE = 256
"""Number of strongest features per image used to estimate overlap."""
COARSE_MATCHES = 10
"""Coarse matches that indicate overlap (measured: unrelated images have 0 to 4)."""
LOOPS = 2
"""Number of best distant partners per image."""
MIN_INLIERS = 15
"""COLMAP's default: fewer verified matches of a pair are considered chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two overlapping images."""

    i: int
    j: int
    geometry: pycolmap.TwoViewGeometry
    inliers: Array
    """int [M, 2]: indices of the matching features, geometrically verified."""


def choose_pairs(
    features: list[Features], shot: Array, *, overlap: int, exhaustive: bool, sure: int = 2
) -> list[tuple[int, int]]:
    """Return the pairs worth matching in full, nearest first.

    Candidates are neighbors up to `overlap` apart, then gaps of powers of two, then for each image
    its best distant partners (a loop, another shot of the same place). They are filtered by a
    quick match of the strongest features, except neighbors up to `sure` apart within a shot.
    `exhaustive` considers all pairs.
    """
    count = len(features)
    few = [Features(xy=f.xy[:COARSE], descriptors=f.descriptors[:COARSE]) for f in features]
    gaps = set(range(1, overlap + 1)) | {2**k for k in range(12)}
    always, maybe = [], []
    score = np.zeros((count, count), np.int32)
    for i in range(count):
        for j in range(i + 1, count):
            if j - i <= sure and shot[i] == shot[j]:
                always.append((i, j))
            # In a long video, distant pairs are tested for every other image only.
            elif count <= 120 or j - i <= 40 or (i % 2 == 0 and j % 2 == 0):
                score[i, j] = score[j, i] = len(match(few[i], few[j]))
                if score[i, j] >= COARSE_MATCHES and (exhaustive or j - i in gaps):
                    maybe.append((i, j))
    chosen = set(always) | set(maybe)
    for i in range(count):
        far = np.abs(np.arange(count) - i) > overlap
        for j in np.argsort(-score[i] * far, kind="stable")[:LOOPS]:
            if far[j] and score[i, j] >= COARSE_MATCHES:
                chosen.add((min(i, int(j)), max(i, int(j))))
    return sorted(chosen, key=lambda pair: (pair[1] - pair[0], pair[0]))


def verify(
    matched: Iterable[PairMatches],
    features: list[Features],
    cameras: list[pycolmap.Camera],
    *,
    seed: int,
    tick: Callable[[], None],
) -> list[Pair]:
    """Return the pairs whose matches fit an epipolar geometry or a homography."""
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = MIN_INLIERS
    options.ransac.random_seed = seed
    # Ample for 50 % inliers; pairs that need more cost the most and contribute little.
    options.ransac.max_num_trials = 1500
    # For photo collections; a channel logo in a video is rejected by RANSAC.
    options.detect_watermark = False
    found = []
    for one in matched:
        tick()
        i, j = one.i, one.j
        if len(one.matches) < MIN_INLIERS:
            continue
        geometry = pycolmap.estimate_two_view_geometry(
            cameras[i],
            features[i].xy.astype(np.float64),
            cameras[j],
            features[j].xy.astype(np.float64),
            one.matches.astype(np.uint32),
            options,
        )
        inliers = np.asarray(geometry.inlier_matches, np.int64)
        if len(inliers) >= MIN_INLIERS:
            found.append(Pair(i=i, j=j, geometry=geometry, inliers=inliers))
    return found
