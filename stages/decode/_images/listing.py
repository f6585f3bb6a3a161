"""Which files are the frames of a folder, a glob or a single still, and in which order."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from pipeline.contract import Source
from pipeline.errors import SourceError
from stages.decode._error_text import named, one_line

__all__ = ["IMAGE_SUFFIXES", "find_images", "natural"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
USUAL_FOLDERS = (
    *("images", "image_2", "image_0", "image_l", "image_02/data", "image_00/data", "left"),
    *("rgb", "color"),
)
"""Where datasets keep their frames: nerfstudio and COLMAP, KITTI color and gray, stereo pairs,
TUM, ScanNet."""
NO_FRAME = re.compile(r"(^|[._-])(depth|mask|disp|disparity|seg|label|normal)s?$", re.IGNORECASE)
MOST_IMAGES = 1_000_000


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key in which frame9 comes before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(p), p) if p.isdecimal() else (0, 0, p.lower()) for p in parts]


def find_images(source: Source) -> tuple[list[Path], Path]:
    """Return the frames in natural order, and the folder to look for poses in.

    Depth maps, masks and the like that lie beside the frames are left out.

    Raises:
        SourceError: There are none.
    """
    path, shown = Path(source.uri), named(source)
    if path.is_dir():
        return _of_folder(path, shown), path
    if path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise SourceError(
                f"cannot read {shown} as images: '{one_line(path.suffix)}' is not one of "
                f"{', '.join(IMAGE_SUFFIXES)}; a video is read with decode.model=pyav"
            )
        return [path], path.parent
    if glob.has_magic(source.uri):
        found = _frames(Path(name) for name in glob.glob(source.uri, recursive=True))
        if not found:
            raise SourceError(f"cannot read {shown}: no image has a name like that")
        return found, found[0].parent
    if path.exists():
        raise SourceError(f"cannot read {shown}: it is neither a file nor a folder")
    raise SourceError(
        f"cannot read {shown}: there is no such file or folder; give a folder of images, a glob "
        "such as 'frames/*.png', or a video file"
    )


def _of_folder(path: Path, shown: str) -> list[Path]:
    try:
        found = _frames(path.iterdir())
        if found:
            return found
        folders = {child.name: child for child in path.iterdir() if child.is_dir()}
    except PermissionError as error:
        raise SourceError(f"cannot read {shown}: it may not be read by this user") from error
    for name in USUAL_FOLDERS:
        if (path / name).is_dir():
            found = _frames((path / name).iterdir())
            if found:
                return found
    filled = [child for child in sorted(folders.values()) if _frames(child.iterdir())]
    if len(filled) == 1:
        return _frames(filled[0].iterdir())
    if filled:
        names = ", ".join(one_line(child.name) for child in filled[:5])
        raise SourceError(f"{shown} has several folders of images ({names}); name one of them")
    raise SourceError(
        f"{shown} holds no images; a folder must hold files that end in {', '.join(IMAGE_SUFFIXES)}"
    )


def _frames(paths: object) -> list[Path]:
    found: list[Path] = []
    for path in paths:  # type: ignore[attr-defined]
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            if len(found) == MOST_IMAGES:
                raise SourceError(f"more than {MOST_IMAGES} images; give fewer with a glob")
            found.append(path)
    frames = [path for path in found if not NO_FRAME.search(path.stem)]
    # 7-Scenes names them frame-000000.color.jpg; whatever lies beside them is something else.
    color = [path for path in frames if path.stem.endswith(".color")]
    # A folder of nothing but depth maps has no frames; one called mask.png alone is a picture.
    chosen = color or frames or (found if len(found) == 1 else [])
    return sorted((path for path in chosen if path.is_file()), key=natural)
