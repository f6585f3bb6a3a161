"""The patches of a clip that move by themselves, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.contract import Array, Frames, Motion
from stages.segment._evidence import evidence_of_motion
from stages.segment._patches import followed, numbered, patches

__all__ = ["MOVING", "Patches", "moving_patches"]

MOVING = "moving"
"""What it is called: motion alone has no name for a thing."""


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """What moves in one frame, counted from 1."""

    number: Array
    """int32 [h, w] at the size at which motion was judged; 0 at rest."""
    box: Array
    """float64 [N, 4] px of the frame: left, top, right, bottom."""
    score: tuple[float, ...]
    """N, in 0..1: how much evidence there is that each moves."""
    now: Array
    """bool [h, w]: where this frame and the next alone show it. A patch is also where the thing
    moves a moment before or after, and its trail."""


def moving_patches(frames: Frames, motion: Motion, side: int) -> list[Patches]:
    """Return what moves by itself in each frame; a clip of one frame shows nothing of that.

    Args:
        frames: The clip.
        motion: Its optical flow.
        side: Longer side in px at which motion is judged.
    """
    count, height, width = frames.images.shape[:3]
    share = min(1.0, side / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    nothing = np.zeros((count, size[1], size[0]), np.float32)
    found, now = nothing, nothing > 0
    if count > 1:
        flow = np.stack([_scaled(f, size) for f in motion.flow])
        gray = [_gray(image, size) for image in frames.images]
        trust = [cv2.resize(c, size, interpolation=cv2.INTER_NEAREST) for c in motion.confidence]
        pairs = [
            evidence_of_motion(flow[t], trust[t], gray[t], gray[t + 1]) for t in range(count - 1)
        ]
        # What has also changed since the frame before is the thing, and not what it is about to
        # cover (three-frame differencing).
        since = [pairs[0].change, *(pair.change_there for pair in pairs)]
        both = [np.minimum(pair.change, before) for pair, before in zip(pairs, since, strict=False)]
        strength = [np.maximum(pair.motion, alone) for pair, alone in zip(pairs, both, strict=True)]
        certain = np.stack([patches(alone) for alone in both])
        found = followed(np.stack([patches(one) for one in strength]), certain, flow)
        now = np.stack([patches(pair.motion) for pair in pairs])
        for t in range(count - 1):
            # Flow has sharper borders; where it sees nothing, change must do.
            now[t] = now[t] if now[t].any() else certain[t]
        # The last frame begins no pair; the one before it tells.
        now = np.concatenate([now, now[-1:]])
    scale = np.array([width, height, width, height]) / np.tile(size, 2)
    return [_counted(found[t], scale, now[t]) for t in range(count)]


def _counted(evidence: Array, scale: Array, now: Array) -> Patches:
    number, boxes = numbered(evidence > 0)
    means = [float(evidence[number == n + 1].mean()) for n in range(len(boxes))]
    return Patches(number, boxes * scale, tuple(mean / (1 + mean) for mean in means), now)


def _gray(image: Array, size: tuple[int, int]) -> Array:
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)


def _scaled(flow: Array, size: tuple[int, int]) -> Array:
    """Return flow [H, W, 2] px at another size (width, height)."""
    height, width = flow.shape[:2]
    if (width, height) == size:
        return flow
    small = cv2.resize(flow, size, interpolation=cv2.INTER_NEAREST)
    return small * np.array([size[0] / width, size[1] / height], np.float32)
