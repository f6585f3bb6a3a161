"""Gaussians as PLY in the layout of 3DGS (Kerbl et al. 2023), which every viewer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.contract import Splats
from stages._formats.gaussian_encoding import take
from stages._gaussians.passes import EPS2D

__all__ = ["BLOCK", "write_gaussian_ply"]

BLOCK = 1 << 16
"""Gaussians that are packed at a time: memory beyond the scene itself stays under 40 MB."""


def properties(harmonics: int) -> list[str]:
    """Return the names of the properties for so many spherical harmonics, 1 to 16."""
    rest = [f"f_rest_{i}" for i in range(3 * (harmonics - 1))]
    return [
        *("x", "y", "z", "nx", "ny", "nz"),
        *("f_dc_0", "f_dc_1", "f_dc_2"),
        *rest,
        "opacity",
        *("scale_0", "scale_1", "scale_2"),
        *("rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def write_gaussian_ply(path: Path, splats: Splats) -> None:
    """Write binary little-endian float32: log scales, logits of the opacity, wxyz.

    `f_rest` is channel-major: all of red, then green, then blue. The normals are 0, as 3DGS
    writes them. Two comments say what the layout cannot: whether the Gaussians were trained
    antialiased, and their blur.
    """
    names = properties(splats.sh.shape[1])
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment Gaussian splats by reel3d",
        f"comment antialiased {int(splats.antialiased)}",
        f"comment eps2d {EPS2D}",
        f"element vertex {len(splats.means)}",
        *(f"property float {name}" for name in names),
        "end_header",
        "",
    ]
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        for first in range(0, len(splats.means), BLOCK):
            part = take(splats, slice(first, first + BLOCK))
            count = len(part.means)
            columns = (
                part.means,
                np.zeros((count, 3), np.float32),
                part.sh[:, 0],
                part.sh[:, 1:].transpose(0, 2, 1).reshape(count, -1),
                part.opacity_logits[:, None],
                part.log_scales,
                part.quats,
            )
            table = np.concatenate(columns, axis=1, dtype="<f4")
            # `tofile` does not say that the disk is full, `write` does.
            file.write(table.data)
