"""An event for every other clip, and one at the end that depends on all before it."""

import zlib
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.contract import Actions, Frames, Motion, Options, Stage


class Config(Options):
    bug_at: int = Field(-1, description="index of the first frame of the clip that raises")
    warns: bool = False


class Model(Stage[Config]):
    scope = "stream"

    def open(self, context: Any) -> None:
        super().open(context)
        self._sum, self._clips, self._end_ns = 0, 0, 0

    def process(self, frames: Frames, motion: Motion) -> Actions | None:
        if frames.index[0] == self.config.bug_at:
            raise ZeroDivisionError("a poisonous clip")
        self._sum = zlib.crc32(motion.flow.tobytes(), self._sum)
        self._clips += 1
        self._end_ns = int(frames.pts_ns[-1])
        if self._clips % 2:
            return None
        if self.config.warns:
            self.warn("every other clip")
        return self._event(f"sum-{self._sum}", int(frames.pts_ns[0]))

    def finish(self) -> Actions:
        self.measure("clips_count", self._clips)
        return self._event(f"end-{self._sum}", 0)

    def _event(self, label: str, start_ns: int) -> Actions:
        return Actions(
            start_ns=np.array([start_ns], np.int64),
            end_ns=np.array([self._end_ns + 1], np.int64),
            score=np.ones(1, np.float32),
            label=(label,),
            kind=("action",),
            model=("action/scripted",),
        )

    def snapshot(self) -> Any:
        return {"sum": self._sum, "clips": self._clips, "end_ns": self._end_ns}

    def restore(self, state: Any) -> None:
        self._sum, self._clips, self._end_ns = state["sum"], state["clips"], state["end_ns"]
