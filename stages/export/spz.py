"""`splats.spz`: Niantic's compressed splats, a tenth of the PLY (github.com/nianticlabs/spz).

Version 3 of the format: a header of 16 bytes, then one attribute after the other, quantized,
the whole under gzip. Its axes are right-up-back (OpenGL), ours right-down-forward.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Options, Splats, Stage
from pipeline.errors import PartNotMade
from stages._formats.gaussian_encoding import opacity_bytes, take, to_bytes, writable
from stages.export._publish import publish

__all__ = ["Config", "Model"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

NAME = "splats.spz"
MAGIC, VERSION, ANTIALIASED = 0x5053474E, 3, 1
MOST = 10_000_000
"""Niantic's reader takes no more Gaussians."""
FIXED = (1 << 23) - 1
"""The largest number of 24 bits with a sign."""
MOST_BITS = 20
"""A step of a millionth of a unit. Measured on 200,000 Gaussians: 20 bits cost 6 % over 12."""
LOG_SCALES = (-10.0, 255 / 16 - 10)
"""The smallest and largest logarithm of a scale: steps of 1/16."""
FEW = 0.01
"""The share of Gaussians whose size may be clamped; more, and it is another scene."""
BLOCK = 1 << 16
"""Gaussians packed at a time, so that memory beyond the scene stays small."""

FLIP = np.array([1, -1, -1], np.float32)
"""Half a turn about x: right-down-forward to right-up-back."""
FLIP_SH = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)
"""The sign of each harmonic of degrees 1 to 3 after that half turn: the parity in y and z of its
polynomial, see `_harmonics` of the splat step."""


class Config(Options):
    """How true the colors stay that depend on the direction of view.

    Measured on a scene of strong harmonics: 37 dB to the PLY with the format's usual 5 and 4
    bits, 42 dB with 6 and 5 (a sixth larger), 49 dB with 8 and 8 (half as large again).
    """

    sh1_bits: int = Field(
        5, ge=1, le=8, description="bits of a spherical harmonic of degree 1: truer but larger"
    )
    sh_rest_bits: int = Field(
        4, ge=1, le=8, description="bits of one of degree 2 or 3: truer but larger"
    )


class Model(Stage[Config]):
    """Writes SPZ 3; a scene of no Gaussians is a valid file of a header alone."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, splats: Splats) -> None:
        """Write the scene.

        Raises:
            PartNotMade: The format cannot hold it: too many Gaussians, or sizes and distances
                that differ too much.
        """
        kept = writable(self, splats, NAME)
        bits = fractional_bits(kept)
        clamped = clamped_scales(kept)
        if clamped:
            self.warn(
                f"{NAME} changes the size of {clamped} Gaussians: "
                f"it knows {_sizes()} world units alone; splats.ply has them all"
            )
        with publish(self, NAME, "splats") as path:
            write_spz(path, kept, bits, self.config.sh1_bits, self.config.sh_rest_bits)


def fractional_bits(splats: Splats) -> int:
    """Return how many of the 24 bits of a coordinate stand behind the point: all that fit.

    Raises:
        PartNotMade: The steps would be coarser than the Gaussians, or they are too many.
    """
    count = len(splats.means)
    if count > MOST:
        raise PartNotMade(
            f"{NAME} holds {MOST} Gaussians at most, the scene has {count}; use splats.ply, or "
            "train with fewer"
        )
    if count == 0:
        return MOST_BITS
    extent = float(np.abs(splats.means).max())
    bits = MOST_BITS
    while bits >= 0 and extent * 2.0**bits > FIXED:
        bits -= 1
    typical = float(np.exp(np.median(splats.log_scales.mean(axis=1, dtype=np.float64))))
    if bits < 0 or 2.0**-bits > typical:
        raise PartNotMade(
            f"{NAME} cannot hold this scene: the farthest Gaussian lies {extent:.3g} world units "
            f"from the origin, so that places would be {2.0**-bits:.3g} apart, and half of the "
            f"Gaussians are smaller than {typical:.3g}; use splats.ply"
        )
    return bits


def clamped_scales(splats: Splats) -> int:
    """Return how many Gaussians the format makes visibly larger or smaller.

    A flat Gaussian may be thinner than the format knows: only its longest axis counts.

    Raises:
        PartNotMade: They are more than a few.
    """
    longest = splats.log_scales.max(axis=1)
    low, high = LOG_SCALES
    clamped = int(((longest < low - 1 / 32) | (longest > high + 1 / 32)).sum())
    if clamped > FEW * len(longest):
        raise PartNotMade(
            f"{NAME} cannot hold this scene: it knows Gaussians of {_sizes()} world units, and "
            f"{clamped} of {len(longest)} are smaller or larger; use splats.ply"
        )
    return clamped


def _sizes() -> str:
    return " to ".join(f"{np.exp(s):.2g}" for s in LOG_SCALES)


def write_spz(path: Path, splats: Splats, bits: int, sh1_bits: int, sh_rest_bits: int) -> None:
    """Write the file; equal scenes give equal bytes."""
    degree = int(np.sqrt(splats.sh.shape[1])) - 1
    flags = ANTIALIASED if splats.antialiased else 0
    header = struct.pack("<IIIBBBB", MAGIC, VERSION, len(splats.means), degree, bits, flags, 0)
    attributes: list[Callable[[Splats], Bytes]] = [
        lambda part: pack_positions(part.means, bits),
        opacity_bytes,
        lambda part: to_bytes((0.15 * part.sh[:, 0] + 0.5) * 255),
        lambda part: to_bytes((part.log_scales - LOG_SCALES[0]) * 16),
        lambda part: pack_rotations(part.quats),
        lambda part: pack_harmonics(part.sh[:, 1:], sh1_bits, sh_rest_bits),
    ]
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        packed.write(header)
        for attribute in attributes:
            for first in range(0, len(splats.means), BLOCK):
                part = take(splats, slice(first, first + BLOCK))
                packed.write(np.ascontiguousarray(attribute(part)).data)


def pack_positions(means: Array, bits: int) -> Bytes:
    """Return three little-endian numbers of 24 bits, uint8 [N, 3, 3]."""
    fixed = np.rint((means * FLIP).astype(np.float64) * 2.0**bits).astype("<i4")
    return fixed.view(np.uint8).reshape(len(means), 3, 4)[..., :3]


def pack_rotations(quats: Array) -> Bytes:
    """Return the quaternions as the smallest three of four, uint8 [N, 4].

    Two bits name the largest of x, y, z, w, which is made positive and left out; then each other
    in that order: a sign and 9 bits of its part of sqrt(1/2), the most that it can be.
    """
    xyzw = np.roll(quats.astype(np.float64), -1, axis=1)
    xyzw[:, :3] *= FLIP
    xyzw /= np.linalg.norm(xyzw, axis=1, keepdims=True)
    largest = np.abs(xyzw).argmax(axis=1)
    rows = np.arange(len(xyzw))
    xyzw *= np.where(xyzw[rows, largest] < 0, -1, 1)[:, None]
    word = largest.astype("<u4")
    for i in range(4):
        size = np.rint(511 * np.sqrt(2) * np.abs(xyzw[:, i])).clip(0, 511).astype(np.uint32)
        longer = word << 10 | (xyzw[:, i] < 0).astype(np.uint32) << 9 | size
        word = np.where(largest == i, word, longer).astype("<u4")
    return word.view(np.uint8).reshape(-1, 4)


def pack_harmonics(rest: Array, sh1_bits: int, sh_rest_bits: int) -> Bytes:
    """Return the harmonics [N, S, 3] of degrees 1 to 3 as bytes: 128 (1 + c), c in -1..1.

    Fewer bits are the same byte on a coarser grid, which gzip then shrinks.
    """
    count = rest.shape[1]
    flipped = rest * FLIP_SH[:count, None]
    bits = np.where(np.arange(count) < 3, sh1_bits, sh_rest_bits)
    grid = (1 << (8 - bits))[:, None]
    return to_bytes(np.rint(128 * (1 + flipped) / grid) * grid)
