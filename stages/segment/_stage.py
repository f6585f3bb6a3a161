"""What the networks of this step have in common: frames in batches, things out, masks of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context, Frames, Masks, Resources, Stage
from pipeline.weights import Checkpoint
from stages._networks.batching import Batches
from stages._networks.checkpoints import LearnedOptions, device_of, resources_of
from stages.segment._detection import Detection, masks_of
from stages.segment._labels import MOVERS

__all__ = ["LearnedSegmenter", "ObjectDetector", "ObjectDetectorOptions"]

GPU_BATCH = 8


class ObjectDetectorOptions(LearnedOptions):
    """Options of every network that names what it sees."""

    labels: str = Field(
        MOVERS, description="comma-separated labels of what may move, or all that it knows"
    )
    threshold: float = Field(0.5, ge=0, le=1, description="least score of a thing")
    margin: float = Field(
        0.008, ge=0, le=0.1, description="how far masks are grown, share of the longer side"
    )


C = TypeVar("C", bound=ObjectDetectorOptions)


class LearnedSegmenter(Stage[C]):
    """What every network of this step is: it has checkpoints, and names what it sees."""

    @property
    def device(self) -> str:
        """Where it runs."""
        return device_of(self.config.device)

    @property
    def resources(self) -> Resources:
        """What one worker needs."""
        return resources_of(self.config, sum(weights.nbytes for weights in self.weights))

    @property
    def weights(self) -> tuple[Checkpoint, ...]:
        """Its checkpoints."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Bring the checkpoints; see that they will do before anything else is done.

        Raises:
            UsageError: They cannot be had, are for another task, or know none of the labels.
        """
        super().fetch()
        self.check()

    @abstractmethod
    def check(self) -> None:
        """See by their configurations alone that the checkpoints will do.

        Raises:
            UsageError: They are for another task, or know none of the labels.
        """


class ObjectDetector(LearnedSegmenter[C]):
    """A network that sees things in single frames.

    It is clip-scoped: any worker may take any clip, and `track` follows the things.
    """

    @abstractmethod
    def detect(self, images: list[Array]) -> list[list[Detection] | None]:
        """Return what is seen in each picture, uint8 [H, W, 3]; None where scores are no numbers.

        Called from several threads.
        """

    def open(self, context: Context) -> None:
        """Settle how many frames go to the network at a time."""
        super().open(context)
        default = GPU_BATCH if self.device == "cuda" else 1
        self._batches: Batches[list[list[Detection] | None]] = Batches(
            self.config.batch or default,
            "frames",
            "take a smaller checkpoint, or segment.device=cpu",
            self.warn,
        )

    def process(self, frames: Frames) -> Masks:
        """Return what is seen in the frames of a clip.

        Raises:
            UsageError: Not even one frame fits into the memory of the GPU.
        """
        step, _, model = type(self).__module__.removeprefix("stages.").partition(".")
        found = self.detect_frames(frames.images, frames.clip)
        return masks_of(frames, found, self.config.margin, f"{step}/{model}")

    def detect_frames(self, images: Array, clip: str) -> list[list[Detection]]:
        """Return what is seen in each of some frames of a clip, uint8 [T, H, W, 3].

        Raises:
            UsageError: Not even one frame fits into the memory of the GPU.
        """
        detections: list[list[Detection] | None] = []
        threads = 1 if self.device == "cuda" else self.context.threads
        while len(detections) < len(images):
            # As many as run side by side: what does not fit is not begun.
            group = images[len(detections) : len(detections) + self._batches.size * threads]
            detections += self._batches.attempt(
                lambda size, g=group: self._detect_batch(g, size, threads)
            )
        lost = sum(frame_detections is None for frame_detections in detections)
        if lost:
            self.warn(
                f"in {lost} of {len(detections)} frames of {clip} the network's scores are no "
                "numbers: nothing was seen there; try segment.precision=float32"
            )
        return [frame_detections or [] for frame_detections in detections]

    def _detect_batch(self, images: Array, size: int, threads: int) -> list[list[Detection] | None]:
        # Messages are read-only, which torch warns of.
        own = [np.require(image, requirements="W") for image in images]
        spans: Sequence[Any] = [own[at : at + size] for at in range(0, len(own), size)]
        with ThreadPoolExecutor(threads) as pool:
            return [
                frame_detections
                for batch in pool.map(self.detect, spans)
                for frame_detections in batch
            ]
