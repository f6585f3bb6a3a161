"""`mesh.ply`: the surface as triangles with normals and colors, where fusion made one."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from pipeline.contract import Options, Points, Stage
from stages._formats.ply_writer import write_ply
from stages.export._publish import publish

__all__ = ["Config", "Model"]

GRAY = 160


class Config(Options):
    """No options."""


class Model(Stage[Config]):
    """Writes binary PLY; without a mesh there is no file."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, points: Points) -> None:
        """Write the mesh if the message holds one."""
        if points.vertices is None or points.triangles is None:
            return
        vertices = points.vertices
        rgb, normals = points.vertices_rgb, points.vertices_normals
        with publish(self, "mesh.ply", "mesh") as path:
            left_out = write_ply(
                path,
                vertices,
                np.zeros_like(vertices) if normals is None else normals,
                np.full(vertices.shape, GRAY, np.uint8) if rgb is None else rgb,
                points.triangles,
            )
        if left_out:
            self.warn(f"mesh.ply leaves out {left_out} vertices whose coordinates are not finite")
