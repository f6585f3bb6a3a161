"""Shared input checks and final filter of depth models: keeps what neighboring views confirm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.errors import PartNotMade
from stages.depth._consistency import drop_speckles, keep_consistent
from stages.depth._rig import Rig, choose_neighbors

__all__ = ["finish_maps", "neighbors_or_reason"]

LEAST_SIDE_PX = 16
"""Shortest side of an image in px; DIS flow requires at least 12."""
SPECKLE_SHARE = 2e-4
"""Patches below this share of the image are dropped: 46 px at 640x360."""
SPECKLE_STEP = 0.02
"""Neighboring depths that differ by less (a share) belong to one patch."""


def neighbors_or_reason(rig: Rig, images: npt.NDArray[np.uint8], count: int) -> list[list[int]]:
    """Return each view's neighbors.

    Raises:
        PartNotMade: There are fewer than two views, they are too small, or no two views have
            parallax and shared points; the message gives the reason.
    """
    rows, columns = images.shape[1:3]
    if min(rows, columns) < LEAST_SIDE_PX:
        raise PartNotMade(
            f"depth needs images of at least {LEAST_SIDE_PX} px per side, got {columns}x{rows}"
        )
    if len(rig.K) < 2:
        raise PartNotMade(
            f"depth needs at least 2 posed views, got {len(rig.K)}; "
            "sample more frames or move the camera more slowly"
        )
    neighbors = choose_neighbors(rig, count)
    if not any(neighbors):
        raise PartNotMade(
            f"depth needs views of the same scene from different positions, but no two of the "
            f"{len(rig.K)} views have parallax; move the camera sideways"
        )
    return neighbors


def finish_maps(
    measure: Callable[[str, float], None],
    rig: Rig,
    neighbors: list[list[int]],
    near: npt.NDArray[np.float32],
    tolerance: float,
    masks: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """Convert inverse depths [K, H, W] (0 unknown) to filtered depth maps (NaN unknown).

    Pixels in `masks` [K, H, W] become unknown, and confirm nothing in other views.
    Reports `depth_known_share` and `depth_confirmed_share` (of the pixels known before).
    """
    if masks is not None:
        near = np.where(masks, np.float32(0), near)
    before, depth = 0, np.full(near.shape, np.nan, np.float32)
    for i, mates in enumerate(neighbors):
        before += np.count_nonzero(near[i])
        if not mates:
            continue
        A, b = rig.relatives(i, mates)
        kept = np.empty_like(near[i])
        least = min(2, len(mates))
        keep_consistent(near[i], near[mates], A, b, tolerance, least, kept)
        kept = drop_speckles(kept, round(SPECKLE_SHARE * kept.size), SPECKLE_STEP)
        np.divide(1, kept, out=depth[i], where=kept > 0)
    known = np.count_nonzero(np.isfinite(depth))
    measure("depth_known_share", known / depth.size)
    measure("depth_confirmed_share", known / before if before else 0.0)
    return depth
