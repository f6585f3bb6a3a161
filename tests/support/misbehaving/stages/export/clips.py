"""`clips.txt`: a line for every clip, gathered in a file that grows while the stream runs."""

import os
import zlib
from pathlib import Path
from typing import Any

from pipeline.contract import Frames, Motion, Options, Stage
from stages.export._publish import publish


class Config(Options):
    log: str = ""


class Model(Stage[Config]):
    scope = "stream"

    def open(self, context: Any) -> None:
        super().open(context)
        assert context.scratch is not None
        self._path = context.scratch / "lines"
        self._length = 0

    def process(self, frames: Frames, motion: Motion) -> None:
        if self.config.log:
            with Path(self.config.log, "clips.log").open("a") as log:
                log.write(frames.clip + "\n")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = f"{frames.clip} {zlib.crc32(frames.images.tobytes())} {zlib.crc32(motion.flow)}\n"
        with self._path.open("r+b" if self._length else "wb") as file:
            file.seek(self._length)
            file.truncate()
            file.write(line.encode())
            self._length = file.tell()
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        with publish(self, "clips.txt", "clips") as path:
            path.write_bytes(self._path.read_bytes()[: self._length])

    def snapshot(self) -> Any:
        return {"length": self._length}

    def restore(self, state: Any) -> None:
        if self._path.stat().st_size < state["length"]:
            raise ValueError("lines were lost")
        self._length = state["length"]
