"""Depth by plane sweep with semi-global smoothing, at half the image size.

It tries a set of inverse depths at every pixel, so it does not require small motion between views
and resolves thin structures better than flow; it is coarser, and requires the sparse points of the
poses for its depth range.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Context, DepthMaps, Options, Stage, Views
from pipeline.errors import PartNotMade
from stages._kernels.textured_plane import textured_plane
from stages.depth._filter import finish_maps, neighbors_or_reason
from stages.depth._rig import Rig
from stages.depth._sweep import SURFACE_STEP, WORST, enlarge, shrink, sweep


class Config(Options):
    """Options of `depth/plane_sweep`."""

    neighbors: int = Field(4, ge=1, le=16, description="views to match each view with")
    planes: int = Field(64, ge=8, le=256, description="inverse depths to try")
    side: int = Field(320, ge=32, le=4096, description="longer side to match at, px")
    min_correlation: float = Field(
        0.3, ge=-1, le=1, description="minimum correlation of a pixel's windows"
    )
    consistency: float = Field(
        0.03, gt=0, le=0.5, description="maximum difference of neighboring maps, share of depth"
    )


class Model(Stage[Config]):
    """Sweeps planes through each view's neighbors."""

    @classmethod
    def compile_kernels(cls) -> None:
        """Compile the kernels on a small scene."""
        model = cls(Config())
        model.open(Context())
        model.process(textured_plane()[0])

    def open(self, context: Context) -> None:
        """Set the number of threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, views: Views) -> DepthMaps:
        """Return the depth of each view, NaN where unknown.

        Raises:
            PartNotMade: There are fewer than two views, they are too small, none has parallax, or
                there are no sparse points for the depth range.
        """
        rig = Rig.of(views)
        neighbors = neighbors_or_reason(rig, views.images, self.config.neighbors)
        if rig.inverse_depth_range(0)[1] <= 0:
            raise PartNotMade(
                "depth/plane_sweep takes its depth range from the sparse points of the poses, "
                f"got {len(views.points)}; use depth.model=multiview"
            )
        count, rows, columns = views.images.shape[:3]
        scale = min(self.config.side / max(rows, columns), 1.0)
        size = (max(round(columns * scale), 8), max(round(rows * scale), 8))
        small = [shrink(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size) for image in views.images]
        max_cost = min(round(WORST * (1 - self.config.min_correlation)), WORST)
        near = np.empty((count, rows, columns), np.float32)
        ratio = np.array([size[0] / columns, size[1] / rows])

        def one(i: int) -> None:
            found = sweep(rig, i, neighbors[i], small, scale, self.config.planes, max_cost)
            enlarge(found, ratio, SURFACE_STEP, near[i])

        with ThreadPoolExecutor(self.context.threads) as pool:
            for done, _ in enumerate(pool.map(one, range(count)), 1):
                self.progress(done, count + 1)
        tolerance = self.config.consistency
        depth = finish_maps(self.measure, rig, neighbors, near, tolerance, views.masks)
        self.progress(count + 1, count + 1)
        return DepthMaps(depth=depth)
