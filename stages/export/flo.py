"""`flow/*.flo`: every flow field in Middlebury's format, named by the first frame's number."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.messages import Frames, Motion
from pipeline.stage import Context, Options, Stage
from stages.export._growing import Growing

__all__ = ["Config", "Model", "write_flo"]

MAGIC = np.float32(202021.25)
"""Reads `PIEH` in little-endian files. Source: Middlebury's `flowIO.cpp`."""

UNKNOWN = np.float32(1.666666752e9)
"""Middlebury: a component above 1e9 is unknown; this is the value of its own files."""


class Config(Options):
    """Which pairs."""

    every: int = Field(1, ge=1, description="write each n-th pair of frames")


class Model(Stage[Config]):
    """Writes each pair of frames once."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Begin with nothing written."""
        super().open(context)
        self._folder: Growing | None = None
        self._last_ns = -1
        self._pairs = 0

    def process(self, frames: Frames, motion: Motion) -> None:
        """Write the pairs of one clip that no clip before held."""
        if self._folder is None:
            self._folder = Growing(self, "flow", "flow fields", folder=True)
        with self._folder.writing():
            for t in np.flatnonzero(frames.pts_ns[:-1] > self._last_ns):
                if self._pairs % self.config.every == 0:
                    name = f"{int(frames.index[t]):06d}.flo"
                    write_flo(self._folder.path / name, motion.flow[t])
                self._pairs += 1
                self._last_ns = int(frames.pts_ns[t])

    def finish(self) -> None:
        """Give the folder its name."""
        if self._folder is not None:
            self._folder.commit()

    def close(self) -> None:
        """Remove an unfinished folder."""
        if getattr(self, "_folder", None) is not None:
            self._folder.abandon()  # type: ignore[union-attr]


def write_flo(path: Path, flow: npt.NDArray[np.float32]) -> None:
    """Write flow [H, W, 2]; what is not finite becomes Middlebury's unknown."""
    height, width = flow.shape[:2]
    known = np.isfinite(flow).all(axis=-1, keepdims=True)
    with path.open("wb") as file:
        # `tofile` does not say that the disk is full, `write` does.
        file.write(MAGIC.astype("<f4").tobytes())
        file.write(np.array([width, height], dtype="<i4").tobytes())
        file.write(np.where(known, flow, UNKNOWN).astype("<f4").data)
