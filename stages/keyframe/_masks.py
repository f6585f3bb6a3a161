"""Masks of the frames that are held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.contract import Array, Frames, Masks
from stages._formats.packed_masks import packed, unpacked

__all__ = ["row_of", "stacked_masks"]


def row_of(masks: Masks | None, frames: Frames, t: int) -> Array | None:
    """Return frame t's mask, packed; None where nobody looked."""
    if masks is None or len(masks.moving) != len(frames.images):
        return None
    return packed(masks.moving[t])


def stacked_masks(
    rows: Sequence[Array | None], height: int, width: int, warn: Callable[[str], None]
) -> Array | None:
    """Return the masks bool [K, H, W] of packed rows; None where nobody looked at any.

    A frame that nobody looked at, since its clip could not be segmented, is left whole.
    """
    known = [row for row in rows if row is not None]
    if not known:
        return None
    if len(known) < len(rows):
        warn(
            f"{len(rows) - len(known)} of {len(rows)} keyframes have no mask, since their clips "
            "could not be segmented: what moves in them is not left out"
        )
    out = np.zeros((len(rows), height, width), np.bool_)
    for k, row in enumerate(rows):
        if row is not None:
            out[k] = unpacked(row, height, width)
    return out
