"""From depth in meters to the units of the views, for whatever measures meters."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contract import Stage, Views
from pipeline.errors import PartNotMade
from stages.depth._align import anchors_of, one_scale, residual_of

__all__ = ["in_units_of"]

Map = npt.NDArray[np.float32]

DOUBTFUL = 0.1
"""Sensors and stereo rigs err by one to four percent; more speaks of other units or cameras."""


def in_units_of(views: Views, depth: Map, stage: Stage[Any], *, what: str, see: str) -> Map:
    """Return depth [K, H, W] in the units of the views; it is changed in place.

    Where the poses are in meters it stays as it is; where their scale is arbitrary, one scale for
    all views follows from the sparse points. Reports `depth_units_per_m` in the second case, and
    `alignment_residual_share` where there are points.

    Args:
        views: K of them.
        depth: float32 [K, H, W] meters, NaN unknown; becomes unknown where the views are masked.
        stage: That measured it: reports and warns.
        what: Such as `the sensor`, for messages.
        see: What to look at where the points say otherwise, for a warning.

    Raises:
        PartNotMade: No scale can be found.
    """
    anchors = anchors_of(views)
    if views.scale == "arbitrary":
        scale = one_scale(depth, anchors, seed=stage.context.seed)
        if scale is None:
            raise PartNotMade(
                "the poses are in units of their own, and too few of their sparse points lie "
                f"where {what} has depth to find its scale; use poses in meters "
                "(pose.model=given), or depth.model=multiview"
            )
        stage.measure("depth_units_per_m", scale)
        depth *= np.float32(scale)
    residual = residual_of(depth, anchors)
    if np.isfinite(residual):
        stage.measure("alignment_residual_share", residual)
    if residual > DOUBTFUL:
        stage.warn(
            f"{what}'s depth and the sparse points differ by {100 * residual:.0f} % (median): "
            f"see {see}"
        )
    if views.masks is not None:
        depth[views.masks] = np.nan
    return depth
