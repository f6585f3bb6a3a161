"""`splats.ply`: the Gaussians in the 3DGS layout that every viewer of splats reads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pipeline.contract import Options, Splats, Stage
from stages._formats.gaussian_encoding import writable
from stages._formats.gaussian_ply_reader import read_splats
from stages._formats.gaussian_ply_writer import write_gaussian_ply
from stages.export._publish import publish

__all__ = ["Config", "Model"]


class Config(Options):
    """No options."""


class Model(Stage[Config]):
    """Writes binary PLY; a scene of no Gaussians is a valid file without vertices."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, splats: Splats) -> None:
        """Write the scene."""
        kept = writable(self, splats, "splats.ply")
        with publish(self, "splats.ply", "splats") as path:
            write_gaussian_ply(path, kept)

    def read(self, folder: Path) -> Splats:
        """Read `splats.ply` of a run folder; without the cameras, which it does not hold."""
        return read_splats(folder / "splats.ply", self.warn)
