"""Polynomial expansion (Farnebäck, SCIA 2003), as OpenCV has it."""

from __future__ import annotations

from typing import Any

import cv2
from pydantic import Field

from pipeline.contract import Context, Frames, Motion, Stage
from stages.flow._pairs import FlowOptions, dense_motion

__all__ = ["Config", "Model"]


class Config(FlowOptions):
    """Options of the Farnebäck flow."""

    levels: int = Field(4, ge=1, le=8, description="levels of the image pyramid, each half as wide")
    window_px: int = Field(15, ge=3, le=101, description="averaging window; larger is smoother")
    iterations: int = Field(3, ge=1, le=20, description="iterations at each level")


class Model(Stage[Config]):
    """Smooth flow; slower than DIS and weaker at large motion, without patches to show."""

    def open(self, context: Context) -> None:
        """Take the threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, frames: Frames) -> Motion:
        """Return the flow of every pair of neighboring frames."""
        return dense_motion(frames, self.config.working_side, self._between)

    def _between(self, first: Any, second: Any) -> Any:
        config = self.config
        start: Any = None
        # A neighborhood of 7 px with sigma 1.5 is what OpenCV's documentation pairs.
        return cv2.calcOpticalFlowFarneback(
            first, second, start, 0.5, config.levels, config.window_px, config.iterations, 7, 1.5, 0
        )
