"""A flow model that never comes back."""

import time

from pipeline.contract import Frames, Motion, Options, Stage


class Config(Options):
    pass


class Model(Stage[Config]):
    isolated = True
    deadline_s = 1.0

    def process(self, frames: Frames) -> Motion:
        while True:
            time.sleep(1)
