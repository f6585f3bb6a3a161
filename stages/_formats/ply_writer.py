"""Binary PLY: the layout that Open3D, MeshLab, CloudCompare and nerfstudio read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["write_ply"]

VERTEX = np.dtype(
    [
        *((name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")),
        *((name, "u1") for name in ("red", "green", "blue")),
    ]
)
FACE = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])
PLY_TYPE = {"<f4": "float", "|u1": "uchar"}


def write_ply(
    path: Path,
    xyz: npt.NDArray[Any],
    normals: npt.NDArray[Any],
    rgb: npt.NDArray[Any],
    triangles: npt.NDArray[Any] | None = None,
) -> int:
    """Write vertices [N, 3] and faces [F, 3]; return how many vertices were left out.

    A vertex that is not finite is left out with the faces that use it; a normal that is not
    finite becomes (0, 0, 0), which readers take for none.
    """
    kept: npt.NDArray[np.bool_] = np.all(np.isfinite(xyz), axis=1)
    table = np.empty(int(kept.sum()), dtype=VERTEX)
    for axis, (position, normal) in enumerate((("x", "nx"), ("y", "ny"), ("z", "nz"))):
        table[position] = xyz[kept, axis]
        table[normal] = np.where(np.isfinite(normals).all(axis=1), normals[:, axis], 0)[kept]
    for channel, name in enumerate(("red", "green", "blue")):
        table[name] = rgb[kept, channel]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property {PLY_TYPE[VERTEX[name].str]} {name}" for name in VERTEX.names or ()]
    faces = None
    if triangles is not None:
        moved = np.cumsum(kept) - 1
        whole = triangles[kept[triangles].all(axis=1)]
        faces = np.empty(len(whole), dtype=FACE)
        faces["count"] = 3
        faces["vertices"] = moved[whole]
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    with path.open("wb") as file:
        file.write("\n".join([*header, "end_header", ""]).encode("ascii"))
        # `tofile` does not say that the disk is full, `write` does.
        file.write(table.view(np.uint8).data)
        if faces is not None:
            file.write(faces.view(np.uint8).data)
    return len(kept) - len(table)
