"""A flow model with a bug that shows on one clip only."""

import numpy as np

from pipeline.contract import Frames, Motion, Options, Stage


class Config(Options):
    pass


class Model(Stage[Config]):
    def process(self, frames: Frames) -> Motion:
        if frames.overlap and frames.index[-1] < 40:
            raise ZeroDivisionError("a poisonous clip")
        t, h, w, _ = frames.images.shape
        return Motion(
            clip=frames.clip,
            flow=np.zeros((t - 1, h, w, 2), np.float32),
            confidence=np.ones((t - 1, h, w), np.float32),
        )
