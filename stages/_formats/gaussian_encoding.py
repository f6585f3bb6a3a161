"""What the exports of splats share: which Gaussians can be written, and bytes from numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contract import Splats, Stage

__all__ = ["opacity_bytes", "take", "to_bytes", "writable"]

Array = npt.NDArray[Any]


def take(splats: Splats, rows: Array | slice) -> Splats:
    """Return these Gaussians of a scene."""
    return replace(
        splats,
        means=splats.means[rows],
        quats=splats.quats[rows],
        log_scales=splats.log_scales[rows],
        opacity_logits=splats.opacity_logits[rows],
        sh=splats.sh[rows],
    )


def writable(stage: Stage[Any], splats: Splats, name: str) -> Splats:
    """Return the Gaussians that may stand in a file; warn of those that `name` leaves out.

    Readers trust the numbers of a file: one that is not finite spreads over the picture, and a
    quaternion of length 0 is no rotation.
    """
    kept: npt.NDArray[np.bool_] = np.isfinite(splats.opacity_logits)
    for array in (splats.means, splats.quats, splats.log_scales, splats.sh):
        kept &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    # Not `any` of the numbers themselves: of a signaling NaN that warns.
    kept &= (splats.quats != 0).any(axis=1)
    left_out = len(kept) - int(kept.sum())
    if not left_out:
        return splats
    stage.warn(f"{name} leaves out {left_out} Gaussians that are not finite or have no rotation")
    return take(splats, kept)


def to_bytes(values: Array) -> npt.NDArray[np.uint8]:
    """Return the nearest whole numbers in 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def opacity_bytes(splats: Splats) -> npt.NDArray[np.uint8]:
    """Return the opacities, uint8 [G], 255 for opaque."""
    return to_bytes(255 * np.exp(-np.logaddexp(0, -splats.opacity_logits.astype(np.float64))))
