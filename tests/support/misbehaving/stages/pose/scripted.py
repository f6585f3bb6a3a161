"""Cameras in a row."""

import numpy as np

from pipeline.contract import Keyframes, Options, Stage, Views
from pipeline.errors import PartNotMade


class Config(Options):
    refuses: bool = False


class Model(Stage[Config]):
    def process(self, keyframes: Keyframes) -> Views:
        if self.config.refuses:
            raise PartNotMade("no parallax")
        count = len(keyframes.index)
        poses = np.tile(np.eye(4), (count, 1, 1))
        poses[:, 0, 3] = np.arange(count)
        points = np.random.default_rng(self.context.seed).random((200, 3), np.float32)
        self.measure("views_count", count)
        return Views(
            images=keyframes.images,
            pts_ns=keyframes.pts_ns,
            index=keyframes.index,
            intrinsics=np.tile(np.eye(3), (count, 1, 1)),
            T_world_camera=poses,
            points=points,
            points_rgb=np.zeros((200, 3), np.uint8),
            points_error_px=np.zeros(200, np.float32),
            observed_point=np.zeros(0, np.int32),
            observed_view=np.zeros(0, np.int32),
            observed_xy=np.zeros((0, 2), np.float32),
            candidates=count,
        )
