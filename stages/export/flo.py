"""`flow/*.flo`: every flow field in Middlebury's format, named by the first frame's number."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.atomic import disk_errors
from pipeline.contract import Context, Frames, Motion, Options, Stage
from stages.export._publish import publish_folder
from stages.export._scratch import Scratch

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
        assert context.folder is not None, "exporters are opened with a run folder"
        self._final = context.folder / "flow"
        self._scratch = Scratch(self)
        self._last_ns = -1
        self._pairs = 0

    def process(self, frames: Frames, motion: Motion) -> None:
        """Write the pairs of one clip that no clip before held."""
        with disk_errors(self._final):
            folder = self._scratch.folder()
            if self._last_ns < 0:
                # What a run left that got no further than its first clip.
                shutil.rmtree(folder / "fields", ignore_errors=True)
            (folder / "fields").mkdir(exist_ok=True)
            for t in np.flatnonzero(frames.pts_ns[:-1] > self._last_ns):
                if self._pairs % self.config.every == 0:
                    name = f"{int(frames.index[t]):06d}.flo"
                    write_flo(folder / "fields" / name, motion.flow[t])
                self._pairs += 1
                self._last_ns = int(frames.pts_ns[t])

    def finish(self) -> None:
        """Put the fields together under their name; those put aside stay, to do it again."""
        if self._last_ns >= 0:
            with publish_folder(self, "flow", "flow fields") as folder:
                for field in (self._scratch.folder() / "fields").iterdir():
                    _link(field, folder / field.name)

    def snapshot(self) -> dict[str, Any] | None:
        """Return where the stream stands; the fields lie in the scratch folder."""
        if not self._scratch.lasts:
            return None
        return {"last_ns": self._last_ns, "pairs": self._pairs}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot; fields written after it come again and are the same."""
        self._last_ns, self._pairs = state["last_ns"], state["pairs"]

    def close(self) -> None:
        """Remove what does not outlive the process."""
        if hasattr(self, "_scratch"):
            self._scratch.close()


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the disk knows no such thing, copy it."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def write_flo(path: Path, flow: npt.NDArray[np.float32]) -> None:
    """Write flow [H, W, 2]; what is not finite becomes Middlebury's unknown."""
    height, width = flow.shape[:2]
    known = np.isfinite(flow).all(axis=-1, keepdims=True)
    # A published file may be a second name of the one that stood here.
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        # `tofile` does not say that the disk is full, `write` does.
        file.write(MAGIC.astype("<f4").tobytes())
        file.write(np.array([width, height], dtype="<i4").tobytes())
        file.write(np.where(known, flow, UNKNOWN).astype("<f4").data)
