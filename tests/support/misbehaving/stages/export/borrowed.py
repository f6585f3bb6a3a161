"""`borrowed.json`: which arrays it read where they lie, in Ray's shared memory."""

import json
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.contract import DepthMaps, Frames, Message, Motion, Options, Points, Stage, Views
from stages.export._publish import publish


class Config(Options):
    pass


class Model(Stage[Config]):
    scope = "stream"

    def open(self, context: Any) -> None:
        super().open(context)
        self._found: dict[str, str] = {}

    def process(
        self,
        frames: Frames | None = None,
        motion: Motion | None = None,
        views: Views | None = None,
        depth: DepthMaps | None = None,
        points: Points | None = None,
    ) -> None:
        for message in (frames, motion, views, depth, points):
            if message is not None:
                self._look(message)

    def _look(self, message: Message) -> None:
        for field in fields(message):
            array = getattr(message, field.name)
            if isinstance(array, np.ndarray) and array.nbytes >= 200_000:
                name = f"{type(message).__name__}.{field.name}"
                where = _owner(array)
                if array.flags.writeable or array.flags.owndata:
                    where = "its own"
                assert self._found.setdefault(name, where) == where

    def finish(self) -> None:
        with publish(self, "borrowed.json", "borrowed") as path:
            path.write_text(json.dumps(self._found))


def _owner(array: Any) -> str:
    """Name the type of what an array's memory belongs to in the end."""
    base = array
    while True:
        if isinstance(base, memoryview):
            base = base.obj
        elif getattr(base, "base", None) is not None:
            base = base.base
        else:
            return type(base).__name__
