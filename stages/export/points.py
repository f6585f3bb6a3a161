"""`points.ply`: the cloud with normals and colors."""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.contract import Options, Points, Stage
from stages._formats.ply_writer import write_ply
from stages.export._publish import publish

__all__ = ["Config", "Model"]


class Config(Options):
    """No options."""


class Model(Stage[Config]):
    """Writes binary PLY; a cloud of no points is a valid file without vertices."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, points: Points) -> None:
        """Write the cloud."""
        with publish(self, "points.ply", "point cloud") as path:
            left_out = write_ply(path, points.xyz, points.normals, points.rgb)
        if left_out:
            self.warn(f"points.ply leaves out {left_out} points whose coordinates are not finite")
