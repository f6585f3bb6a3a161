"""Dense inverse search (Kroeger, Timofte, Dai and Van Gool, ECCV 2016), as OpenCV has it."""

from __future__ import annotations

from typing import Any, Literal

import cv2
from pydantic import Field

from pipeline.contract import Context, Frames, Motion, Stage
from stages.flow._pairs import FlowOptions, dense_motion

__all__ = ["Config", "Model"]

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class Config(FlowOptions):
    """Options of the DIS flow."""

    preset: Literal["ultrafast", "fast", "medium"] = Field(
        "fast", description="speed against accuracy; medium costs five times as much as fast"
    )


class Model(Stage[Config]):
    """Flow by gradient descent on patches; good up to about 25 px of motion at 640 px."""

    def open(self, context: Context) -> None:
        """Take the threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        self._dis = cv2.DISOpticalFlow.create(PRESETS[self.config.preset])

    def process(self, frames: Frames) -> Motion:
        """Return the flow of every pair of neighboring frames."""
        start: Any = None
        return dense_motion(
            frames,
            self.config.working_side,
            lambda first, second: self._dis.calc(first, second, start),
        )
