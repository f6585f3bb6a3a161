"""Views of a rendered film with its true poses, for the tests and benchmarks of what follows them.

Sparse points are corners of the pictures at their true places, observed wherever they are seen:
what a perfect pose step would give.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.contract import Views
from stages._geometry.transforms import invert, project
from tests.support.scenes import Truth

CORNERS = 250
SEEN_WITHIN = 0.01
"""A point is seen where the picture's depth is its own within this share."""


def posed_views(truth: Truth, frames: Sequence[int], points: bool = True) -> Views:
    """Return the frames as views; without sparse points if told so."""
    images = np.stack([truth.images[i] for i in frames])
    K, T = truth.K[list(frames)], truth.T_world_camera[list(frames)]
    depth = [truth.depth(i) for i in frames]
    xyz = [_corners(truth, i, images[n], depth[n], K[n], T[n]) for n, i in enumerate(frames)]
    cloud = np.concatenate(xyz[::3]) if points else np.empty((0, 3))
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for n in range(len(frames)):
        uv, z = project(cloud, K[n], invert(T[n]))
        inside = (z > 0) & (uv >= 0).all(1) & (uv < (truth.width, truth.height)).all(1)
        rows = np.flatnonzero(inside)
        u, v = uv[rows].astype(int).T
        rows = rows[np.abs(depth[n][v, u] / z[rows] - 1) < SEEN_WITHIN]
        seen.append((rows, np.full(len(rows), n), uv[rows]))
    point, view, xy = (np.concatenate(part) for part in zip(*seen, strict=True))
    return Views(
        images=images,
        pts_ns=truth.pts_ns[list(frames)],
        index=np.array(frames, np.int64),
        intrinsics=K,
        T_world_camera=T,
        points=cloud.astype(np.float32),
        points_rgb=np.zeros((len(cloud), 3), np.uint8),
        points_error_px=np.zeros(len(cloud), np.float32),
        observed_point=point.astype(np.int32),
        observed_view=view.astype(np.int32),
        observed_xy=xy.astype(np.float32),
        candidates=len(frames),
        scale="metric",
    )


def _corners(truth, frame, image, depth, K, T) -> np.ndarray:
    """Return the world points [N, 3] of corners that rest."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found = cv2.goodFeaturesToTrack(gray, CORNERS, 0.01, 5)
    if found is None:
        return np.empty((0, 3))
    column, row = found[:, 0].astype(int).T
    rests = ~truth.ball(frame)[row, column]
    column, row = column[rests], row[rests]
    rays = np.stack([column + 0.5, row + 0.5, np.ones(len(row))], 1) @ np.linalg.inv(K).T
    return (rays * depth[row, column, None]) @ T[:3, :3].T + T[:3, 3]
