"""Grouping of the kept frames into clips that never cross a cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.messages import Frames
from pipeline.source import Picture, Reader
from pipeline.stage import Options

__all__ = ["SHARPNESS_WIDTH_PX", "Kept", "SampleOptions", "clips", "keep", "sharpness_of"]

SHARPNESS_WIDTH_PX = 320
"""Sharpness is measured at this width, so that it compares between sizes of one source."""


class SampleOptions(Options):
    """Options of all samplers."""

    clip_frames: int = Field(16, ge=2, le=64, description="frames in a clip")


@dataclass(frozen=True)
class Kept:
    """A frame that was chosen, converted."""

    image: npt.NDArray[np.uint8]
    pts_ns: int
    index: int
    sharpness: float
    shot: int
    intrinsics: npt.NDArray[np.float64] | None
    T_world_camera: npt.NDArray[np.float64] | None


def sharpness_of(luma: npt.NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000)."""
    return float(cv2.Laplacian(luma, cv2.CV_16S).var())


def keep(picture: Picture, *, shot: int = 0, sharpness: float | None = None) -> Kept:
    """Convert a chosen frame."""
    if sharpness is None:
        sharpness = sharpness_of(picture.luma(SHARPNESS_WIDTH_PX))
    return Kept(
        picture.rgb(),
        picture.pts_ns,
        picture.index,
        sharpness,
        shot,
        picture.intrinsics,
        picture.T_world_camera,
    )


def clips(
    reader: Reader, kept: Iterable[Kept], *, frames: int, overlap: int = 1
) -> Iterator[Frames]:
    """Group frames in order into clips of at most `frames`.

    Within a shot each clip begins with the last `overlap` frames of the one before, so that
    every pair of neighbours lies in some clip. Memory is bounded by one clip.
    """
    held: list[Kept] = []
    shared = 0
    for frame in kept:
        if held and (frame.shot != held[-1].shot or len(held) == frames):
            if len(held) > shared:
                yield _frames(reader, held, shared)
            if frame.shot != held[-1].shot:
                held, shared = [], 0
            else:
                held = held[len(held) - overlap :]
                shared = len(held)
        held.append(frame)
    if len(held) > shared:
        yield _frames(reader, held, shared)


def _frames(reader: Reader, held: list[Kept], shared: int) -> Frames:
    poses = [k.T_world_camera for k in held if k.T_world_camera is not None]
    intrinsics = [k.intrinsics for k in held if k.intrinsics is not None]
    unknown = np.full((4, 4), np.nan)
    return Frames(
        clip=f"{reader.source.name}/{held[0].index}-{held[-1].index}",
        images=np.stack([k.image for k in held]),
        pts_ns=np.array([k.pts_ns for k in held], dtype=np.int64),
        index=np.array([k.index for k in held], dtype=np.int64),
        sharpness=np.array([k.sharpness for k in held], dtype=np.float32),
        shot=held[0].shot,
        overlap=shared,
        intrinsics=np.stack(intrinsics) if len(intrinsics) == len(held) else None,
        T_world_camera=(
            np.stack([unknown if k.T_world_camera is None else k.T_world_camera for k in held])
            if poses
            else None
        ),
        metric=reader.metric,
    )
