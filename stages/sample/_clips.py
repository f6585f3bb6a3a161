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
    "contiguous_scans",
    "convert",
    "sharpness_of",
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


def convert(frame: DecodedFrame, *, shot: int = 0, sharpness: float | None = None) -> SelectedFrame:
    """Convert a chosen frame."""
    if sharpness is None:
        sharpness = sharpness_of(frame.luma(SHARPNESS_WIDTH_PX))
    return SelectedFrame(
        frame.rgb(),
        frame.pts_ns,
        frame.index,
        sharpness,
        shot,
        frame.intrinsics,
        frame.T_world_camera,
        frame.depth(),
        frame.right(),
    )


def contiguous_scans(reader: Reader) -> Iterator[Iterator[DecodedFrame]]:
    """Yield the pictures between which nothing is missing: all of a file at once.

    A camera's end where the connection is lost; no shot and no clip may reach across.
    """
    if reader.probe.kind != "camera":
        yield iter(reader.scan())
        return
    while True:
        frames = iter(reader.scan())
        first = next(frames, None)
        if first is None:
            return
        yield chain([first], frames)


def clips(
    reader: Reader,
    selected: Iterable[SelectedFrame],
    *,
    frames: int,
    overlap: int = 1,
    seconds: float | None = None,
    carry_over: CarryOver | None = None,
) -> Iterator[Frames]:
    """Group frames in order into clips of at most `frames`, as soon as each is full.

    A clip that lasts `seconds` is full as well; unset, that is `CAMERA_CLIP_S` of a camera and
    no limit elsewhere. Within a shot each clip begins with the last `overlap` frames of the one
    before, so that every pair of neighbors lies in some clip. Memory is bounded by one clip.

    Before a clip is handed out, `carry_over` is told how the next one begins. One that was told so
    before says how many of the first frames another clip held.
    """
    carry_over = carry_over or CarryOver()
    if seconds is None and reader.probe.kind == "camera":
        seconds = CAMERA_CLIP_S
    longest_ns = None if seconds is None else round(seconds * 1e9)
    current: list[SelectedFrame] = []
    shared = carry_over.shared
    for frame in selected:
        if current and frame.shot != current[-1].shot:
            if len(current) > shared:
                _update_carry_over(carry_over, [frame], 0)
                yield _frames(reader, current, shared)
            current, shared = [], 0
        current.append(frame)
        lasts_ns = frame.pts_ns - current[0].pts_ns
        full = len(current) == frames or (longest_ns is not None and lasts_ns >= longest_ns)
        if full and len(current) > shared:
            rest = current[max(len(current) - overlap, 0) :]
            _update_carry_over(carry_over, rest, len(rest))
            yield _frames(reader, current, shared)
            current, shared = rest, len(rest)
    if len(current) > shared:
        _update_carry_over(carry_over, [], 0)
        yield _frames(reader, current, shared)


def _update_carry_over(carry_over: CarryOver, frames: list[SelectedFrame], shared: int) -> None:
    carry_over.frames = [(k.index, k.sharpness, k.shot) for k in frames]
    carry_over.shared = shared


def _frames(reader: Reader, current: list[SelectedFrame], shared: int) -> Frames:
    poses = [k.T_world_camera for k in current if k.T_world_camera is not None]
    intrinsics = [k.intrinsics for k in current if k.intrinsics is not None]
    depth = [k.depth for k in current if k.depth is not None]
    right = [k.right for k in current if k.right is not None]
    unknown = np.full((4, 4), np.nan)
    return Frames(
        clip=f"{reader.source.name}/{current[0].index}-{current[-1].index}",
        images=np.stack([k.image for k in current]),
        pts_ns=np.array([k.pts_ns for k in current], dtype=np.int64),
        index=np.array([k.index for k in current], dtype=np.int64),
        sharpness=np.array([k.sharpness for k in current], dtype=np.float32),
        shot=current[0].shot,
        overlap=shared,
        intrinsics=np.stack(intrinsics) if len(intrinsics) == len(current) else None,
        T_world_camera=(
            np.stack([unknown if k.T_world_camera is None else k.T_world_camera for k in current])
            if poses
            else None
        ),
        metric=reader.metric,
        depth=np.stack(depth) if len(depth) == len(current) else None,
        right=np.stack(right) if len(right) == len(current) else None,
        baseline_m=reader.baseline_m,
    )
