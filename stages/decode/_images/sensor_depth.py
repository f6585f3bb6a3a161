"""Depth images of a sensor that lie beside the frames: 16-bit PNG in the layouts of data sets.

- 7-Scenes: `frame-000000.depth.png` beside `frame-000000.color.png`, millimeters.
- TUM RGB-D: `rgb.txt` and `depth.txt` list times and files; 5000 units a meter (Sturm et al. 2012).
- A folder `depth` beside the folder of the frames, with the same names, as ScanNet's tools write;
  millimeters.

0 and 65535 say that nothing was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from stages.decode._error_text import one_line
from stages.decode._images.image_file import BadImage, stated_size

__all__ = ["SensorDepth", "find_depth", "read_depth"]

Floats = npt.NDArray[np.float64]
Map = npt.NDArray[np.float32]

TUM_PER_M, USUAL_PER_M = 5000.0, 1000.0
TUM_APART_S = 0.02
"""Frame and depth image farther apart in time do not belong together (TUM's associate.py)."""
INVALID = (0, 65535)
KINECT_DEPTH_PX, KINECT_COLOR_PX = 585.0, 525.0
"""Focal lengths at 640 px of 7-Scenes' two cameras: its page states the first, the second is the
sensor's usual one (self-calibration of the red kitchen's color images gives 520 to 523)."""
LARGEST_LIST_BYTES = 64 << 20


@dataclass(frozen=True)
class SensorDepth:
    """Which depth image belongs to which frame, and how its numbers are meant."""

    origin: str = ""
    """Such as `depth.txt`; empty for none."""
    files: dict[Path, Path] = field(default_factory=dict[Path, Path])
    per_m: float = USUAL_PER_M
    """Units a meter."""
    zoom: float = 1.0
    """Focal length of the depth camera over that of the color camera: 1 where the images are
    registered. Another is taken out by resampling; the distance of the two cameras stays."""
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files)


def find_depth(images: list[Path], root: Path, per_m: float | None) -> SensorDepth:
    """Find the depth images of frames; `per_m` overrules the units of the layout.

    Raises:
        SourceError: A list of depth images cannot be read.
    """
    found = _beside(images) or _listed(images, root) or _same_names(images, root)
    if not found:
        return SensorDepth()
    lacking = len(images) - len(found.files)
    warnings = found.warnings
    if lacking:
        warnings = (*warnings, f"{lacking} of {len(images)} images have no depth in {found.origin}")
    return SensorDepth(found.origin, found.files, per_m or found.per_m, found.zoom, tuple(warnings))


def _beside(images: list[Path]) -> SensorDepth | None:
    """7-Scenes."""
    named = {
        image: image.with_name(image.stem.removesuffix(".color") + ".depth.png")
        for image in images
        if image.stem.endswith(".color")
    }
    files = {image: path for image, path in named.items() if path.is_file()}
    if not files:
        return None
    if not (images[0].parent / "camera-intrinsics.txt").is_file():
        return SensorDepth("*.depth.png", files)
    return SensorDepth(
        "*.depth.png",
        files,
        zoom=KINECT_DEPTH_PX / KINECT_COLOR_PX,
        warnings=(
            "the depth images of 7-Scenes are not registered to its color images: they are "
            f"enlarged by their focal lengths ({KINECT_DEPTH_PX:g} and {KINECT_COLOR_PX:g} px); "
            "the centimeters between the two cameras remain, some pixels at edges that are near",
        ),
    )


def _listed(images: list[Path], root: Path) -> SensorDepth | None:
    """TUM RGB-D."""
    for folder in dict.fromkeys([root, images[0].parent.parent]):
        if not (folder / "depth.txt").is_file():
            continue
        depth = _times(folder / "depth.txt")
        if not depth:
            raise SourceError(f"{one_line(str(folder / 'depth.txt'))} lists no depth images")
        color = _times(folder / "rgb.txt") if (folder / "rgb.txt").is_file() else []
        when = {(folder / name).resolve(): time for time, name in color}
        times = np.array([time for time, _ in depth])
        files: dict[Path, Path] = {}
        for image in images:
            time = when.get(image.resolve(), _as_time(image.stem))
            if time is None:
                continue
            nearest = int(np.argmin(np.abs(times - time)))
            path = folder / depth[nearest][1]
            inside = folder.resolve() in path.resolve().parents
            if abs(times[nearest] - time) <= TUM_APART_S and inside and path.is_file():
                files[image] = path
        return SensorDepth("depth.txt", files, TUM_PER_M)
    return None


def _same_names(images: list[Path], root: Path) -> SensorDepth | None:
    for folder in dict.fromkeys([root, images[0].parent, images[0].parent.parent]):
        named = {image: folder / "depth" / f"{image.stem}.png" for image in images}
        files = {image: path for image, path in named.items() if path.is_file()}
        if files:
            return SensorDepth("depth/", files)
    return None


def _times(path: Path) -> list[tuple[float, str]]:
    """Return times in seconds and file names; lines that begin with # are comments."""
    try:
        if path.stat().st_size > LARGEST_LIST_BYTES:
            raise SourceError(
                f"{one_line(str(path))} is larger than {LARGEST_LIST_BYTES} bytes, which no list "
                "of images is"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {one_line(str(path))}: {error}") from error
    found: list[tuple[float, str]] = []
    for line in lines:
        words = line.split()
        time = _as_time(words[0]) if len(words) >= 2 else None
        if time is not None:
            found.append((time, words[1]))
    return found


def _as_time(text: str) -> float | None:
    try:
        time = float(text)
    except ValueError:
        return None
    return time if np.isfinite(time) else None


def read_depth(path: Path, found: SensorDepth, size: tuple[int, int], max_pixels: int) -> Map:
    """Return a depth image in meters, float32 [H, W], NaN where nothing was measured.

    Args:
        path: The file.
        found: What it belongs to.
        size: (width, height) of the frame as it lies in its file.
        max_pixels: Refuse more before anything is allocated.

    Raises:
        BadImage: It is no whole 16-bit gray image, or does not belong to a frame of that shape.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"it cannot be read ({error.strerror})") from error
    stated = stated_size(data)
    if stated is None:
        raise BadImage("it is no image of a known format")
    if stated[0] * stated[1] > max_pixels:
        raise BadImage(
            f"it is {stated[0]}x{stated[1]}; at most {max_pixels} pixels are allowed "
            "(decode.max_pixels)"
        )
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-1024:]:
        raise BadImage("it is cut off")
    try:
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImage("it cannot be decoded") from error
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        kind = "cannot be decoded" if raw is None else f"holds {raw.dtype} {list(raw.shape)}"
        raise BadImage(f"it {kind}; depth images hold 16 bits, gray")
    height, width = raw.shape
    if abs((width * size[1]) / (height * size[0]) - 1) > 0.01:
        raise BadImage(
            f"it is {width}x{height} and the frame {size[0]}x{size[1]}, which is another shape: "
            "depth must be registered to the frames"
        )
    depth = raw.astype(np.float32) / np.float32(found.per_m)
    depth[np.isin(raw, INVALID)] = np.nan
    return depth if found.zoom == 1 else _zoomed(depth, found.zoom)


def _zoomed(depth: Map, zoom: float) -> Map:
    """Show depth as a camera of another focal length at the same place would."""
    height, width = depth.shape
    u = ((np.arange(width) + 0.5 - width / 2) * zoom + width / 2).astype(np.float32) - 0.5
    v = ((np.arange(height) + 0.5 - height / 2) * zoom + height / 2).astype(np.float32) - 0.5
    maps = np.meshgrid(u, v)
    return cv2.remap(
        depth, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan
    )
