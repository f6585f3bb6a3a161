"""Which frames of a clip a network looks at: one window or several, each of so many frames."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Frames
from stages._networks.checkpoints import LearnedOptions

__all__ = ["Window", "WindowOptions", "crops", "windows"]


class WindowOptions(LearnedOptions):
    """Which network looks, and which frames and which part of them it sees."""

    checkpoint: str = Field("", description="owner/name on the hub, or a folder")
    stride: int = Field(
        0,
        ge=0,
        le=64,
        description="frames from one that it sees to the next; 0: spread over the whole window",
    )
    views: int = Field(
        1, ge=1, le=16, description="windows of a clip, evenly placed, each scored by itself"
    )
    crops: int = Field(
        1,
        ge=1,
        le=3,
        description="1: the part that the checkpoint itself cuts out; more: so many squares along "
        "the longer side, whose scores are averaged",
    )


@dataclass(frozen=True)
class Window:
    """A stretch of a clip."""

    frames: npt.NDArray[np.int64]
    """Rows of the clip's frames, as many as the network takes, never falling."""
    start_ns: int
    end_ns: int
    """When the frame after its last one begins, or the clip's last frame."""


def windows(clip: Frames, count: int, stride: int, views: int) -> list[Window]:
    """Choose the frames of every window of a clip.

    Args:
        clip: With at least two frames.
        count: Frames that the network takes.
        stride: From one to the next; 0 spreads them over the window.
        views: How many windows; fewer where they would be the same.

    Without a stride, or in a clip that is too short for it, the windows divide the clip, and where
    one has fewer frames than the network takes, some come twice.
    """
    last = len(clip.pts_ns) - 1
    span = (count - 1) * stride
    if stride and span <= last:
        starts = np.unique(np.rint(np.linspace(0, last - span, views)).astype(np.int64)).tolist()
        chosen = [start + stride * np.arange(count) for start in starts]
        edges = [(start, min(start + span + 1, last)) for start in starts]
    else:
        borders = np.unique(np.rint(np.linspace(0, last, views + 1)).astype(np.int64)).tolist()
        edges = list(pairwise(borders))
        chosen = [np.rint(np.linspace(a, b, count)).astype(np.int64) for a, b in edges]
    return [
        Window(frames, int(clip.pts_ns[a]), int(clip.pts_ns[b]))
        for frames, (a, b) in zip(chosen, edges, strict=True)
    ]


def crops(images: npt.NDArray[np.uint8], count: int) -> list[npt.NDArray[Any]]:
    """Return images [T, H, W, 3] as they are, or `count` squares along their longer side."""
    height, width = images.shape[1:3]
    if count == 1:
        return [images]
    side = min(height, width)
    places = np.rint(np.linspace(0, max(height, width) - side, count)).astype(int).tolist()
    if width >= height:
        return [images[:, :, at : at + side] for at in places]
    return [images[:, at : at + side] for at in places]
