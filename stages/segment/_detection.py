"""From what was seen frame by frame to the `Masks` of a clip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.contract import Array, Frames, Masks
from stages.segment._patches import grown

__all__ = ["Detection", "masks_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One thing in one frame."""

    box: Array
    """float [4] px: left, top, right, bottom; it may reach out of the picture."""
    score: float
    label: str
    mask: Array | None = None
    """bool [H, W], or None where only the box is known."""
    object_id: int = 0
    """Its number in the clip, from 1, where it was followed."""


def masks_of(
    frames: Frames, detections: Iterable[Sequence[Detection]], margin: float, model: str
) -> Masks:
    """Return the masks of a clip; where only boxes are known, all of a box is masked.

    Things without a pixel in the picture are left out.

    Args:
        frames: The clip.
        detections: What was seen in each of its frames.
        margin: How far the masks are grown, in shares of the longer side.
        model: Who saw it.
    """
    count, height, width = frames.images.shape[:3]
    moving = np.zeros((count, height, width), np.bool_)
    instance = np.zeros((count, height, width), np.uint16)
    frame, box, score, label = list[int](), list[Array](), list[float](), list[str]()
    object_ids, whole = list[int](), True
    for t, frame_detections in enumerate(detections):
        number = 0
        for detection in frame_detections:
            whole &= detection.mask is not None
            inside = np.clip(detection.box, 0, [width, height, width, height]).astype(np.float32)
            left, top, right, bottom = inside.tolist()
            if left >= right or top >= bottom:
                continue
            if detection.mask is None:
                rows = slice(math.floor(top), math.ceil(bottom))
                moving[t, rows, math.floor(left) : math.ceil(right)] = True
            number += 1
            if detection.mask is not None:
                instance[t][detection.mask] = number
            frame.append(t)
            box.append(inside)
            score.append(detection.score)
            label.append(detection.label)
            object_ids.append(detection.object_id)
        moving[t] = grown(moving[t] | (instance[t] > 0), margin)
    return Masks(
        clip=frames.clip,
        moving=moving,
        frame=np.array(frame, np.int32),
        box=np.array(box, np.float32).reshape(-1, 4),
        score=np.array(score, np.float32),
        label=tuple(label),
        model=model,
        instance=instance if whole else None,
        thing=np.array(object_ids, np.int32) if object_ids and all(object_ids) else None,
    )
