"""What a driver writes down of a stream while it runs, so that another one can go on from there.

A line of JSON in `.reel3d/journal.jsonl` for every clip made, every clip that a stage without
memory has dealt with or that any stage has given up or passed over, and the number of clips once
it is known. With the snapshots of the stream-scoped stages they tell the last clip up to which
all work stands (`pipeline.scheduling.resume`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.contract.events import Loss

__all__ = ["Dealt", "Journal", "Standing"]


@dataclass(frozen=True)
class Dealt:
    """A stage without memory has dealt with a clip, or any stage has given it up."""

    stage: str
    key: str
    """Of its job: with other options it counts for nothing."""
    clip: int
    seconds: float
    lost: Loss | None = None


@dataclass
class Standing:
    """What an earlier driver has written down."""

    clips: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What the head remembers of each clip."""
    dealt: dict[str, dict[int, Dealt]] = field(default_factory=dict[str, dict[int, Dealt]])
    """By key of the job."""
    passed: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """Clips with which a stage had no business, by key of the job."""
    total: int | None = None


class Journal:
    """The journal of one stream; a line that a crash tore counts for nothing."""

    def __init__(self, path: Path, key: str) -> None:
        """Use the file at `path`; `key` names the work of decoder and sampler."""
        self._path = path
        self._key = key
        self._file: Any = None

    def read(self) -> Standing:
        """Return what stands there; nothing if it was written under another key."""
        standing = Standing()
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return standing
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
                if number == 0 and row.get("key") != self._key:
                    return standing
                self._take(standing, row)
            except (ValueError, TypeError, AttributeError, KeyError):
                break
        return standing

    def begin(self, standing: Standing, clips: int) -> None:
        """Write anew what holds up to a clip, and go on after it."""
        self.close()
        temporary = self._path.with_suffix(".writing")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_line({"key": self._key}))
            for number, remembered in enumerate(standing.clips[:clips]):
                file.write(_line({"clip": number, "remembered": remembered}))
            for rows in standing.dealt.values():
                for dealt in rows.values():
                    if dealt.clip < clips:
                        file.write(_line({"dealt": asdict(dealt)}))
            for key, numbers in standing.passed.items():
                for number in sorted(n for n in numbers if n < clips):
                    file.write(_line({"passed": [key, number]}))
            if standing.total == clips and clips:
                file.write(_line({"total": clips}))
        temporary.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def clip(self, number: int, remembered: dict[str, Any]) -> None:
        """Write down a new clip."""
        self._write({"clip": number, "remembered": remembered})

    def dealt(self, dealt: Dealt) -> None:
        """Write down that a stage has dealt with a clip."""
        self._write({"dealt": asdict(dealt)})

    def passed(self, key: str, clip: int) -> None:
        """Write down that a stage has no business with a clip."""
        self._write({"passed": [key, clip]})

    def total(self, count: int) -> None:
        """Write down how many clips there are."""
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

    def _take(self, standing: Standing, row: dict[str, Any]) -> None:
        if "clip" in row:
            if row["clip"] != len(standing.clips) or not isinstance(row["remembered"], dict):
                raise ValueError("a clip is missing")
            standing.clips.append(row["remembered"])
        elif "dealt" in row:
            tree = dict(row["dealt"])
            lost = tree.pop("lost")
            dealt = Dealt(lost=Loss(**lost) if lost else None, **tree)
            standing.dealt.setdefault(dealt.key, {})[dealt.clip] = dealt
        elif "passed" in row:
            key, clip = row["passed"]
            standing.passed.setdefault(key, set()).add(int(clip))
        elif "total" in row:
            standing.total = int(row["total"])
        elif "key" not in row:
            raise ValueError("nothing that a journal holds")


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
