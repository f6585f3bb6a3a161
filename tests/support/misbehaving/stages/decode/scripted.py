"""A source that a JSON file describes: as many small pictures as it says, all different."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contract import DecodedFrame, Options, Probe, Reader, Source, Stage
from pipeline.errors import SourceError

NS = 40_000_000


class Config(Options):
    pass


class _Picture:
    intrinsics = T_world_camera = None
    keyframe = True

    def __init__(self, index: int, size: tuple[int, int]) -> None:
        self.index, self.pts_ns, self._size = index, index * NS, size

    def luma(self, width: int) -> Any:
        return self.rgb()[..., 0]

    def depth(self) -> None:
        return None

    def right(self) -> None:
        return None

    def rgb(self) -> Any:
        width, height = self._size
        return np.random.default_rng(self.index).integers(0, 255, (height, width, 3), np.uint8)


class _Reader:
    metric = False
    baseline_m = None

    def __init__(self, source: Source) -> None:
        self.source = source
        tree = json.loads(Path(source.uri).read_text())
        self.frames, self.breaks_at = tree["frames"], tree.get("breaks_at")
        self.size = tuple(tree.get("size", (24, 16)))
        self.probe = Probe(
            kind="camera" if tree.get("camera") else "video",
            width=self.size[0],
            height=self.size[1],
            source_width=self.size[0],
            source_height=self.size[1],
            duration_s=self.frames * NS / 1e9,
            fps=25.0,
            frames=self.frames,
            codec="none",
        )

    def frames_at(
        self, wanted: Iterable[int], first: int = 0, again: Iterable[int] = ()
    ) -> Iterator[DecodedFrame]:
        for index in wanted:
            if index == self.breaks_at:
                raise SourceError(f"{self.source.shown} is broken at frame {index}")
            yield _Picture(index, self.size)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class Model(Stage[Config]):
    def process(self, source: Source) -> Reader:
        return _Reader(source)
