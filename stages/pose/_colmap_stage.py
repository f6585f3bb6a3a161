"""Shared by all models that call COLMAP: isolated process, thread count, seed, quiet logging."""

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
        """Set the number of threads and the seed, and silence COLMAP's log."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        pycolmap.logging.minloglevel = 3
        pycolmap.set_random_seed(context.seed)
