"""A flow model that takes its time, and says when it has begun."""

import time

from pipeline.contract import Frames, Motion, Options, Stage


class Config(Options):
    pass


class Model(Stage[Config]):
    def process(self, frames: Frames) -> Motion:
        assert self.context.folder is not None
        (self.context.folder / ".reel3d" / "slow-began").touch()
        time.sleep(60)
        raise AssertionError("nobody waits for this")
