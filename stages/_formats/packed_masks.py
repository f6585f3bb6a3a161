"""Masks as a few hundred bytes: what is held of many frames, and written with every snapshot."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["packed", "unpacked"]


def packed(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return a mask, bool [H, W], packed: uint8 [N]."""
    return np.frombuffer(zlib.compress(np.packbits(mask).tobytes(), 1), np.uint8)


def unpacked(packed_mask: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask bool [H, W] of what `packed` returned."""
    bits = np.frombuffer(zlib.decompress(packed_mask.tobytes()), np.uint8)
    return np.unpackbits(bits, count=height * width).reshape(height, width).astype(np.bool_)
