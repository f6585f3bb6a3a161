"""Reading one image file: upright RGB of eight bits, or why not."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["BadImage", "read_image", "stated_size"]


class BadImage(Exception):
    """The file holds no whole image; the text says why."""


def read_image(path: Path, max_pixels: int, *, upright: bool = True) -> npt.NDArray[np.uint8]:
    """Return the image, RGB uint8 [H, W, 3]; gray and 16 bit are widened and narrowed.

    Args:
        path: The file.
        max_pixels: Refuse more before anything is allocated.
        upright: Whether to turn it as its EXIF orientation says.

    Raises:
        BadImage: It cannot be read, is too large, or is cut off.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"it cannot be read ({error.strerror})") from error
    if not data:
        raise BadImage("it is empty (0 bytes)")
    size = stated_size(data)
    if size is None:
        raise BadImage("it is no image of a known format")
    if size[0] * size[1] > max_pixels:
        raise BadImage(
            f"it is {size[0]}x{size[1]}; at most {max_pixels} pixels are allowed "
            "(decode.max_pixels)"
        )
    if _cut_off(data):
        raise BadImage("it is cut off")
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage("it cannot be decoded") from error
    if image is None:
        raise BadImage("it cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from the header, or None where the format is not known."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack(">II", data[16:24])
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)[0]
        if data.startswith(b"BM"):
            width, height = struct.unpack("<ii", data[18:26])
            return abs(width), abs(height)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff(data)
    except (struct.error, IndexError):
        return None
    return None


def _jpeg(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """Return the size and where the compressed data begins (ITU T.81, annex B)."""
    position, size = 2, None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        (length,) = struct.unpack(">H", data[position + 2 : position + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            size = (width, height)
        if marker == 0xDA:
            return size, position + 2 + length
        position += 2 + length
    return size, len(data)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    found: dict[int, int] = {}
    for i in range(min(count, 512)):
        entry = data[start + 2 + 12 * i : start + 14 + 12 * i]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        if tag in (256, 257):
            found[tag] = struct.unpack(
                order + ("H" if kind == 3 else "I"), entry[8:][: 2 * kind - 4]
            )[0]
    return (found[256], found[257]) if len(found) == 2 else None


def _cut_off(data: bytes) -> bool:
    """Say whether the end is missing; the decoders would fill it up with gray."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-1024:]
    if data.startswith(b"\xff\xd8"):
        # A thumbnail has an end of its own, but before the picture's compressed data.
        return data.find(b"\xff\xd9", _jpeg(data)[1]) < 0
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data) + 1
    return False
