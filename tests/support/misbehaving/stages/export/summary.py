"""`summary.json`: the events and a checksum of all else that stands for the whole stream."""

import json
import zlib
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.contract import Actions, DepthMaps, Options, Points, Stage, Views
from stages.export._publish import publish


class Config(Options):
    pass


class Model(Stage[Config]):
    scope = "stream"

    def open(self, context: Any) -> None:
        super().open(context)
        self._rows: list[str] = []

    def process(
        self,
        actions: Actions | None = None,
        views: Views | None = None,
        depth: DepthMaps | None = None,
        points: Points | None = None,
    ) -> None:
        for message in (actions, views, depth, points):
            if message is None:
                continue
            if isinstance(message, Actions):
                # A run that goes on gets the events of an earlier one all in one message.
                self._rows += map(
                    str,
                    zip(
                        message.start_ns.tolist(),
                        message.end_ns.tolist(),
                        message.label,
                        strict=True,
                    ),
                )
                continue
            total = 0
            for field in fields(message):
                value = getattr(message, field.name)
                raw = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
                total = zlib.crc32(raw, total)
            self._rows.append(f"{type(message).__name__} {total}")

    def finish(self) -> None:
        with publish(self, "summary.json", "summary") as path:
            # The events of an earlier run come in another place.
            path.write_text(json.dumps(sorted(self._rows)))

    def snapshot(self) -> Any:
        return {"rows": list(self._rows)}

    def restore(self, state: Any) -> None:
        self._rows = list(state["rows"])
