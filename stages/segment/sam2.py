"""Things masked and followed through a clip by SAM 2: found by their motion or by a detector.

Every so many frames it is looked what has come into view. The box of a thing prompts the network,
which masks it to the pixel in all frames of the clip, before and after; what one of its masks
covers is not taken up again. Within a clip a thing keeps its number, and `track` joins the clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context, Frames, Masks, Motion, Resources
from pipeline.weights import Checkpoint, Known, checkpoint
from stages._geometry.boxes import box_of, overlap_of
from stages._networks.batching import Batches
from stages._networks.checkpoints import check_task, load, processor
from stages.segment import detection
from stages.segment._detection import Detection, masks_of
from stages.segment._motion import MOVING, Patches, moving_patches
from stages.segment._propagation import Followed, Propagation
from stages.segment._stage import LearnedSegmenter, ObjectDetectorOptions

__all__ = ["Config", "Model"]

TASK = "masks followed through a video"
AUTO, KINDS = "AutoModel", ("sam2_video",)
KNOWN = (
    Known(
        name="facebook/sam2.1-hiera-tiny",
        license="apache-2.0",
        nbytes=156_000_000,
        about="SAM 2.1, tiny",
    ),
)
AT_A_TIME = 16
SAME_FROM = 0.5
"""Share from which something found is a thing that is followed already: of its patch that a mask
covers, or of its box and the mask's (intersection over union)."""
CLIP_BYTES = 2_000_000_000
"""A frame as the network takes it is 12 MB, and what it remembers of a thing 1 MB a frame."""


class Config(ObjectDetectorOptions):
    """Options of `segment/sam2`."""

    checkpoint: str = Field(KNOWN[0].name, description="name on the hub or folder")
    detector: str = Field(
        "",
        description="what finds things: a detector as of segment/detection, by name or folder; "
        "empty: their own motion, or with a text "
        f"{detection.KNOWN_BY_TEXT[0].name}",
    )
    text: str = Field(
        "", description="comma-separated things to look for, in words, such as 'a dog, a red car'"
    )
    every: int = Field(
        8, ge=1, le=10_000, description="frames from one look for new things to the next"
    )
    most_things: int = Field(
        32, ge=1, le=1000, description="things of a clip that are followed, the surest first"
    )
    working_side: int = Field(
        640, ge=64, le=4096, description="longer side in px at which motion is judged"
    )
    batch: int = Field(
        0, ge=0, le=256, description=f"things followed at a time; 0: up to {AT_A_TIME}"
    )


class _Detector(detection.Model):
    named_by = "segment.detector"


@dataclass(frozen=True, slots=True, eq=False)
class _TrackedObject:
    label: str
    followed: Followed


class Model(LearnedSegmenter[Config]):
    """Masks of things, each with one number in all frames of a clip."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._detector: _Detector | None = None
        if config.detector or config.text:
            own = ("text", "labels", "threshold", "device", "precision")
            options = {name: getattr(config, name) for name in own}
            self._detector = _Detector(detection.Config(checkpoint=config.detector, **options))

    @property
    def weights(self) -> tuple[Checkpoint, ...]:
        """The chosen checkpoint, and that of the detector if there is one."""
        found = self._detector.weights if self._detector else ()
        return (_checkpoint(self.config.checkpoint), *found)

    @classmethod
    def catalog(cls) -> tuple[Checkpoint, ...]:
        """The checkpoints known by name; those of detectors are `segment/detection`'s."""
        return tuple(_checkpoint(known.name) for known in KNOWN)

    @property
    def resources(self) -> Resources:
        """What one worker needs."""
        own = super().resources
        return replace(own, memory_bytes=own.memory_bytes + CLIP_BYTES)

    def check(self) -> None:
        """See that the checkpoint is SAM 2's for video, and that the detector will do.

        Raises:
            UsageError: It is not, or does not.
        """
        check_task(AUTO, self.weights[0], TASK, KINDS)
        if self._detector:
            self._detector.check()

    def open(self, context: Context) -> None:
        """Load the networks.

        Raises:
            UsageError: A checkpoint is for another task, damaged, or knows none of the labels.
        """
        super().open(context)
        cv2.setNumThreads(context.threads)
        weights = self.weights[0]
        self._network = load(
            AUTO,
            weights,
            self.config,
            step="segment",
            task=TASK,
            kinds=KINDS,
            busy="vision_encoder",
        )
        self._processor = processor("AutoProcessor", weights)
        if self._detector:
            self._detector.open(context)
        self._batches: Batches[list[Followed]] = Batches(
            self.config.batch or AT_A_TIME,
            "things",
            "take a smaller checkpoint, or segment.device=cpu",
            self.warn,
        )

    def process(self, frames: Frames, motion: Motion | None = None) -> Masks | None:
        """Mask the things of a clip.

        Raises:
            UsageError: Not even one thing fits into the memory of the GPU.
        """
        if self._detector is None and motion is None and len(frames.images) > 1:
            self.lost(
                frames.clip,
                "segment/sam2 looks for what moves, and there is no optical flow; "
                "set flow.model, or segment.detector",
            )
            return None
        clip: Propagation | None = None
        tracked_objects: list[_TrackedObject] = []
        too_many = 0
        for t, detections in self._detections(frames, motion):
            masks = (
                [clip.enlarged(tracked.followed, t) > 0 for tracked in tracked_objects]
                if clip
                else []
            )
            fresh = [one for one in detections if not any(_same(one, mask) for mask in masks)]
            fresh.sort(key=lambda one: -one.score)
            room = self.config.most_things - len(tracked_objects)
            too_many += max(len(fresh) - room, 0)
            fresh = fresh[:room]
            if fresh:
                clip = clip or Propagation(self._network, self._processor, frames.images)
                tracked_objects += self._followed(clip, t, fresh)
        self._warn_incomplete(frames, tracked_objects, too_many)
        # One frame after the other: all masks of all things would not fit in.
        found = (
            _in_frame(clip, tracked_objects, t) if clip else [] for t in range(len(frames.images))
        )
        return masks_of(frames, found, self.config.margin, "segment/sam2")

    def _detections(
        self, frames: Frames, motion: Motion | None
    ) -> Iterator[tuple[int, list[Detection]]]:
        """Yield the frames in which things are looked for, and what is found there."""
        at = range(0, len(frames.images), self.config.every)
        height, width = frames.images.shape[1:3]
        if self._detector:
            found = self._detector.detect_frames(frames.images[:: self.config.every], frames.clip)
            for t, detections in zip(at, found, strict=True):
                inside = [_inside(one, width, height) for one in detections]
                yield t, [one for one in inside if np.all(one.box[:2] < one.box[2:])]
        elif motion is not None:
            patches = moving_patches(frames, motion, self.config.working_side)
            for t in at:
                yield t, _moving_detections(patches[t], width, height)

    def _followed(self, clip: Propagation, t: int, fresh: list[Detection]) -> list[_TrackedObject]:
        boxes = [one.box for one in fresh]

        def follow(size: int) -> list[Followed]:
            groups = [boxes[at : at + size] for at in range(0, len(boxes), size)]
            return [tracked for group in groups for tracked in clip.follow(t, group)]

        followed = self._batches.attempt(follow)
        return [
            _TrackedObject(one.label, tracked) for one, tracked in zip(fresh, followed, strict=True)
        ]

    def _warn_incomplete(
        self, frames: Frames, tracked_objects: list[_TrackedObject], too_many: int
    ) -> None:
        if too_many:
            self.warn(
                f"{too_many} things found in {frames.clip} were not followed: it has more than "
                f"segment.most_things={self.config.most_things}"
            )
        lost = sum(tracked.followed.lost for tracked in tracked_objects)
        if lost:
            self.warn(
                f"{lost} of {len(tracked_objects) * len(frames.images)} masks of {frames.clip} are "
                "no numbers: nothing was seen there; try segment.precision=float32"
            )


def _in_frame(clip: Propagation, tracked_objects: list[_TrackedObject], t: int) -> list[Detection]:
    """Return the things of a frame; a pixel belongs to the one whose logit is the highest."""
    best = np.zeros(clip.size, np.float32)
    owner = np.zeros(clip.size, np.uint16)
    for n, tracked in enumerate(tracked_objects, 1):
        logits = clip.enlarged(tracked.followed, t)
        higher = logits > best
        best[higher], owner[higher] = logits[higher], n
    detections = list[Detection]()
    for n, tracked in enumerate(tracked_objects, 1):
        mask = owner == n
        if mask.any():
            score = float(tracked.followed.score[t])
            detections.append(Detection(box_of(mask), score, tracked.label, mask, n))
    return detections


def _moving_detections(patches: Patches, width: int, height: int) -> list[Detection]:
    """Return the patches of a frame of which the frame itself shows that they move."""
    number = np.where(patches.now, patches.number, 0).astype(np.uint16)
    number = cv2.resize(number, (width, height), interpolation=cv2.INTER_NEAREST)
    masks = [(number == n + 1, score) for n, score in enumerate(patches.score)]
    return [Detection(box_of(mask), score, MOVING, mask) for mask, score in masks if mask.any()]


def _same(one: Detection, mask: Array) -> bool:
    """Whether what was found is the thing of a mask [H, W]."""
    if not mask.any():
        return False
    if one.mask is not None:
        return bool(mask[one.mask].mean() >= SAME_FROM)
    return overlap_of(one.box, box_of(mask)) >= SAME_FROM


def _inside(one: Detection, width: int, height: int) -> Detection:
    return replace(one, box=np.clip(one.box, 0, [width, height, width, height]))


def _checkpoint(name: str) -> Checkpoint:
    return checkpoint(
        name, task=TASK, known=KNOWN, instead="segment.model=moving", option="segment.checkpoint"
    )
