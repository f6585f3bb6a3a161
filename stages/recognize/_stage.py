"""What the models of this step have in common: from a clip to windows, from windows to scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.contract import Context, Frames, Resources, Scores, Stage
from pipeline.weights import Checkpoint, Known, checkpoint
from stages._networks.batching import Batches
from stages._networks.checkpoints import device_of, resources_of
from stages.recognize._windows import WindowOptions, crops, windows

__all__ = ["Recognizer"]

GPU_BATCH = 8

C = TypeVar("C", bound=WindowOptions)


class Recognizer(Stage[C]):
    """A network that looks at windows of a clip.

    It is clip-scoped: any worker may take any clip, and `action` makes events of the scores.
    """

    @property
    def device(self) -> str:
        """Where it runs."""
        return device_of(self.config.device)

    @property
    def resources(self) -> Resources:
        """What one worker needs."""
        return resources_of(self.config, self.weights[0].nbytes)

    task: ClassVar[str]
    """What the network does, for messages."""
    known: ClassVar[tuple[Known, ...]]
    """Checkpoints that are known by name."""

    @property
    def weights(self) -> tuple[Checkpoint, ...]:
        """The checkpoint that its options name."""
        return (self._named(self.config.checkpoint),)

    @classmethod
    def catalog(cls) -> tuple[Checkpoint, ...]:
        """Those that are known by name."""
        return tuple(cls._named(known.name) for known in cls.known)

    @classmethod
    def _named(cls, name: str) -> Checkpoint:
        return checkpoint(
            name,
            task=cls.task,
            known=cls.known,
            instead="recognize.model=none",
            option="recognize.checkpoint",
        )

    def open(self, context: Context) -> None:
        """Settle how many windows go to the network at a time."""
        super().open(context)
        self._checkpoint = self.weights[0]
        default = GPU_BATCH if self.device == "cuda" else 1
        self._batches: Batches[list[Any]] = Batches(
            self.config.batch or default,
            "windows",
            "take a smaller checkpoint, or recognize.device=cpu",
            self.warn,
        )
        self._frames = 0
        self._warned = False

    def score_clip(self, frames: Frames, labels: tuple[str, ...]) -> Scores | None:
        """Return the scores of a clip's windows; of a single frame nothing can be said."""
        if len(frames.pts_ns) < 2:
            return None
        if len(frames.pts_ns) < self._frames and not self._warned:
            self._warned = True
            self.warn(
                f"{self._checkpoint.id} looks at {self._frames} frames, and the clip "
                f"{frames.clip} has {len(frames.pts_ns)}: some count twice; "
                f"sample.clip_frames={self._frames} gives it more"
            )
        config = self.config
        chosen = windows(frames, self._frames, config.stride, config.views)
        parts = [crops(frames.images[window.frames], config.crops) for window in chosen]
        flat = [part for several in parts for part in several]
        score = np.concatenate(self._batches.attempt(lambda size: self._in_batches(flat, size)))
        score = score.reshape(len(chosen), config.crops, -1).mean(axis=1)
        known = np.isfinite(score).all(axis=1)
        if not known.all():
            self.lost(
                f"actions of clip {frames.clip}",
                f"{self._checkpoint.id} gave scores that are no numbers; "
                "its weights may be damaged",
            )
        if not known.any():
            return None
        return Scores(
            clip=frames.clip,
            shot=frames.shot,
            start_ns=np.array([w.start_ns for w in chosen], np.int64)[known],
            end_ns=np.array([w.end_ns for w in chosen], np.int64)[known],
            score=np.ascontiguousarray(score[known], np.float32),
            label=labels,
            model=self._checkpoint.id,
        )

    def _in_batches(self, videos: Sequence[npt.NDArray[np.uint8]], size: int) -> list[Any]:
        return [self.score_windows(videos[at : at + size]) for at in range(0, len(videos), size)]

    @abstractmethod
    def score_windows(self, videos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return the scores [N, labels] of N windows, each uint8 [frames, H, W, 3]."""
