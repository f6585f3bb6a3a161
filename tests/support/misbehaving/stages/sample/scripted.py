"""All frames, in clips that share one frame."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.contract import Frames, Options, Reader, Stage


class Config(Options):
    clip_frames: int = Field(3, ge=2)
    remembers: bool = True


class Model(Stage[Config]):
    _next = 0

    def process(self, reader: Reader) -> Iterator[Frames]:
        assert reader.probe.frames
        while self._next < reader.probe.frames - 1 or not self._next:
            first = self._next
            last = min(first + self.config.clip_frames, reader.probe.frames)
            index = np.arange(first, last)
            pictures = list(reader.frames_at(index.tolist()))
            self._next = last - 1 if last < reader.probe.frames else reader.probe.frames
            yield Frames(
                clip=f"{reader.source.name}/{first}-{last - 1}",
                images=np.stack([picture.rgb() for picture in pictures]),
                pts_ns=np.array([picture.pts_ns for picture in pictures], np.int64),
                index=index.astype(np.int64),
                sharpness=np.ones(len(index), np.float32),
                overlap=int(first > 0),
            )

    def snapshot(self) -> Any:
        return {"next": self._next} if self.config.remembers else None

    def restore(self, state: Any) -> None:
        self._next = state["next"]
