"""What moves by itself, from optical flow and change: no weights, and no name for what it is.

Each pair of frames tells which patches no motion of the camera explains; a patch is carried along
by the flow, so that a thing that pauses within a clip stays masked. Flow counts only near to a
change of the picture, since in dull places it is a guess; where there is no parallax, change alone
is enough, since of fast things flow is wrong. What moves only along its epipolar line, no farther
than depth could explain, is not seen. Measured on rendered rooms with a ball over a fifth of the
picture: 0.93 of its pixels are masked, and nothing of rooms at rest.
"""

from __future__ import annotations

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context, Frames, Masks, Motion, Options, Stage
from stages.segment._motion import MOVING, moving_patches
from stages.segment._patches import grown

__all__ = ["Config", "Model"]


class Config(Options):
    """Options of `segment/moving`."""

    margin: float = Field(
        0.008, ge=0, le=0.1, description="how far masks are grown, share of the longer side"
    )
    working_side: int = Field(
        640, ge=64, le=4096, description="longer side in px at which motion is judged"
    )


class Model(Stage[Config]):
    """Patches whose motion or change the camera does not explain."""

    def open(self, context: Context) -> None:
        """Take the threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, frames: Frames, motion: Motion) -> Masks:
        """Mask what moves by itself; a clip of one frame shows nothing of that."""
        found = moving_patches(frames, motion, self.config.working_side)
        count, height, width = frames.images.shape[:3]
        moving = np.zeros((count, height, width), np.bool_)
        instance = np.zeros((count, height, width), np.uint16)
        for t, patches in enumerate(found):
            instance[t] = _enlarged(patches.number.astype(np.uint16), width, height)
            left_out = grown(patches.number > 0, self.config.margin).astype(np.uint8)
            moving[t] = _enlarged(left_out, width, height) > 0
        frame = np.repeat(np.arange(count, dtype=np.int32), [len(p.box) for p in found])
        return Masks(
            clip=frames.clip,
            moving=moving,
            frame=frame,
            box=np.concatenate([patches.box for patches in found]).astype(np.float32),
            score=np.array([s for patches in found for s in patches.score], np.float32),
            label=(MOVING,) * len(frame),
            model="segment/moving",
            instance=instance,
        )


def _enlarged(values: Array, width: int, height: int) -> Array:
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST)
