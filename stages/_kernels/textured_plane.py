"""Four views of a textured plane: a minimal scene that calls every kernel once."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.contract import Points, Views

__all__ = ["textured_plane"]

COUNT, WIDTH, HEIGHT = 4, 160, 96
FOCAL_PX, DISTANCE, BASELINE = 120.0, 2.0, 0.1


def textured_plane() -> tuple[Views, Points]:
    """Return views of a plane that faces a camera moving to the right, and points on the plane."""
    rng = np.random.default_rng(0)
    step = FOCAL_PX * BASELINE / DISTANCE
    wide = rng.integers(0, 255, (HEIGHT, WIDTH + int(COUNT * step) + 1, 3), dtype=np.uint8)
    wide = cv2.GaussianBlur(wide, (0, 0), 1.5)
    wide = cv2.normalize(wide, wide, 0, 255, cv2.NORM_MINMAX)
    shifts = [round(k * step) for k in range(COUNT)]
    images = np.stack([wide[:, shift : shift + WIDTH] for shift in shifts])
    K = np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    poses[:, 0, 3] = np.arange(COUNT) * BASELINE
    # A grid of points every 8 pixels of the first view, observed by all views that contain them.
    y, x = (part.ravel() + 0.5 for part in np.mgrid[4:HEIGHT:8, 4:WIDTH:8])
    xyz = np.stack([(x - K[0, 2]), (y - K[1, 2]), np.full_like(x, FOCAL_PX)], axis=1)
    xyz = (xyz * DISTANCE / FOCAL_PX).astype(np.float32)
    rgb = images[0][y.astype(int), x.astype(int)]
    seen = [(p, v, x[p] - shifts[v], y[p]) for v in range(COUNT) for p in range(len(x))]
    seen = [row for row in seen if 0 < row[2] < WIDTH]
    views = Views(
        images=np.ascontiguousarray(images),
        pts_ns=np.arange(COUNT) * 100_000_000,
        index=np.arange(COUNT),
        intrinsics=np.tile(K, (COUNT, 1, 1)),
        T_world_camera=poses,
        points=xyz,
        points_rgb=rgb,
        points_error_px=np.full(len(xyz), 0.5, np.float32),
        observed_point=np.array([row[0] for row in seen], np.int32),
        observed_view=np.array([row[1] for row in seen], np.int32),
        observed_xy=np.array([row[2:] for row in seen], np.float32),
        candidates=COUNT,
    )
    normals = np.tile(np.array([0, 0, -1], np.float32), (len(xyz), 1))
    return views, Points(xyz=xyz, rgb=rgb, normals=normals, voxel_size=0.05)
