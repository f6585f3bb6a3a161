"""Write-ahead journal of a stream: what a driver records, so that another one can continue.

A line of JSON in `.reel3d/journal.jsonl` for every clip that the source made, every clip that a
stage without memory has processed or that any stage has given up or skipped, and the number of
clips once it is known. Together with the snapshots of the stateful stages they give the last clip
up to which all work is done (`pipeline.scheduling.resume`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.contract import Loss

__all__ = ["ClipRecord", "Journal", "JournalState"]


@dataclass(frozen=True)
class ClipRecord:
    """A stage without memory has processed a clip, or any stage has given it up."""

    stage: str
    key: str
    """Fingerprint of the stage's work: with other options the record does not count."""
    clip: int
    seconds: float
    lost: Loss | None = None


@dataclass
class JournalState:
    """What an earlier driver has recorded."""

    clips: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Metadata of each clip."""
    processed: dict[str, dict[int, ClipRecord]] = field(
        default_factory=dict[str, dict[int, ClipRecord]]
    )
    """Key of the stage's work to clip number to record."""
    skipped: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """Key of the stage's work to the clips that the stage skipped."""
    total: int | None = None
    """Number of clips of the stream, once known."""


class Journal:
    """The journal of one stream; a line that a crash cut short does not count."""

    def __init__(self, path: Path, key: str) -> None:
        """Use the file at `path`; `key` is the fingerprint of decoding and sampling."""
        self._path = path
        self._key = key
        self._file: Any = None

    def read(self) -> JournalState:
        """Return what is recorded; nothing if it was recorded under another key."""
        state = JournalState()
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return state
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
                if number == 0 and row.get("key") != self._key:
                    return state
                self._take(state, row)
            except (ValueError, TypeError, AttributeError, KeyError):
                break
        return state

    def begin(self, state: JournalState, clips: int) -> None:
        """Rewrite the file with what is valid up to a clip, and append from there."""
        self.close()
        temporary = self._path.with_suffix(".writing")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_line({"key": self._key}))
            for number, metadata in enumerate(state.clips[:clips]):
                file.write(_line({"clip": number, "remembered": metadata}))
            for rows in state.processed.values():
                for record in rows.values():
                    if record.clip < clips:
                        file.write(_line({"dealt": asdict(record)}))
            for key, numbers in state.skipped.items():
                for number in sorted(n for n in numbers if n < clips):
                    file.write(_line({"passed": [key, number]}))
            if state.total == clips and clips:
                file.write(_line({"total": clips}))
        temporary.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def clip(self, number: int, metadata: dict[str, Any]) -> None:
        """Record a new clip."""
        self._write({"clip": number, "remembered": metadata})

    def processed(self, record: ClipRecord) -> None:
        """Record that a stage has processed a clip or given it up."""
        self._write({"dealt": asdict(record)})

    def skipped(self, key: str, clip: int) -> None:
        """Record that a stage skips a clip."""
        self._write({"passed": [key, clip]})

    def total(self, count: int) -> None:
        """Record the number of clips."""
        self._write({"total": count})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove it: the run is complete."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(_line(row))
            # A killed driver loses what it holds itself, not what the system holds.
            self._file.flush()

    def _take(self, state: JournalState, row: dict[str, Any]) -> None:
        if "clip" in row:
            if row["clip"] != len(state.clips) or not isinstance(row["remembered"], dict):
                raise ValueError("a clip is missing")
            state.clips.append(row["remembered"])
        elif "dealt" in row:
            tree = dict(row["dealt"])
            lost = tree.pop("lost")
            dealt = ClipRecord(lost=Loss(**lost) if lost else None, **tree)
            state.processed.setdefault(dealt.key, {})[dealt.clip] = dealt
        elif "passed" in row:
            key, clip = row["passed"]
            state.skipped.setdefault(key, set()).add(int(clip))
        elif "total" in row:
            state.total = int(row["total"])
        elif "key" not in row:
            raise ValueError("nothing that a journal holds")


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
