"""A stage that hands on what it gets."""

from __future__ import annotations

import time

from pydantic import Field

from benchmarks.batches import checksum, number_of
from pipeline.contract import Frames, Options, Stage


class Config(Options):
    """Options of every relay."""

    check: bool = Field(False, description="tell the checksum of each batch")
    sleep_s: float = Field(0.0, ge=0, description="take this long over each batch")
    burn_s: float = Field(0.0, ge=0, description="keep a core busy for so long with each batch")


class Model(Stage[Config]):
    """Hands on what it gets."""

    def process(self, frames: Frames) -> Frames:
        """Return the batch."""
        if self.config.check:
            self.measure(f"batch_{number_of(frames.images)}", checksum(frames.images))
        if self.config.sleep_s:
            time.sleep(self.config.sleep_s)
        until = time.thread_time() + self.config.burn_s
        while time.thread_time() < until:
            pass
        return frames
