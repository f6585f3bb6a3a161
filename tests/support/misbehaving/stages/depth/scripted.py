"""Depth out of the colors."""

from pipeline.contract import DepthMaps, Options, Stage, Views


class Config(Options):
    pass


class Model(Stage[Config]):
    def process(self, views: Views) -> DepthMaps:
        return DepthMaps(depth=views.images.mean(-1, dtype="float32"))
