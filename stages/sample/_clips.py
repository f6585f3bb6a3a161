"""Grouping of the kept frames into clips that never cross a cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import DecodedFrame, Frames, Options, Reader
from stages.sample._cursor import CarryOver

__all__ = [
    "SHARPNESS_WIDTH_PX",
    "ClipOptions",
    "SampleOptions",
    "SelectedFrame",
    "clips",
    "keep",
    "sharpness_of",
    "stretches",
]

SHARPNESS_WIDTH_PX = 320
"""Sharpness is measured at this width, so that it compares between sizes of one source."""


CAMERA_CLIP_S = 2.0
"""What a camera shows must not wait longer than this for its clip to fill."""


class ClipOptions(Options):
    """How long a clip may get."""

    clip_s: float | None = Field(
        None, gt=0, le=3600, description="longest time of a clip, s; unset: 2 of a camera, else any"
    )


class SampleOptions(ClipOptions):
    """Options of all samplers."""

    clip_frames: int = Field(16, ge=2, le=64, description="frames in a clip")


@dataclass(frozen=True)
class SelectedFrame:
    """A frame that was chosen, converted."""

    image: npt.NDArray[np.uint8]
    pts_ns: int
    index: int
    sharpness: float
    shot: int
    intrinsics: npt.NDArray[np.float64] | None
    T_world_camera: npt.NDArray[np.float64] | None
    depth: npt.NDArray[np.float32] | None
    right: npt.NDArray[np.uint8] | None


def sharpness_of(luma: npt.NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000)."""
    return float(cv2.Laplacian(luma, cv2.CV_16S).var())


def keep(picture: DecodedFrame, *, shot: int = 0, sharpness: float | None = None) -> SelectedFrame:
    """Convert a chosen frame."""
    if sharpness is None:
        sharpness = sharpness_of(picture.luma(SHARPNESS_WIDTH_PX))
    return SelectedFrame(
        picture.rgb(),
        picture.pts_ns,
        picture.index,
        sharpness,
        shot,
        picture.intrinsics,
        picture.T_world_camera,
        picture.depth(),
        picture.right(),
    )


def stretches(reader: Reader) -> Iterator[Iterator[DecodedFrame]]:
    """Yield the pictures between which nothing is missing: all of a file at once.

    A camera's end where the connection is lost; no shot and no clip may reach across.
    """
    if reader.probe.kind != "camera":
        yield iter(reader.scan())
        return
    while True:
        pictures = iter(reader.scan())
        first = next(pictures, None)
        if first is None:
            return
        yield chain([first], pictures)


def clips(
    reader: Reader,
    kept: Iterable[SelectedFrame],
    *,
    frames: int,
    overlap: int = 1,
    seconds: float | None = None,
    carry: CarryOver | None = None,
) -> Iterator[Frames]:
    """Group frames in order into clips of at most `frames`, as soon as each is full.

    A clip that lasts `seconds` is full as well; unset, that is `CAMERA_CLIP_S` of a camera and
    no limit elsewhere. Within a shot each clip begins with the last `overlap` frames of the one
    before, so that every pair of neighbors lies in some clip. Memory is bounded by one clip.

    Before a clip is handed out, `carry` is told how the next one begins. One that was told so
    before says how many of the first frames another clip held.
    """
    carry = carry or CarryOver()
    if seconds is None and reader.probe.kind == "camera":
        seconds = CAMERA_CLIP_S
    longest_ns = None if seconds is None else round(seconds * 1e9)
    held: list[SelectedFrame] = []
    shared = carry.shared
    for frame in kept:
        if held and frame.shot != held[-1].shot:
            if len(held) > shared:
                _tell(carry, [frame], 0)
                yield _frames(reader, held, shared)
            held, shared = [], 0
        held.append(frame)
        lasts_ns = frame.pts_ns - held[0].pts_ns
        full = len(held) == frames or (longest_ns is not None and lasts_ns >= longest_ns)
        if full and len(held) > shared:
            rest = held[max(len(held) - overlap, 0) :]
            _tell(carry, rest, len(rest))
            yield _frames(reader, held, shared)
            held, shared = rest, len(rest)
    if len(held) > shared:
        _tell(carry, [], 0)
        yield _frames(reader, held, shared)


def _tell(carry: CarryOver, frames: list[SelectedFrame], shared: int) -> None:
    carry.frames = [(k.index, k.sharpness, k.shot) for k in frames]
    carry.shared = shared


def _frames(reader: Reader, held: list[SelectedFrame], shared: int) -> Frames:
    poses = [k.T_world_camera for k in held if k.T_world_camera is not None]
    intrinsics = [k.intrinsics for k in held if k.intrinsics is not None]
    depth = [k.depth for k in held if k.depth is not None]
    right = [k.right for k in held if k.right is not None]
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
        depth=np.stack(depth) if len(depth) == len(held) else None,
        right=np.stack(right) if len(right) == len(held) else None,
        baseline_m=reader.baseline_m,
    )
