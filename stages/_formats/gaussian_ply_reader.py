"""Reads splats from PLY files of any trainer: nothing in the header is believed unchecked."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.contract import Splats
from pipeline.errors import UsageError

__all__ = ["read_splats"]

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

HEADER_BYTES = 1 << 16
"""The header of a scene of degree 3 has 1,500 bytes."""
BLOCK = 1 << 16
"""Gaussians that are read at a time."""

DTYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}

REQUIRED = (
    *("x", "y", "z"),
    *("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity",
    *("scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)
RESTS = (0, 9, 24, 45)
"""How many `f_rest` a scene of degree 0, 1, 2 or 3 has."""


@dataclass
class _Element:
    """A table of the file."""

    name: str
    count: int
    properties: dict[str, str] = field(default_factory=dict)
    """Name to numpy type, in the order of the file."""


@dataclass(frozen=True)
class _Header:
    order: str
    """Of numpy: `<`, `>`, or `=` for text."""
    before: list[_Element]
    """What stands in front of the Gaussians."""
    vertex: _Element
    antialiased: bool
    start: int
    """Where the data begins, bytes."""


def read_splats(path: Path, warn: Callable[[str], object] = logger.warning) -> Splats:
    """Read Gaussians in the layout of 3DGS: our own `splats.ply` or another trainer's.

    Properties may stand in any order and of any type among others that are not read; without
    `f_rest` the color does not depend on the direction of view. Quaternions are made unit
    length. The message has no cameras: `intrinsics` [0, 3, 3], `size` (0, 0).

    Args:
        path: Binary or text PLY.
        warn: Is told how many Gaussians were left out since their numbers are not finite.

    Raises:
        UsageError: It is missing, no PLY of splats, or shorter than its header says.
    """
    try:
        if not path.is_file():
            raise UsageError(f"{path} is no file; give a PLY of Gaussian splats")
        with path.open("rb") as file:
            header = _header(path, file.read(HEADER_BYTES))
            wanted = _wanted(path, header.vertex)
            file.seek(header.start)
            read = _text if header.order == "=" else _binary
            table = read(path, file, header, wanted)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    finite: npt.NDArray[np.bool_] = np.all(np.isfinite(table), axis=1)
    # Not `any` of the numbers themselves: of a signaling NaN that warns.
    kept = finite & np.any(table[:, 10:14] != 0, axis=1)
    if not kept.all():
        left_out = len(kept) - int(kept.sum())
        warn(f"{path} has {left_out} Gaussians that are not finite or have no rotation")
        table = table[kept]
    return _message(table, header.antialiased)


def _bad(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} cannot be read as Gaussian splats: {what}; a PLY file in the layout of 3DGS is "
        "wanted, with x y z, f_dc_0..2, opacity, scale_0..2 and rot_0..3"
    )


def _header(path: Path, data: bytes) -> _Header:
    end = re.search(rb"\nend_header\r?\n", data)
    if not re.match(rb"ply\r?\n", data) or end is None:
        raise _bad(path, "it does not begin with the header of a PLY file")
    order, antialiased = "", False
    elements: list[_Element] = []
    for line in data[: end.start()].decode("ascii", errors="replace").splitlines()[1:]:
        match line.split():
            case ["format", kind, "1.0"] if kind in ORDERS:
                order = ORDERS[kind]
            case ["comment", "antialiased", value]:
                antialiased = value == "1"
            case ["comment" | "obj_info", *_] | []:
                pass
            case ["element", name, count] if re.fullmatch("[0-9]{1,18}", count):
                elements.append(_Element(name, int(count)))
            case ["property", *words] if elements:
                _property(path, elements[-1], words)
            case _:
                raise _bad(path, f"its header has the line '{line[:80]}'")
    places = [i for i, element in enumerate(elements) if element.name == "vertex"]
    if not order or len(places) != 1:
        raise _bad(path, "its header names no format, or not one table of vertices")
    before, vertex = elements[: places[0]], elements[places[0]]
    if any("list" in e.properties.values() for e in (*before, vertex)):
        raise _bad(path, "its rows are of different lengths")
    return _Header(order, before, vertex, antialiased, end.end())


def _property(path: Path, element: _Element, words: list[str]) -> None:
    name = words[-1] if words else ""
    is_list = len(words) == 4 and words[0] == "list"
    known = is_list or (len(words) == 2 and words[0] in DTYPES)
    if not known or name in element.properties:
        raise _bad(path, f"'property {' '.join(words)[:80]}' is unknown or there twice")
    element.properties[name] = "list" if is_list else DTYPES[words[0]]


def _wanted(path: Path, vertex: _Element) -> list[str]:
    """Return the properties to read: those that a Gaussian must have, then `f_rest` in order."""
    missing = [name for name in REQUIRED if name not in vertex.properties]
    if missing:
        raise _bad(path, f"its vertices have no {', '.join(missing)}")
    rest = sum(re.fullmatch("f_rest_[0-9]+", name) is not None for name in vertex.properties)
    names = [f"f_rest_{i}" for i in range(rest)]
    if rest not in RESTS or not vertex.properties.keys() >= set(names):
        raise _bad(
            path,
            f"its {rest} f_rest are no degree of spherical harmonics: "
            "there are 0, 9, 24 or 45, counted from f_rest_0",
        )
    return [*REQUIRED, *names]


def _check_length(path: Path, file: BinaryIO, header: _Header, needed: int) -> None:
    """Raise before memory is taken: the size of the file, not the header, decides how much."""
    held = os.fstat(file.fileno()).st_size - header.start
    if held < needed:
        raise _bad(
            path,
            f"it is cut off: its header says {header.vertex.count} Gaussians, which take at "
            f"least {needed} bytes, and {max(held, 0)} are there",
        )


def _row(element: _Element, order: str) -> np.dtype[Any]:
    return np.dtype([(name, order + kind) for name, kind in element.properties.items()])


def _binary(path: Path, file: BinaryIO, header: _Header, wanted: list[str]) -> Array:
    """Return the wanted columns, float32 [N, C]; the file stands where the data begins."""
    skipped = sum(e.count * _row(e, header.order).itemsize for e in header.before)
    row, count = _row(header.vertex, header.order), header.vertex.count
    _check_length(path, file, header, skipped + count * row.itemsize)
    file.seek(header.start + skipped)
    table = np.empty((count, len(wanted)), np.float32)
    for first in range(0, count, BLOCK):
        rows = np.fromfile(file, row, min(BLOCK, count - first))
        if len(rows) < min(BLOCK, count - first):
            raise _bad(path, "it became shorter while it was read")
        # A double beyond float32 becomes infinite, and is then left out.
        with np.errstate(over="ignore", invalid="ignore"):
            for column, name in enumerate(wanted):
                table[first : first + len(rows), column] = rows[name]
    return table


def _text(path: Path, file: BinaryIO, header: _Header, wanted: list[str]) -> Array:
    """Return the wanted columns, float32 [N, C], of a file of numbers in ASCII."""
    skipped = sum(e.count * len(e.properties) for e in header.before)
    count, names = header.vertex.count, list(header.vertex.properties)
    numbers = skipped + count * len(names)
    # A number takes a digit and a space.
    _check_length(path, file, header, 2 * numbers - 1)
    if count == 0:
        return np.empty((0, len(wanted)), np.float32)
    try:
        with warnings.catch_warnings():
            # What is no number is a warning in older numpy, an error in newer.
            warnings.simplefilter("error", DeprecationWarning)
            read = np.fromfile(file, np.float64, numbers, sep=" ")
    except (ValueError, DeprecationWarning) as error:
        raise _bad(path, "what follows its header is not all numbers") from error
    if len(read) < numbers:
        raise _bad(path, f"{numbers} numbers should follow its header, and {len(read)} do")
    rows = read[skipped:].reshape(count, len(names))
    with np.errstate(over="ignore", invalid="ignore"):
        return rows[:, [names.index(name) for name in wanted]].astype(np.float32)


def _message(table: Array, antialiased: bool) -> Splats:
    count, harmonics = len(table), 1 + (table.shape[1] - len(REQUIRED)) // 3
    quats = table[:, 10:14].copy()
    length = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    # Not those of unit length: what we wrote is read back to the bit.
    rough = np.abs(length[:, 0] - 1) > 1e-6
    quats[rough] = quats[rough] / length[rough]
    sh = np.empty((count, harmonics, 3), np.float32)
    sh[:, 0] = table[:, 3:6]
    sh[:, 1:] = table[:, 14:].reshape(count, 3, harmonics - 1).transpose(0, 2, 1)
    return Splats(
        means=table[:, :3].copy(),
        quats=quats,
        log_scales=table[:, 7:10].copy(),
        opacity_logits=table[:, 6].copy(),
        sh=sh,
        intrinsics=np.empty((0, 3, 3)),
        T_world_camera=np.empty((0, 4, 4)),
        held_out=np.empty(0, np.int32),
        size=(0, 0),
        antialiased=antialiased,
    )
