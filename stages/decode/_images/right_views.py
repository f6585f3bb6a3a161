"""The right images of rectified stereo pairs: in a folder of their own, with the names of the left.

- KITTI odometry: `image_2` and `image_3` in color, `image_0` and `image_1` in gray.
- KITTI raw: `image_02/data` and `image_03/data`, `image_00/data` and `image_01/data`.
- `image_l` and `image_r`, `left` and `right`, as many tools write them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stages.decode._images.listing import IMAGE_SUFFIXES

__all__ = ["RightViews", "find_right"]

RIGHT_OF = {
    "image_2": "image_3",
    "image_0": "image_1",
    "image_02": "image_03",
    "image_00": "image_01",
    "image_l": "image_r",
    "left": "right",
}
"""Folder of the left images to that of the right ones."""


@dataclass(frozen=True)
class RightViews:
    """Which right image belongs to which left one."""

    origin: str = ""
    """Such as `image_3/`; empty for none."""
    files: dict[Path, Path] = field(default_factory=dict[Path, Path])
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files)


def find_right(images: list[Path]) -> RightViews:
    """Find the right images of frames."""
    folder = images[0].parent.absolute()
    inner = folder.name if folder.name == "data" else ""
    left = folder.parent if inner else folder
    name = RIGHT_OF.get(left.name)
    if name is None:
        return RightViews()
    beside = left.with_name(name) / inner
    if not beside.is_dir():
        return RightViews()
    known = {path.name for path in beside.iterdir()}
    files: dict[Path, Path] = {}
    for image in images:
        names = (image.name, *(image.stem + suffix for suffix in IMAGE_SUFFIXES))
        right = next((name for name in names if name in known), None)
        if right is not None:
            files[image] = beside / right
    lacking = len(images) - len(files)
    origin = f"{name}/{inner}/" if inner else f"{name}/"
    if not files:
        return RightViews(warnings=(f"no image of {origin} has the name of a left one: not used",))
    warnings = (f"{lacking} of {len(images)} images have no right one in {origin}",)
    return RightViews(origin, files, warnings if lacking else ())
