"""A flow model that can be told how and where to fail, and that notes every call."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline.contract import Frames, Motion, Options, Resources, Stage
from pipeline.errors import PartNotMade


class Config(Options):
    fault: str = ""
    at: int = Field(-1, description="index of the first frame of the clip that does it")
    times: int = Field(1000, description="how often it does it, in all workers together")
    log: str = Field("", description="folder where calls are noted")
    seconds: float = 0.0


class Model(Stage[Config]):
    @property
    def resources(self) -> Resources:
        return Resources(cpus=1.0)

    def process(self, frames: Frames) -> Motion:
        config = self.config
        if config.log:
            with Path(config.log, "flow.log").open("a") as file:
                file.write(frames.clip + "\n")
        if frames.index[0] == config.at and self._again():
            self._fail()
        time.sleep(config.seconds)
        t, h, w, _ = frames.images.shape
        flow = np.zeros((t - 1, h, w, 2), np.float32)
        flow += np.diff(frames.images.astype(np.float32), axis=0)[..., :2]
        return Motion(clip=frames.clip, flow=flow, confidence=np.ones((t - 1, h, w), np.float32))

    def _again(self) -> bool:
        if not self.config.log:
            return True
        done = list(Path(self.config.log).glob("fault-*"))
        Path(self.config.log, f"fault-{len(done)}").touch()
        return len(done) < self.config.times

    def _fail(self) -> None:
        match self.config.fault:
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "not made":
                raise PartNotMade("this flow model does not like the clip")
            case "bug":
                raise ZeroDivisionError("a poisonous clip")
