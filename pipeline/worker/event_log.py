"""Events of a stream, collected on disk until the stream ends."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from pipeline.contract import Actions, Tracks


class EventLog:
    """The events of a stream until its end: in memory, and beside the snapshots on the disk."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder.with_name(folder.name + ".actions.jsonl") if folder else None
        self._parts: list[Actions] = []

    @property
    def length(self) -> int:
        """How many messages there are."""
        return len(self._parts)

    def add(self, actions: Actions) -> None:
        """Append a message."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._parts:
                self._path.unlink(missing_ok=True)
            values = {part.name: getattr(actions, part.name) for part in fields(actions)}
            row = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self._parts.append(actions)

    def cut(self, length: int) -> None:
        """Read back the first `length` messages; what a crash left after them is dropped."""
        assert self._path is not None
        rows = self._path.read_text(encoding="utf-8").splitlines()[:length]
        if len(rows) < length:
            raise ValueError(f"{self._path} holds {len(rows)} of {length} events")
        for row in map(json.loads, rows):
            made = Tracks if "track" in row else Actions
            for name, (dtype, shape) in made.SPEC.items():
                # No rows at all have lost their length.
                row[name] = np.array(row[name], dtype).reshape(-1, *map(int, shape.split()[1:]))
            names = {key: tuple(row.pop(key)) for key in ("label", "kind", "model")}
            self._parts.append(made(**names, **row))
        self._path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")

    def joined(self) -> Actions | None:
        """Return all messages as one, or None if there are none."""
        return type(self._parts[0]).concat(self._parts) if self._parts else None
