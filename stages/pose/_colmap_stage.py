"""What every model that calls COLMAP shares: a process of its own, threads, seed, silence."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import cv2

from pipeline.contract import Context, Options, Stage
from pipeline.errors import later

pycolmap = later("pycolmap")

__all__ = ["ColmapStage"]

C = TypeVar("C", bound=Options)


class ColmapStage(Stage[C]):
    """A stage that calls COLMAP."""

    isolated = True
    deadline_s: ClassVar[float | None] = 3600.0

    def open(self, context: Context) -> None:
        """Take threads and silence COLMAP."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        pycolmap.logging.minloglevel = 3
        pycolmap.set_random_seed(context.seed)
