"""`images/`: the posed keyframes as files, which the COLMAP and nerfstudio exports refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from pipeline.contract import Stage, Views
from stages.export._publish import publish_folder

__all__ = ["ImageFormat", "find_images", "finite_views", "image_name", "write_images"]

ImageFormat = Literal["jpg", "png"]


def image_name(index: int, suffix: ImageFormat) -> str:
    """Return the file name of the frame with this number in the source."""
    return f"{index:06d}.{suffix}"


def finite_views(views: Views) -> list[int]:
    """Return the numbers of the views whose pose and intrinsics are finite."""
    numbers = np.concatenate(
        [a.reshape(len(a), -1) for a in (views.T_world_camera, views.intrinsics)], axis=1
    )
    return np.flatnonzero(np.isfinite(numbers).all(axis=1)).tolist()


def write_images(stage: Stage[Any], views: Views, suffix: ImageFormat, quality: int) -> None:
    """Write every view's picture; `quality` is that of JPEG, 1..100."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == "jpg" else []
    with publish_folder(stage, "images", "images") as folder:
        for k, image in enumerate(views.images):
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            encoded = cv2.imencode(f".{suffix}", bgr, parameters)[1]
            name = image_name(int(views.index[k]), suffix)
            # cv2.imwrite only returns False on a full disk; writing the bytes raises.
            (folder / name).write_bytes(encoded.tobytes())
            stage.progress(k + 1, len(views.images))


def find_images(folder: Path, index: list[int]) -> list[str] | None:
    """Return the names of these frames' files under `images/`, or None if one is missing."""
    suffixes: tuple[ImageFormat, ...] = ("jpg", "png")
    for suffix in suffixes:
        names = [image_name(i, suffix) for i in index]
        if all((folder / "images" / name).is_file() for name in names):
            return names
    return None
