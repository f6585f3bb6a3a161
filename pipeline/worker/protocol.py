"""What the driver and its workers send each other, as plain data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.contract.events import Event
from pipeline.contract.source import Source
from pipeline.storage.run_folder import RunFolder
from pipeline.telemetry.meter import Meter
from pipeline.worker.serialization import Forward, Parcel


@dataclass(frozen=True)
class StageSpec:
    """What a worker needs to build a stage: plain data."""

    step: str
    model: str
    options: dict[str, Any]
    name: str
    """`depth/multiview`: also of its ledger entry, snapshots and scratch folder."""
    key: str
    slots: int
    """Large arrays that it may make in one call."""


HOME = "home"
"""File in a run's state that tells whether a machine sees the folder, or another of its name."""

NOTHING: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where a stream's results go."""

    folder: str
    mark: str
    """What its `home` file holds."""
    source: Source = field(repr=False)

    def run_folder(self) -> RunFolder | None:
        """Return the run folder, or None where this machine does not see it."""
        folder = RunFolder(Path(self.folder))
        try:
            seen = (folder.scratch("").parent / HOME).read_text(encoding="utf-8")
        except OSError:
            return None
        return folder if seen == self.mark else None


def mark_home(folder: RunFolder, source: Source) -> Home:
    """Leave a mark in a run folder, by which a worker knows that it sees it."""
    mark = os.urandom(16).hex()
    path = folder.scratch("").parent / HOME
    path.write_text(mark, encoding="utf-8")
    return Home(folder=str(folder.path.resolve()), mark=mark, source=source)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One call."""

    verb: str
    stage: str
    where: str = ""
    """The clip or part that it is about, for logs."""
    place: int = 0
    turn: int | None = None
    """Stream-scoped stages: how many calls of it this worker got before; None: not checked."""
    safe: int = 0
    """Snapshots before this place are not needed any more."""
    home: Home
    parcels: tuple[tuple[str, Parcel], ...] = NOTHING
    """Parameter and message, its arrays left out: they come beside the order, in this order."""
    message: Any = None
    """`remake`: what was remembered of the clip. `load`: file names. `report`: the manifest."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to a call; the new arrays go beside it."""

    made: tuple[tuple[Parcel, tuple[Forward | int, ...], tuple[int, ...]], ...] = NOTHING
    """Messages; for each array a place among those given or made; and the bytes of each."""
    events: tuple[tuple[str, Event], ...] = NOTHING
    seconds: float = 0.0
    failure: tuple[str, str, str] | None = None
    """Name of the exception, its text, a traceback."""
    meters: dict[str, Meter] | None = None
    saved: bool = False
    extra: Any = None
    peak_memory_bytes: int = 0
