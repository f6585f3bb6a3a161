"""Learned front ends: each image is encoded once and reused for all its pairs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from threading import Lock
from typing import Any, Protocol

import numpy as np

from pipeline.contract import Array, Keyframes
from stages._networks.batching import Batches
from stages.pose._correspondences import MERGE_PX, Correspondences, features_of
from stages.pose._features import Features
from stages.pose._front_end import PairMatches, SiftFrontEnd, drop_invalid, valid_points
from stages.pose._image_transform import ImageTransform

__all__ = ["DetectorFreeFrontEnd", "LearnedFrontEnd"]

CACHED_IMAGES = 12
"""Images whose feature maps a detector-free matcher caches: a keyframe and its usual partners.
Each takes 34 MB in EfficientLoFTR at 640x480."""


class FeatureDetector(Protocol):
    """Detects and describes keypoints; thread-safe."""

    def image_transform(self, full: tuple[int, int]) -> ImageTransform:
        """Return the mapping to keyframes of size `full` (width, height)."""
        ...

    def extract(self, images: Array, most: int) -> list[Features]:
        """Return up to `most` features of each image, uint8 [N, H, W, 3], strongest first."""
        ...


class FeatureMatcher(Protocol):
    """Matches the features of two images; thread-safe."""

    def pair(self, a: Features, b: Features, transform: ImageTransform) -> Array | None:
        """Return int64 [M, 2], or None if the scores are NaN."""
        ...


class DetectorFreeMatcher(Protocol):
    """Matches two images without keypoints; thread-safe."""

    def image_transform(self, full: tuple[int, int]) -> ImageTransform:
        """Return the mapping to keyframes of size `full` (width, height)."""
        ...

    def extract(self, images: Array) -> list[Any]:
        """Return the encoding of each image, uint8 [N, H, W, 3]."""
        ...

    def pair(self, a: Any, b: Any, transform: ImageTransform) -> tuple[Array, Array, Array] | None:
        """Return points [M, 2] px of both images and scores [M]; None if scores are NaN."""
        ...


class LearnedFrontEnd:
    """Keypoints of a network, matched by another network or by their descriptors.

    Args:
        detector: Detects keypoints.
        matcher: Matches keypoints.
        sure: Neighbors that are matched regardless of their features.
        batch: Images per batch.
        threads: Batches that run in parallel.
        warn: Called with warnings.
    """

    detects = True

    def __init__(
        self,
        detector: FeatureDetector,
        matcher: FeatureMatcher,
        *,
        sure: int,
        batch: int,
        threads: int,
        warn: Callable[[str], None],
    ) -> None:
        self.sure = sure
        self._detector, self._matcher = detector, matcher
        self._batches: Batches[list[Features]] = Batches(
            batch, "images", "lower pose.working_side or pose.keypoints", warn
        )
        self._pairs: Batches[list[Array | None]] = Batches(1, "pairs", "lower pose.keypoints", warn)
        self._threads = threads
        self._warn = warn

    def describe(
        self, keyframes: Keyframes, most: int, found: Callable[[int], None]
    ) -> list[Features]:
        """Return features of each keyframe; non-finite ones are dropped with a warning."""
        images, features = keyframes.images, list[Features]()
        with ThreadPoolExecutor(self._threads) as pool:

            def extract(size: int) -> list[Features]:
                first, last = len(features), len(features) + size * self._threads
                starts = range(first, min(last, len(images)), size)
                some = pool.map(
                    lambda at: self._detector.extract(images[at : min(at + size, last)], most),
                    starts,
                )
                return [one for batch in some for one in batch]

            while len(features) < len(images):
                for one in self._batches.attempt(extract):
                    features.append(one)
                    found(len(features) - 1)
        numbers = [
            np.isfinite(some.xy).all(axis=1) & np.isfinite(some.descriptors).all(axis=1)
            for some in features
        ]
        lost, total = sum(int((~rows).sum()) for rows in numbers), sum(map(len, features))
        if lost:
            self._warn(f"{lost} of {total} learned keypoints dropped: non-finite (NaN or infinity)")
        return drop_invalid(keyframes, features)

    def match(
        self, keyframes: Keyframes, features: list[Features], pairs: list[tuple[int, int]]
    ) -> tuple[list[Features], Iterator[PairMatches]]:
        """Return the matches of the pairs, computed in parallel."""
        transform = self._detector.image_transform(
            (keyframes.images.shape[2], keyframes.images.shape[1])
        )
        return features, self._matched(features, pairs, transform)

    def _matched(
        self, features: list[Features], pairs: list[tuple[int, int]], transform: ImageTransform
    ) -> Iterator[PairMatches]:
        unsound = 0
        with ThreadPoolExecutor(self._threads) as pool:
            for at in range(0, len(pairs), self._threads):
                some = pairs[at : at + self._threads]

                def together(_: int, some: list[tuple[int, int]] = some) -> list[Array | None]:
                    ends = ((features[i], features[j]) for i, j in some)
                    return list(pool.map(lambda ab: self._matcher.pair(*ab, transform), ends))

                for (i, j), matches in zip(some, self._pairs.attempt(together), strict=True):
                    unsound += matches is None
                    none = np.zeros((0, 2), np.int64)
                    yield PairMatches(i=i, j=j, matches=none if matches is None else matches)
        _warn_non_finite(unsound, len(pairs), self._warn)


class DetectorFreeFrontEnd:
    """Correspondences of a detector-free network; SIFT only selects the pairs.

    Args:
        matcher: The network.
        sure: Neighbors that are matched regardless of SIFT.
        threads: Keyframes matched in parallel, each with all its partners.
        warn: Called with warnings.
    """

    detects = False

    def __init__(
        self, matcher: DetectorFreeMatcher, *, sure: int, threads: int, warn: Callable[[str], None]
    ) -> None:
        self.sure = sure
        self._matcher = matcher
        self._rows: Batches[list[Correspondences | None]] = Batches(
            1, "pairs", "lower pose.working_side", warn
        )
        self._threads = threads
        self._warn = warn
        self._most = 0

    def describe(
        self, keyframes: Keyframes, most: int, found: Callable[[int], None]
    ) -> list[Features]:
        """Return SIFT features, used to select the pairs."""
        self._most = most
        return SiftFrontEnd().describe(keyframes, most, found)

    def match(
        self, keyframes: Keyframes, features: list[Features], pairs: list[tuple[int, int]]
    ) -> tuple[list[Features], list[PairMatches]]:
        """Return the correspondences of the pairs as matches of shared features."""
        del features
        self._encoded = _Described(self._matcher)
        rows = [list(row) for _, row in groupby(sorted(pairs), key=lambda pair: pair[0])]
        found: list[Correspondences | None] = []
        with ThreadPoolExecutor(self._threads) as pool:
            for at in range(0, len(rows), self._threads):
                some = rows[at : at + self._threads]

                def together(
                    _: int, some: list[list[tuple[int, int]]] = some
                ) -> list[Correspondences | None]:
                    done = pool.map(lambda row: self._row(keyframes, row), some)
                    return [one for row in done for one in row]

                found.extend(self._rows.attempt(together))
        del self._encoded
        _warn_non_finite(sum(one is None for one in found), len(pairs), self._warn)
        images = keyframes.images
        transform = self._matcher.image_transform((images.shape[2], images.shape[1]))
        radius_px = MERGE_PX * max(np.divide(transform.full, transform.size))
        known = [one for one in found if one is not None]
        return features_of(known, len(images), radius_px=radius_px)

    def _row(
        self, keyframes: Keyframes, pairs: list[tuple[int, int]]
    ) -> list[Correspondences | None]:
        """Match one keyframe with all its partners, encoding it once."""
        images = keyframes.images
        transform = self._matcher.image_transform((images.shape[2], images.shape[1]))
        first = pairs[0][0]
        a = self._encoded.get(images, first)
        found: list[Correspondences | None] = []
        for i, j in pairs:
            b = self._encoded.get(images, j)
            correspondences = self._matcher.pair(a, b, transform)
            if correspondences is None:
                found.append(None)
                continue
            xy_i, xy_j, score = correspondences
            # Only the best `most`.
            best = np.sort(np.argsort(-score, kind="stable")[: self._most])
            rows = best[
                valid_points(keyframes, i, xy_i[best]) & valid_points(keyframes, j, xy_j[best])
            ]
            found.append(
                Correspondences(i=i, j=j, xy_i=xy_i[rows], xy_j=xy_j[rows], score=score[rows])
            )
        return found


class _Described:
    """LRU cache of a matcher's image encodings."""

    def __init__(self, matcher: DetectorFreeMatcher) -> None:
        self._matcher = matcher
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, images: Array, i: int) -> Any:
        """Return the encoding of image i, computing it if it is not cached."""
        with self._lock:
            if i in self._cache:
                self._cache.move_to_end(i)
                return self._cache[i]
        (encoded,) = self._matcher.extract(images[i : i + 1])
        with self._lock:
            self._cache[i] = encoded
            if len(self._cache) > CACHED_IMAGES:
                self._cache.popitem(last=False)
        return encoded


def _warn_non_finite(count: int, pairs: int, warn: Callable[[str], None]) -> None:
    if count:
        warn(f"{count} of {pairs} pairs have no matches: the network's scores are non-finite (NaN)")
