"""A flow model with accidents: each once in all workers, or `always`, at every attempt."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline.contract import Frames, Motion, Options, Stage


class Config(Options):
    accidents: dict[str, str] = Field({}, description="index of a clip's first frame to accident")
    log: str = Field("", description="folder where calls and accidents are noted")
    seconds: float = Field(0.0, description="what a call takes at least")


class Model(Stage[Config]):
    def process(self, frames: Frames) -> Motion:
        config, first = self.config, str(frames.index[0])
        if config.log:
            with Path(config.log, "flow.log").open("a") as log:
                log.write(f"{frames.clip} {os.getpid()}\n")
        always, _, accident = config.accidents.get(first, "").rpartition(" ")
        if accident and (always or self._first(f"flow-{first}")):
            befall(accident)
        time.sleep(config.seconds)
        t, h, w, _ = frames.images.shape
        flow = np.zeros((t - 1, h, w, 2), np.float32)
        flow += np.diff(frames.images.astype(np.float32), axis=0)[..., :2]
        return Motion(clip=frames.clip, flow=flow, confidence=np.ones((t - 1, h, w), np.float32))

    def _first(self, what: str) -> bool:
        try:
            Path(self.config.log, what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def befall(accident: str) -> None:
    """End this process in a way that libraries do, hang or raise."""
    match accident:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "raise":
            raise RuntimeError("a clip that cannot be worked on")
        case _:
            raise ValueError(f"there is no accident '{accident}'")
