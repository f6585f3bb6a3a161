"""Run a dense two-image flow over the neighboring frames of a clip, forwards and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Frames, Motion, Options
from stages.flow._consistency import confidence

__all__ = ["SMALLEST_PX", "FlowOptions", "dense_motion", "lumas", "scaled_flow", "working_size"]

GrayArray = npt.NDArray[Any]
FloatArray = npt.NDArray[Any]

SMALLEST_PX = 12
"""Frames with a shorter side hold nothing to match (and OpenCV's DIS refuses them)."""
NARROWEST = 16
"""DIS halves the image until the long side is about 20 px; a short side under a 1/32 of the long
one would come to nothing, so that thinner frames are extended by their border."""


class FlowOptions(Options):
    """What every flow model can be told."""

    working_side: int = Field(
        640,
        ge=32,
        le=4096,
        description="longest side in px at which flow is computed; larger frames are reduced",
    )


def working_size(width: int, height: int, working_side: int) -> tuple[int, int]:
    """Return the width and height in px at which flow is computed."""
    scale = min(1.0, working_side / max(height, width))
    return max(round(width * scale), 1), max(round(height * scale), 1)


def lumas(frames: Frames, working_side: int) -> list[GrayArray]:
    """Return the luma of each frame, uint8 [h, w] with a longest side up to `working_side`."""
    h, w = frames.images.shape[1:3]
    size = working_size(w, h, working_side)
    gray = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in frames.images)
    if size == (w, h):
        return list(gray)
    return [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in gray]


def dense_motion(
    frames: Frames,
    working_side: int,
    flow_between: Callable[[GrayArray, GrayArray], FloatArray],
) -> Motion:
    """Return the flow of every pair, computed on lumas of up to `working_side` and scaled up.

    Frames with a side under `SMALLEST_PX` at the working size get zero flow of zero confidence.

    Args:
        frames: A clip.
        working_side: Longest side in px at which flow is computed.
        flow_between: Gives flow float32 [h, w, 2] from the first luma to the second.
    """
    count, h, w = len(frames.images) - 1, *frames.images.shape[1:3]
    flow = np.zeros((max(count, 0), h, w, 2), np.float32)
    trust = np.zeros((max(count, 0), h, w), np.float32)
    gray = lumas(frames, working_side)
    if min(gray[0].shape) >= SMALLEST_PX:
        for t in range(count):
            forward, weight = _both_ways(gray[t], gray[t + 1], flow_between)
            flow[t], trust[t] = scaled_flow(forward, weight, (w, h))
    return Motion(clip=frames.clip, flow=flow, confidence=trust)


def _both_ways(
    first: GrayArray, second: GrayArray, flow_between: Callable[[GrayArray, GrayArray], FloatArray]
) -> tuple[FloatArray, FloatArray]:
    h, w = first.shape
    shortest = -(-max(h, w) // NARROWEST)
    if min(h, w) < shortest:
        more = (0, max(shortest - h, 0), 0, max(shortest - w, 0))
        first = cv2.copyMakeBorder(first, *more, cv2.BORDER_REPLICATE)
        second = cv2.copyMakeBorder(second, *more, cv2.BORDER_REPLICATE)
    forward = flow_between(first, second)[:h, :w]
    backward = flow_between(second, first)[:h, :w]
    return forward, confidence(forward, backward)


def scaled_flow(
    flow: FloatArray, trust: FloatArray, size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Return a flow [h, w, 2] and its confidence [h, w] at another size (width, height) in px."""
    h, w = trust.shape
    if (w, h) == size:
        return flow, trust
    flow = cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR)
    flow *= np.array([size[0] / w, size[1] / h], np.float32)
    return flow, cv2.resize(trust, size, interpolation=cv2.INTER_LINEAR)
