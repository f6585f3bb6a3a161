"""Conversion of metric depth to the units of the views."""

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
"""Residual that triggers a warning. Sensors and stereo rigs have errors of one to four percent;
more indicates wrong units or cameras."""


def in_units_of(views: Views, depth: Map, stage: Stage[Any], *, what: str, see: str) -> Map:
    """Return depth [K, H, W] in the units of the views; it is modified in place.

    With metric poses the scale is unchanged; with poses of arbitrary scale, one scale for all views
    is estimated from the sparse points. Reports `depth_units_per_m` in the second case, and
    `alignment_residual_share` if there are points.

    Args:
        views: The K views.
        depth: float32 [K, H, W] meters, NaN unknown; becomes unknown where the views are masked.
        stage: Stage that measured it, for metrics and warnings.
        what: Name of the device for messages, such as `the sensor`.
        see: What to check if the points disagree, for a warning.

    Raises:
        PartNotMade: The scale cannot be estimated.
    """
    anchors = anchors_of(views)
    if views.scale == "arbitrary":
        scale = one_scale(depth, anchors, seed=stage.context.seed)
        if scale is None:
            raise PartNotMade(
                "the poses have arbitrary scale, and too few of their sparse points have depth "
                f"from {what} to estimate its scale; use poses in meters (pose.model=given), or "
                "depth.model=multiview"
            )
        stage.measure("depth_units_per_m", scale)
        depth *= np.float32(scale)
    residual = residual_of(depth, anchors)
    if np.isfinite(residual):
        stage.measure("alignment_residual_share", residual)
    if residual > DOUBTFUL:
        stage.warn(
            f"{what}'s depth and the sparse points differ by {100 * residual:.0f} % (median): "
            f"check {see}"
        )
    if views.masks is not None:
        depth[views.masks] = np.nan
    return depth
