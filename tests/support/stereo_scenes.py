"""Rendered rooms seen by two rectified cameras, and folders of such pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pipeline.contract import Views
from stages._geometry.transforms import invert
from tests.support.posed import posed_views
from tests.support.scenes import Truth, alone

BASELINE_M = 0.12


def stereo_film(steps: Sequence[int] = range(0, 60, 12), seed: int = 1) -> Truth:
    """A sideways move as a rig sees it: frames 2 i and 2 i + 1 are the left and the right view."""
    film = alone("truck-right", seed=seed)
    left = film.T_world_camera[list(steps)]
    right = left.copy()
    right[:, :3, 3] += BASELINE_M * left[:, :3, 0]
    rows = np.repeat(list(steps), 2)
    path = replace(
        film.path,
        pts_ns=np.arange(len(rows)) * 100_000_000,
        T_world_camera=np.stack([left, right], 1).reshape(-1, 4, 4),
        focal_px=film.path.focal_px[rows],
        labels=(),
    )
    return replace(film, path=path, T_world_ball=film.T_world_ball[rows])


def stereo_views(truth: Truth) -> Views:
    """The left views with exact poses in meters, and the right ones."""
    left = list(range(0, len(truth), 2))
    views = posed_views(truth, left)
    return replace(views, right=truth.images[1::2].copy(), baseline_m=BASELINE_M)


def kitti(folder: Path, truth: Truth) -> Path:
    """Write pairs, calibration and poses in the layout of KITTI's odometry sequences."""
    for name, images in (("image_2", truth.images[::2]), ("image_3", truth.images[1::2])):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images):
            assert cv2.imwrite(str(folder / name / f"{i:06d}.png"), image[..., ::-1])
    # KITTI counts pixel centers from 0, and camera 2 is a little left of camera 0.
    K = truth.K[0] - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    rows = []
    for n, x in enumerate((0, 0.54, -0.06, BASELINE_M - 0.06)):
        P = np.hstack([K, K @ [[-x], [0], [0]]])
        rows.append(f"P{n}: " + " ".join(f"{value:.12e}" for value in P.ravel()))
    (folder / "calib.txt").write_text("\n".join(rows) + "\n")
    camera_2 = np.eye(4)
    camera_2[0, 3] = -0.06
    poses = truth.T_world_camera[::2] @ invert(camera_2[None])[0]
    lines = (" ".join(f"{value:.12e}" for value in pose[:3].ravel()) for pose in poses)
    (folder / "poses.txt").write_text("\n".join(lines) + "\n")
    return folder
