"""A cloud out of the sparse points and the depth."""

import numpy as np

from pipeline.contract import DepthMaps, Options, Points, Stage, Views


class Config(Options):
    scale: float = 1.0


class Model(Stage[Config]):
    def process(self, views: Views, depth: DepthMaps) -> Points:
        xyz = views.points * np.float32(self.config.scale) + depth.depth.mean(dtype=np.float32)
        return Points(
            xyz=xyz,
            rgb=views.points_rgb,
            normals=np.zeros_like(views.points),
            voxel_size=self.config.scale,
        )
