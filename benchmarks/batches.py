"""Batches of 1080p pictures for the benchmarks of the Ray runner, and buffers to make them of.

Making a batch costs next to nothing (one buffer, stamped with the batch's number), so what is
measured is the way that it goes. Every batch differs, so a checksum tells whether it arrived.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contract import Frames

__all__ = ["HEIGHT", "WIDTH", "Buffer", "checksum", "number_of"]

WIDTH, HEIGHT = 1920, 1080
Images = npt.NDArray[np.uint8]


RING = 8
"""So many batches may be on their way into the object store."""


class Buffer:
    """The pixels of some batches; each overwrites the stamp of the one a round before."""

    def __init__(self, frames: int, height: int = HEIGHT, width: int = WIDTH) -> None:
        """Fill the buffer with noise that is the same in every process."""
        generator = np.random.default_rng(0)
        one = generator.integers(0, 256, (1, height, width, 3), np.uint8)
        self._ring = [np.repeat(one, frames, axis=0) for _ in range(RING)]

    def images(self, number: int) -> Images:
        """Return the pixels of a batch, uint8 [T, H, W, 3]."""
        images = self._ring[number % RING]
        images[0, 0, 0, :] = number & 255, number >> 8 & 255, number >> 16 & 255
        return images

    def batch(self, number: int) -> Frames:
        """Return a batch as a message."""
        images = self.images(number)
        first = number * len(images)
        index = np.arange(first, first + len(images))
        return Frames(
            clip=f"batches/{number}",
            images=images,
            pts_ns=index * 33_333_333,
            index=index,
            sharpness=np.ones(len(images), np.float32),
        )


def number_of(images: npt.NDArray[Any]) -> int:
    """Read the stamp."""
    low, middle, high = (int(value) for value in images[0, 0, 0])
    return low + (middle << 8) + (high << 16)


def checksum(images: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of all pixels."""
    return zlib.crc32(np.ascontiguousarray(images).data)
