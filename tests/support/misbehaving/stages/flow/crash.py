"""A flow model that takes its process down on the second clip."""

import os
import signal

from pipeline.contract import Frames, Motion, Options, Stage


class Config(Options):
    pass


class Model(Stage[Config]):
    isolated = True

    def process(self, frames: Frames) -> Motion:
        if frames.index[0] > 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError("the film has more than one clip")
