"""Depth that came with the source from a sensor, in the scale of the poses.

For RGB-D recordings: `decode/images` reads 16-bit depth images beside the frames. Where the poses
are in metres the depth is taken as it is; where their scale is arbitrary, one scale for all views
follows from the sparse points.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.errors import PartNotMade
from pipeline.messages import DepthMaps, Views
from pipeline.stage import Options, Stage
from stages.depth._align import anchors_of, one_scale, residual_of

__all__ = ["Config", "Model"]

DOUBTFUL = 0.1
"""Sensors err by one to four per cent; more speaks of other units or another camera."""


class Config(Options):
    """Options of `depth/given`."""

    max_depth_m: float | None = Field(
        None, gt=0, description="what the sensor says to be farther is unknown, m; unset: no limit"
    )


class Model(Stage[Config]):
    """The sensor's depth."""

    def process(self, views: Views) -> DepthMaps:
        """Return the sensor's depth in the units of the views, NaN where it has none.

        Raises:
            PartNotMade: The source has no depth, or no scale can be found for it.
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
                f"the sensor measured no depth in any of the {len(depth)} views, of those "
                "that have a pose"
            )
        anchors = anchors_of(views)
        scale = 1.0
        if views.scale == "arbitrary":
            fitted = one_scale(depth, anchors, seed=self.context.seed)
            if fitted is None:
                raise PartNotMade(
                    "the poses are in units of their own, and too few of their sparse points lie "
                    "where the sensor has depth to find its scale; use poses in metres "
                    "(pose.model=given), or depth.model=multiview"
                )
            scale = fitted
            self.measure("depth_units_per_m", scale)
        depth *= np.float32(scale)
        residual = residual_of(depth, anchors)
        if np.isfinite(residual):
            self.measure("alignment_residual_share", residual)
        if residual > DOUBTFUL:
            self.warn(
                f"the sensor's depth and the sparse points differ by {100 * residual:.0f} % "
                "(median): see decode.depth_per_m, and whether depth and colour are of one camera"
            )
        if views.masks is not None:
            depth[views.masks] = np.nan
        return DepthMaps(depth=depth)
