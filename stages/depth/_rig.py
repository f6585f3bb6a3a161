"""Cameras of all views for depth estimation, and selection of the views to match.

A pixel u of view i with inverse depth w = 1/z appears in view j at the pixel ``A u + w b`` after
division by its third element, with ``A = K_j R_ji K_i^-1`` and ``b = K_j t_ji``. Matching works in
inverse depth: image motion is almost linear in it, and w = 0 is infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contract import Views
from stages._geometry.transforms import invert

__all__ = ["Rig", "choose_neighbors"]

Floats = npt.NDArray[np.float64]

BEST_ANGLE_DEG = 4.0
"""Best triangulation angle; at 640 px and a normal lens about 35 px of parallax. Measured on a
rendered room, at 2, 4 and 7 degrees: error .0075, .0057, .0051; share of pixels known .88, .85,
.79; precision of the cloud .92, .95, .95."""
NARROW_DEG, WIDE_DEG = 2.0, 8.0
"""Standard deviations of a pair's score below and above the best angle, after MVSNet (Yao et al.
2018, section 4.1), which has 5, 1 and 10 degrees."""
LEAST_SHARED = 8
"""Sparse points that two views must share to be compared."""
LEAST_ANGLE_DEG = 0.1
"""Below this angle a pair has no usable baseline: 0.1 degrees are about 1 px of parallax."""


@dataclass(frozen=True, slots=True)
class Rig:
    """Cameras and sparse geometry of `Views`."""

    K: Floats
    """[K, 3, 3] px"""
    T_camera_world: Floats
    """[K, 4, 4]"""
    centers: Floats
    """[K, 3]: camera centers in the world."""
    seen: tuple[npt.NDArray[np.int32], ...]
    """Per view, the indices of the sparse points observed in it, ascending."""
    points: Floats
    """[P, 3]"""

    @classmethod
    def of(cls, views: Views) -> Rig:
        """Extract cameras and sparse geometry from `views`."""
        finite = np.asarray(np.isfinite(views.points).all(axis=1))
        sound = finite[views.observed_point]
        seen = tuple(
            np.unique(views.observed_point[sound & (views.observed_view == i)])
            for i in range(len(views.images))
        )
        return cls(
            K=views.intrinsics,
            T_camera_world=invert(views.T_world_camera),
            centers=views.T_world_camera[:, :3, 3],
            seen=seen,
            points=views.points.astype(np.float64),
        )

    def relative(self, i: int, j: int, scale: float = 1.0) -> tuple[Floats, Floats]:
        """Return A [3, 3] and b [3] from view i to view j for images resized by `scale`."""
        shrink = np.diag([scale, scale, 1.0])
        T_j_i = self.T_camera_world[j] @ invert(self.T_camera_world[i])
        K_j = shrink @ self.K[j]
        return K_j @ T_j_i[:3, :3] @ np.linalg.inv(shrink @ self.K[i]), K_j @ T_j_i[:3, 3]

    def relatives(self, i: int, others: list[int], scale: float = 1.0) -> tuple[Floats, Floats]:
        """Return `relative` to each of `others`, stacked: A [N, 3, 3] and b [N, 3]."""
        A, b = zip(*(self.relative(i, j, scale) for j in others), strict=True)
        return np.stack(A), np.stack(b)

    def depths(self, i: int) -> Floats:
        """Return the depths of the sparse points that view i observes, without those behind it."""
        xyz = self.points[self.seen[i]]
        z = xyz @ self.T_camera_world[i, 2, :3] + self.T_camera_world[i, 2, 3]
        return z[z > 0]

    def inverse_depth_range(self, i: int) -> tuple[float, float]:
        """Return the minimum and maximum inverse depth to search in view i; (0, 0) if unknown.

        The points are a sample, so the range is wider than theirs.
        """
        z = self.depths(i)
        if len(z) < LEAST_SHARED:
            z = np.concatenate([self.depths(j) for j in range(len(self.K))])
        if len(z) < LEAST_SHARED:
            return 0.0, 0.0
        near, far = np.percentile(z, [1, 99])
        return 0.6 / far, 1.25 / near


def choose_neighbors(rig: Rig, count: int) -> list[list[int]]:
    """Choose for each view up to `count` others to match it with, the best first.

    With sparse points: by the number of shared points and their triangulation angles, reduced if
    an already chosen view is in the same direction, so that opposite sides cover each other's
    occlusions. Without: by order, as in a video.
    """
    views = len(rig.K)
    if not any(len(seen) >= LEAST_SHARED for seen in rig.seen):
        return [_by_order(rig, i, count) for i in range(views)]
    worth, reach = np.zeros((views, views)), np.zeros((views, views))
    for i in range(views):
        for j in range(i):
            shared = np.intersect1d(rig.seen[i], rig.seen[j], assume_unique=True)
            if len(shared) < LEAST_SHARED:
                continue
            rays = [rig.points[shared] - rig.centers[k] for k in (i, j)]
            cosine = np.sum(rays[0] * rays[1], axis=1) / np.maximum(
                np.linalg.norm(rays[0], axis=1) * np.linalg.norm(rays[1], axis=1), 1e-30
            )
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            reach[i, j] = reach[j, i] = np.median(angle)
            if reach[i, j] < LEAST_ANGLE_DEG:
                continue
            width = np.where(angle < BEST_ANGLE_DEG, NARROW_DEG, WIDE_DEG)
            score = np.exp(-0.5 * ((angle - BEST_ANGLE_DEG) / width) ** 2).sum()
            worth[i, j] = worth[j, i] = score
    return [_greedy(rig, i, worth[i], count) for i in range(views)]


def _by_order(rig: Rig, i: int, count: int) -> list[int]:
    """Return the nearest views in order that have another position."""
    order = sorted((j for j in range(len(rig.K)) if j != i), key=lambda j: (abs(j - i), j))
    step = np.linalg.norm(rig.centers - rig.centers[i], axis=1)
    spread = float(np.linalg.norm(np.ptp(rig.centers, axis=0)))
    return [j for j in order if step[j] > 1e-6 * spread and step[j] > 0][:count]


def _greedy(rig: Rig, i: int, worth: Floats, count: int) -> list[int]:
    baseline = rig.centers - rig.centers[i]
    unit = baseline / np.maximum(np.linalg.norm(baseline, axis=1, keepdims=True), 1e-30)
    left, chosen = worth.copy(), list[int]()
    while len(chosen) < count and left.max() > 0.02 * worth.max() and left.max() > 0:
        best = int(np.argmax(left))
        chosen.append(best)
        left[best] = 0
        # Views on the same side are redundant: halve the score of those in the same direction.
        left *= 1 - 0.5 * np.clip(unit @ unit[best], 0, 1)
    return chosen
