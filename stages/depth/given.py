"""Sensor depth that came with the source, in the scale of the poses.

For RGB-D recordings: `decode/images` reads 16-bit depth images beside the frames. With metric
poses the depth is used unchanged; with poses of arbitrary scale, one scale for all views is
estimated from the sparse points.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.contract import DepthMaps, Options, Stage, Views
from pipeline.errors import PartNotMade
from stages.depth._metric_scale import in_units_of

__all__ = ["Config", "Model"]


class Config(Options):
    """Options of `depth/given`."""

    max_depth_m: float | None = Field(
        None, gt=0, description="larger depths of the sensor are unknown, m; unset: no limit"
    )


class Model(Stage[Config]):
    """Uses the sensor's depth."""

    def process(self, views: Views) -> DepthMaps:
        """Return the sensor's depth in the units of the views, NaN where it has none.

        Raises:
            PartNotMade: The source has no depth, or its scale cannot be estimated.
        """
        if views.depth is None:
            raise PartNotMade(
                "no depth came with the source; depth/given takes 16-bit PNG beside the images "
                "(frame-*.depth.png, TUM's depth.txt, or a folder depth/ with the same names), "
                "read with decode.model=images; use depth/multiview to compute it"
            )
        depth = views.depth.copy()
        if self.config.max_depth_m is not None:
            with np.errstate(invalid="ignore"):
                depth[depth > self.config.max_depth_m] = np.nan
        known = np.isfinite(depth)
        self.measure("depth_known_share", np.count_nonzero(known) / depth.size)
        if not known.any():
            raise PartNotMade(
                f"the sensor measured no depth in any of the {len(depth)} views that have a pose"
            )
        see = "decode.depth_per_m, and whether depth and color are from the same camera"
        return DepthMaps(depth=in_units_of(views, depth, self, what="the sensor", see=see))
