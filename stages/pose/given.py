"""Poses that came with the source, and sparse points triangulated from them.

For recordings with known cameras, from the device or an earlier run: `transforms.json`
(nerfstudio), a COLMAP model, KITTI's `poses.txt`, 7-Scenes' `*.pose.txt`. Poses and intrinsics are
not refined; keyframes without a pose are left out.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.contract import Array, Keyframes, Options, Views
from pipeline.errors import PartNotMade, later
from stages._geometry.transforms import invert
from stages.pose._cameras import cameras_for
from stages.pose._colmap_stage import ColmapStage
from stages.pose._front_end import SiftFrontEnd
from stages.pose._mapping import fill_database, triangulate
from stages.pose._matching import choose_pairs, verify
from stages.pose._views import views_from

pycolmap = later("pycolmap")

__all__ = ["Config", "Model"]


class Config(Options):
    """Options for the sparse points."""

    features: int = Field(
        1500, ge=100, le=20_000, description="strongest SIFT features per keyframe"
    )
    overlap: int = Field(4, ge=1, le=50, description="neighbors each keyframe is matched to")


class Model(ColmapStage[Config]):
    """Use the source's own poses."""

    def process(self, keyframes: Keyframes) -> Views:
        """Triangulate sparse points between the given poses.

        Raises:
            PartNotMade: The source gave no poses or no intrinsics.
        """
        posed = _with_poses(keyframes)
        missing = len(keyframes.index) - len(posed.index)
        if missing:
            self.warn(
                f"{len(posed.index)} of {len(keyframes.index)} keyframes have a pose; "
                "the others are left out"
            )
        count = len(posed.index)
        cameras = cameras_for(posed)
        front_end = SiftFrontEnd()
        features = front_end.describe(
            posed, self.config.features, lambda i: self.progress(i, 2 * count)
        )
        wanted = choose_pairs(
            features, posed.shot, overlap=self.config.overlap, exhaustive=count <= 12
        )
        features, matched = front_end.match(posed, features, wanted)
        pairs = verify(matched, features, cameras, seed=self.context.seed, tick=lambda: None)
        self.progress(2 * count - 1, 2 * count)
        assert posed.T_world_camera is not None
        model = triangulate(
            fill_database(features, cameras, pairs),
            invert(posed.T_world_camera),
            seed=self.context.seed,
        )
        views = views_from(
            model,
            posed,
            scale="metric" if keyframes.metric else "arbitrary",
            normalize=False,
            candidates=len(keyframes.index),
        )
        if not len(views.points):
            self.warn(
                f"no sparse points: {len(pairs)} of {len(wanted)} pairs of keyframes match, but "
                "none of their features agree with the given poses"
            )
        self.measure("registered_share", len(views.index) / views.candidates)
        self.measure("points_count", len(views.points))
        if len(views.points):
            self.measure("reprojection_error_px", model.compute_mean_reprojection_error())
            self.measure("track_length_views", model.compute_mean_track_length())
        return views


def _with_poses(keyframes: Keyframes) -> Keyframes:
    poses = keyframes.T_world_camera
    count = len(keyframes.index)
    finite = np.zeros((count, 1)) if poses is None else np.isfinite(poses).reshape(count, 16)
    known: Array = np.all(finite, axis=1)
    if poses is None or not known.any():
        raise PartNotMade(
            "no poses came with the source; pose/given reads them from transforms.json, a COLMAP "
            "model (sparse/0), KITTI's poses.txt or 7-Scenes' *.pose.txt beside the images; use "
            "pose/colmap to estimate them"
        )
    if keyframes.intrinsics is None or not np.isfinite(keyframes.intrinsics[known]).all():
        raise PartNotMade(
            "poses came with the source but no focal length; pose/given reads intrinsics from "
            "transforms.json, cameras.bin or KITTI's calib.txt; use pose/colmap to estimate both"
        )
    return Keyframes(
        images=keyframes.images[known],
        pts_ns=keyframes.pts_ns[known],
        index=keyframes.index[known],
        sharpness=keyframes.sharpness[known],
        shot=keyframes.shot[known],
        parallax_px=keyframes.parallax_px[known],
        intrinsics=keyframes.intrinsics[known],
        T_world_camera=poses[known],
        metric=keyframes.metric,
        depth=None if keyframes.depth is None else keyframes.depth[known],
        masks=None if keyframes.masks is None else keyframes.masks[known],
        right=None if keyframes.right is None else keyframes.right[known],
        baseline_m=keyframes.baseline_m,
    )
