"""`events.jsonl` and `actions.vtt`: what happened when, for programs and for players."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.contract import Actions, Context, Options, Stage, Tracks
from stages.export._publish import publish
from stages.export._scratch import Scratch, Spool
from stages.export._vtt import chapters

__all__ = ["Config", "Model"]

KINDS = ("shot", "camera", "object", "action")

WRITING_PAUSE = 50
"""Between two renewals at least this many times what the last one took: 2 % of the time."""

Event = dict[str, Any]
Row = list[Any]
"""Start and end (ns), kind, label, model and score; of a thing that was followed also its number
and its first and last box."""


class Config(Options):
    """How often the files are renewed while the stream runs."""

    every_s: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="shortest time between two renewals of the files, s; longer where there are "
        "many events; 0: with every clip",
    )


class Model(Stage[Config]):
    """Keeps both files whole and in order of time, also while events are still coming."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Begin with no events."""
        super().open(context)
        assert context.folder is not None, "exporters are opened with a run folder"
        self._scratch = Scratch(self)
        self._spool = Spool(self._scratch, "events", context.folder / "events.jsonl")
        self._events: dict[tuple[Any, ...], Event] = {}
        self._written_at = -math.inf
        self._write_s = 0.0

    def process(self, actions: Actions | None = None, tracks: Tracks | None = None) -> None:
        """Take events; one that came before counts once."""
        rows = [row for message in (actions, tracks) if message for row in _rows(message)]
        if self._scratch.lasts:
            self._spool.append("".join(json.dumps(row) + "\n" for row in rows).encode())
        self._take(rows)
        # Both files are written whole: of a long film that takes longer, so it happens less often.
        every_s = self.config.every_s
        pause_s = max(every_s, WRITING_PAUSE * self._write_s) if every_s else 0.0
        if time.monotonic() - self._written_at >= pause_s:
            self._write()

    def _take(self, rows: Iterable[Row]) -> None:
        for start_ns, end_ns, kind, label, model, score, *thing in rows:
            event = {
                "start_s": start_ns / 1e9,
                "end_s": end_ns / 1e9,
                "label": label,
                "kind": kind,
                "score": round(score, 4) if math.isfinite(score) else None,
                "model": model,
            }
            if thing:
                event |= dict(zip(("track", "start_box", "end_box"), thing, strict=True))
            self._events[start_ns, end_ns, kind, label, model, *thing[:1]] = event

    def snapshot(self) -> dict[str, Any] | None:
        """Return where the spool ends: in a stream of days the events themselves are many."""
        return {"spool": self._spool.length} if self._scratch.lasts else None

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._spool.restore(state["spool"])
        with self._spool.reading() as file:
            self._take(json.loads(line) for line in file)

    def close(self) -> None:
        """Give the spool back."""
        if hasattr(self, "_spool"):
            self._spool.close()
            self._scratch.close()

    def finish(self) -> None:
        """Write the last state; without events both files are there and empty of them."""
        self._write()

    def _write(self) -> None:
        began = time.thread_time()
        events = sorted(self._events.values(), key=_order)
        with publish(self, "events.jsonl", "events") as path:
            lines = (json.dumps(event, ensure_ascii=False, allow_nan=False) for event in events)
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        with publish(self, "actions.vtt", "chapters") as path:
            # Things that come and go side by side make no chapters.
            untracked = (event for event in events if "track" not in event)
            path.write_text(chapters(untracked), encoding="utf-8")
        self._written_at = time.monotonic()
        self._write_s = time.thread_time() - began


def _order(event: Event) -> tuple[Any, ...]:
    rank = KINDS.index(event["kind"]) if event["kind"] in KINDS else len(KINDS)
    return event["start_s"], -event["end_s"], rank, event["label"], event.get("track", 0)


def _rows(message: Actions | Tracks) -> list[Row]:
    columns = [
        *(message.start_ns.tolist(), message.end_ns.tolist(), message.kind, message.label),
        *(message.model, message.score.tolist()),
    ]
    if isinstance(message, Tracks):
        boxes = (box.astype(np.float64) for box in (message.start_box, message.end_box))
        columns += [message.track.tolist(), *(np.round(box, 1).tolist() for box in boxes)]
    return [list(row) for row in zip(*columns, strict=True)]
