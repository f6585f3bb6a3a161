"""The first frame of every clip is a keyframe."""

from typing import Any

import numpy as np

from pipeline.contract import Frames, Keyframes, Options, Stage


class Config(Options):
    remembers: bool = True


class Model(Stage[Config]):
    scope = "stream"

    def open(self, context: Any) -> None:
        super().open(context)
        self._images: list[Any] = []
        self._index: list[int] = []

    def process(self, frames: Frames) -> None:
        image = frames.images[0].copy()
        image.flags.writeable = False
        self._images.append(image)
        self._index.append(int(frames.index[0]))

    def finish(self) -> Keyframes:
        index = np.array(self._index, np.int64)
        return Keyframes(
            images=np.stack(self._images),
            pts_ns=index * 40_000_000,
            index=index,
            sharpness=np.ones(len(index), np.float32),
            shot=np.zeros(len(index), np.int32),
            parallax_px=np.ones(len(index), np.float32),
        )

    def snapshot(self) -> Any:
        if not self.config.remembers:
            return None
        return {"images": list(self._images), "index": list(self._index)}

    def restore(self, state: Any) -> None:
        self._images, self._index = list(state["images"]), list(state["index"])
