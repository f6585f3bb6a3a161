"""Reading PLY files that may come from anywhere: nothing in the header is believed unchecked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

__all__ = ["Surface", "read_ply"]

HEADER_BYTES = 1 << 14
"""Our headers have under 500 bytes, those of other programs a few thousand."""

DTYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
}

GRAY = 170


@dataclass(frozen=True)
class Surface:
    """A cloud, or the vertices of a mesh with its triangles."""

    xyz: npt.NDArray[np.float32]
    """float32 [N, 3], all finite."""
    rgb: npt.NDArray[np.uint8]
    """uint8 [N, 3]; gray where the file has no colors."""
    normals: npt.NDArray[np.float32] | None
    """float32 [N, 3], or None where the file has none."""
    triangles: npt.NDArray[np.int32] | None
    """int32 [F, 3], or None for a cloud."""


def read_ply(path: Path) -> Surface:
    """Read a binary little-endian PLY with x, y, z and, where present, normals and colors.

    Raises:
        UsageError: It is missing, no such file, shorter than its header says, or malformed.
    """
    try:
        with path.open("rb") as file:
            counts, fields, has_faces, start = _header(path, file.read(HEADER_BYTES))
            table = _vertices(path, start, counts["vertex"], np.dtype(fields))
            faces = None
            if has_faces:
                end = start + table.nbytes
                faces = _triangles(path, end, counts["face"], counts["vertex"])
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return _surface(table, faces)


def _bad(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} is not a PLY file that reel3d can show: {what}; "
        "binary little-endian files with x, y and z are allowed"
    )


def _header(path: Path, data: bytes) -> tuple[dict[str, int], list[tuple[str, str]], bool, int]:
    head, found, _ = data.partition(b"end_header\n")
    lines = head.decode("ascii", errors="replace").split("\n")
    if not found or lines[0] != "ply" or "format binary_little_endian 1.0" not in lines:
        raise _bad(path, "its header is not one")
    counts: dict[str, int] = {}
    fields: list[tuple[str, str]] = []
    element, has_faces = "", False
    for line in lines[1:]:
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3 and words[2].isdecimal():
            element = words[1]
            counts[element] = int(words[2])
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in DTYPES or words[2] in dict(fields):
                raise _bad(path, f"'{line[:80]}' is no property of a vertex")
            fields.append((words[2], DTYPES[words[1]]))
        elif words[:1] == ["property"] and element == "face":
            known = words[1:4] in (["list", "uchar", "int"], ["list", "uint8", "int32"])
            if not known or has_faces:
                raise _bad(path, f"'{line[:80]}' is no list of vertices")
            has_faces = True
    if list(counts) not in (["vertex"], ["vertex", "face"]):
        raise _bad(path, "it holds other things than vertices and faces")
    if not {"x", "y", "z"} <= {name for name, _ in fields}:
        raise _bad(path, "its vertices have no x, y and z")
    return counts, fields, has_faces and counts["face"] > 0, len(head) + len(found)


def _vertices(path: Path, start: int, count: int, row: np.dtype[Any]) -> npt.NDArray[Any]:
    # The size of the file, not the header, says how much memory is taken.
    if path.stat().st_size < start + count * row.itemsize:
        raise _bad(path, f"it is too short for the {count} vertices of its header")
    return np.fromfile(path, dtype=row, count=count, offset=start)


def _triangles(path: Path, start: int, count: int, vertices: int) -> npt.NDArray[np.int32]:
    row = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])
    if path.stat().st_size < start + count * row.itemsize:
        raise _bad(path, f"it is too short for the {count} faces of its header")
    table = np.fromfile(path, dtype=row, count=count, offset=start)
    triangles = table["vertices"]
    if np.any(table["count"] != 3) or triangles.min() < 0 or triangles.max() >= vertices:
        raise _bad(path, "its faces are no triangles of its vertices")
    return triangles


def _surface(table: npt.NDArray[Any], triangles: npt.NDArray[np.int32] | None) -> Surface:
    names = set(table.dtype.names or ())

    def columns(*wanted: str) -> npt.NDArray[Any] | None:
        return np.stack([table[n] for n in wanted], axis=1) if names >= set(wanted) else None

    # Squared and summed, larger coordinates come near the end of float32.
    xyz = columns("x", "y", "z")
    assert xyz is not None, "the header was checked for x, y and z"
    finite: npt.NDArray[np.bool_] = np.all(np.abs(np.nan_to_num(xyz, nan=np.inf)) < 1e15, axis=1)
    rgb = columns("red", "green", "blue")
    if rgb is None or rgb.dtype != np.uint8:
        rgb = np.full(xyz.shape, GRAY, dtype=np.uint8)
    normals = columns("nx", "ny", "nz")
    if normals is not None:
        normals = np.nan_to_num(normals.astype(np.float32), nan=0, posinf=0, neginf=0)
        normals = normals[finite] if normals[finite].any() else None
    if triangles is not None and not finite.all():
        moved = (np.cumsum(finite) - 1).astype(np.int32)
        triangles = moved[triangles[finite[triangles].all(axis=1)]]
    return Surface(xyz[finite].astype(np.float32), rgb[finite], normals, triangles)
