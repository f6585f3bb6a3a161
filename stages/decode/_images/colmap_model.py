"""The cameras and poses of a COLMAP model, binary or text, without its points.

Formats: https://colmap.github.io/format.html. Our own reader, so that the process that decodes
does not load pycolmap.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.errors import SourceError
from stages.decode._error_text import one_line
from stages.decode._images.calibration import CameraModel

__all__ = ["ColmapImage", "ColmapModel", "read_colmap"]

MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
"""Number to name and count of parameters (colmap/src/colmap/sensor/models.h)."""


@dataclass(frozen=True)
class ColmapImage:
    """One posed image: rotation and translation from world to camera."""

    wxyz: tuple[float, ...]
    translation: tuple[float, ...]
    camera: int


@dataclass(frozen=True)
class ColmapModel:
    """Cameras by number, images by name."""

    cameras: dict[int, CameraModel]
    images: dict[str, ColmapImage]
    warnings: tuple[str, ...]


def read_colmap(folder: Path) -> ColmapModel:
    """Read `cameras` and `images`, `.bin` before `.txt`.

    Raises:
        SourceError: A file is missing or damaged.
    """
    try:
        if (folder / "images.bin").is_file():
            raw, images = _binary(folder)
        else:
            raw, images = _text(folder)
    except (OSError, struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise SourceError(
            f"cannot read the COLMAP model in {one_line(str(folder))}: {error}; mend it, or move "
            "it away"
        ) from error
    cameras, unknown = {}, set[str]()
    for number, (name, width, height, values) in raw.items():
        camera = _camera(name, width, height, values)
        if camera is None:
            unknown.add(name)
        else:
            cameras[number] = camera
    warnings = tuple(
        f"COLMAP cameras of the model {name} are not undistorted: their intrinsics are ignored"
        for name in sorted(unknown)
    )
    return ColmapModel(cameras, images, warnings)


_Raw = dict[int, tuple[str, int, int, tuple[float, ...]]]


def _camera(name: str, width: int, height: int, v: tuple[float, ...]) -> CameraModel | None:
    if name in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        fx = fy = v[0]
        cx, cy = v[1:3]
        radial = (*v[3:], 0.0, 0.0)[:2]
        distortion = (*radial, 0.0, 0.0) if len(v) > 3 else ()
    elif name in ("PINHOLE", "OPENCV", "FULL_OPENCV"):
        fx, fy, cx, cy = v[:4]
        distortion = v[4:]
    else:
        return None
    return CameraModel(width, height, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), distortion)


def _binary(folder: Path) -> tuple[_Raw, dict[str, ColmapImage]]:
    cameras: _Raw = {}
    with (folder / "cameras.bin").open("rb") as file:
        for _ in range(_read(file, "<Q")[0]):
            number, model, width, height = _read(file, "<IiQQ")
            name, count = MODELS.get(model, ("", -1))
            if count < 0:
                raise ValueError(f"camera model {model} is not known")
            cameras[number] = (name, width, height, _read(file, f"<{count}d"))
    images: dict[str, ColmapImage] = {}
    with (folder / "images.bin").open("rb") as file:
        for _ in range(_read(file, "<Q")[0]):
            row = _read(file, "<I7dI")
            name = bytearray()
            while (char := file.read(1)) not in (b"\0", b""):
                name += char
            (points,) = _read(file, "<Q")
            file.seek(24 * points, 1)
            images[name.decode("utf-8")] = ColmapImage(row[1:5], row[5:8], row[8])
    return cameras, images


def _read(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(folder: Path) -> tuple[_Raw, dict[str, ColmapImage]]:
    cameras: _Raw = {}
    for line in (folder / "cameras.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            number, name, width, height, *values = line.split()
            cameras[int(number)] = (
                name,
                int(width),
                int(height),
                tuple(float(value) for value in values),
            )
    images: dict[str, ColmapImage] = {}
    lines = (folder / "images.txt").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if not line.startswith("#")]
    # Every second line lists the points, and may be empty.
    for line in rows[::2]:
        if line.strip():
            words = line.split(maxsplit=9)
            numbers = tuple(float(word) for word in words[1:8])
            images[words[9]] = ColmapImage(numbers[:4], numbers[4:], int(words[8]))
    return cameras, images
