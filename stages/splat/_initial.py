"""Initialization: one Gaussian per point, as wide as the distance to its neighbors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import Parameter

from pipeline.contract import Points, Views
from pipeline.errors import PartNotMade
from stages._gaussians.spherical_harmonics import SH0
from stages._geometry.transforms import invert, project

__all__ = ["NAMES", "initial_gaussians", "scene_points"]

Array = npt.NDArray[Any]

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")
NEIGHBORS = 3
FIRST_SHARE = 0.35
"""Initial share of the final count. With the whole surface from the start a tour of a room ends
1.1 dB lower, since evenly spread points do not follow detail."""
OPACITY = 0.5
"""Initial opacity. 3DGS starts at 0.1; with a short budget 0.5 gives better results."""


def scene_points(
    views: Views, points: Points | None, most: int, seed: int
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return initial points [N, 3] and colors [N, 3]: sparse ones, then those of the surface.

    Points that are not finite or not visible in any camera are left out. All sparse points are
    kept, up to `most`, since they also cover what fusion left out; the surface is randomly thinned
    to `FIRST_SHARE` of `most`, so that growth can add the rest where it is needed.

    Raises:
        PartNotMade: There are none.
    """
    sets = [(views.points, views.points_rgb, most)]
    if points is not None:
        sets.append((points.xyz, points.rgb, round(FIRST_SHARE * most)))
    rng = np.random.default_rng([seed, 11])
    chosen: list[tuple[Array, Array]] = []
    count = 0
    for xyz, rgb, room in sets:
        rows = np.flatnonzero(np.isfinite(xyz).all(axis=1))
        rows = rows[_seen(xyz[rows], views)]
        if count + len(rows) > room:
            rows = np.sort(rng.choice(rows, max(room - count, 0), replace=False))
        count += len(rows)
        chosen.append((xyz[rows], rgb[rows]))
    xyz = np.concatenate([part for part, _ in chosen])
    if len(xyz) == 0:
        raise PartNotMade(
            "splats need points to begin with, but neither the point cloud nor the sparse points "
            "have any visible to a camera; lower fuse.min_views, or give more views"
        )
    return xyz, np.concatenate([part for _, part in chosen])


def _seen(xyz: Array, views: Views) -> npt.NDArray[np.bool_]:
    height, width = views.images.shape[1:3]
    seen = np.zeros(len(xyz), np.bool_)
    for K, T in zip(views.intrinsics, views.T_world_camera, strict=True):
        uv, z = project(xyz, K, invert(T))
        with np.errstate(invalid="ignore"):
            seen |= (z > 0) & (uv >= 0).all(axis=1) & (uv < (width, height)).all(axis=1)
    return seen


def initial_gaussians(
    xyz: Array, rgb: npt.NDArray[np.uint8], degree: int, device: str
) -> dict[str, Parameter]:
    """Return isotropic Gaussians of opacity 0.5 at the points [N, 3], with colors [N, 3]."""
    count = len(xyz)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    tensors: dict[str, Tensor] = {
        "means": torch.from_numpy(xyz.astype(np.float32)),
        "scales": torch.from_numpy(np.log(_spacing(xyz))).float()[:, None].repeat(1, 3),
        "quats": quats,
        "opacities": torch.logit(torch.full((count,), OPACITY)),
        "sh0": torch.from_numpy((rgb.astype(np.float32) / 255 - 0.5) / np.float32(SH0))[:, None],
        "shN": torch.zeros(count, (degree + 1) ** 2 - 1, 3),
    }
    return {name: Parameter(tensors[name].contiguous().to(device)) for name in NAMES}


def _spacing(xyz: Array) -> npt.NDArray[np.float64]:
    """Return the root mean square distance of each point to its three nearest neighbors."""
    extent = float(np.linalg.norm(np.ptp(xyz, axis=0))) or 1.0
    if len(xyz) < 2:
        return np.full(len(xyz), 0.01 * extent)
    nearest = min(NEIGHBORS, len(xyz) - 1)
    distance, _ = cKDTree(xyz).query(xyz, k=nearest + 1)
    spacing = np.sqrt(np.mean(np.square(distance[:, 1:]), axis=1))
    # Clipped: duplicates would have no size, and outliers that of the scene.
    middle = float(np.median(spacing))
    return np.clip(spacing, max(0.05 * middle, 1e-7 * extent), 20 * middle or extent)
