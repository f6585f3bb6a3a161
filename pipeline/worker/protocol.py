"""What the driver and its workers send each other, as plain data.

A driver sends a `Request`, one of seven kinds; a worker answers with a `Reply`, whose `outcome`
says which of its kinds it is. Large arrays travel beside both (`pipeline.worker.serialization`).

    request          what it asks for                         outcome
    ---------------  ---------------------------------------  ------------------------------
    (open)           build the stages                         Opened | OpenFailed
    NextClip         decode and sample the next clip          ClipDecoded | EndOfStream
    RedecodeClip     decode a clip of the past again          Processed
    ProcessItem      one call of a stage's `process`          Processed
    FinishStream     a stage's `finish`                       Finished
    LoadMessages     what an earlier run kept                 Processed
    PersistMessages  keep messages for `--resume`             Persisted
    MakeReport       the report, from the manifest            Processed
    (any)            the stage raised an exception            Failed
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.contract import Event, Probe, Source
from pipeline.storage import RunFolder
from pipeline.telemetry import Meter
from pipeline.worker.clip_metadata import ClipMetadata
from pipeline.worker.serialization import ForwardedArray, MessageHeader

__all__ = [
    "ClipDecoded",
    "EndOfStream",
    "Failed",
    "Failure",
    "FinishStream",
    "Finished",
    "LoadMessages",
    "MakeReport",
    "NextClip",
    "OpenFailed",
    "Opened",
    "Outcome",
    "PersistMessages",
    "Persisted",
    "ProcessItem",
    "Processed",
    "ProducedMessage",
    "RedecodeClip",
    "Reply",
    "Request",
    "RunLocation",
    "StageSpec",
    "mark_location",
]

LOCATION_FILE = "home"
"""File in a run's state by which a machine recognizes the folder, and not another of its name."""


@dataclass(frozen=True)
class StageSpec:
    """What a worker needs to build a stage."""

    step: str
    model: str
    options: dict[str, Any]
    name: str
    """`depth/multiview`; also names the stage's ledger entry, snapshots and scratch folder."""
    key: str
    slots: int
    """Upper bound of the large arrays that one call may return."""


@dataclass(frozen=True, kw_only=True)
class RunLocation:
    """The run folder of a stream, and the source of the stream."""

    folder: str
    mark: str
    """Random text that the folder's `home` file holds."""
    source: Source = field(repr=False)

    def run_folder(self) -> RunFolder | None:
        """Return the run folder, or None where this machine does not see it."""
        folder = RunFolder(Path(self.folder))
        try:
            seen = (folder.scratch("").parent / LOCATION_FILE).read_text(encoding="utf-8")
        except OSError:
            return None
        return folder if seen == self.mark else None


def mark_location(folder: RunFolder, source: Source) -> RunLocation:
    """Write a mark into a run folder, by which a worker recognizes it."""
    mark = os.urandom(16).hex()
    path = folder.scratch("").parent / LOCATION_FILE
    path.write_text(mark, encoding="utf-8")
    return RunLocation(folder=str(folder.path.resolve()), mark=mark, source=source)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An exception that a stage raised."""

    kind: str
    """Class name of the exception."""
    text: str
    detail: str = ""
    """Traceback."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception that is being handled."""
        text = str(error) or "no reason given"
        return cls(kind=type(error).__name__, text=text, detail=traceback.format_exc())


# Requests -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Addressed:
    stage: str
    """Name of the stage that is called, such as `flow/dis`."""
    location: RunLocation
    where: str = ""
    """Clip or part of the stream that the request is about, for logs."""


@dataclass(frozen=True, kw_only=True)
class NextClip(_Addressed):
    """Decode and sample the next clip."""

    safe: int = 0
    """Snapshots before this clip are not needed any more."""


@dataclass(frozen=True, kw_only=True)
class RedecodeClip(_Addressed):
    """Decode the frames of an earlier clip again."""

    clip: ClipMetadata


@dataclass(frozen=True, kw_only=True)
class ProcessItem(_Addressed):
    """Call `process` with messages."""

    messages: tuple[tuple[str, MessageHeader], ...]
    """Parameter name and message; its large arrays travel beside the request, in this order."""
    place: int = 0
    """Position of the work item in its stream."""
    sequence: int | None = None
    """Stateful stages: how many requests this worker got before; None: not checked."""
    safe: int = 0
    """Snapshots before this place are not needed any more."""


@dataclass(frozen=True, kw_only=True)
class FinishStream(_Addressed):
    """Call `finish`."""

    sequence: int | None = None
    """As in `ProcessItem`."""


@dataclass(frozen=True, kw_only=True)
class LoadMessages(_Addressed):
    """Read messages that an earlier run kept."""

    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PersistMessages(_Addressed):
    """Keep messages for `--resume`."""

    key: str
    """Fingerprint of the stage's work."""
    messages: tuple[tuple[str, MessageHeader], ...]


@dataclass(frozen=True, kw_only=True)
class MakeReport(_Addressed):
    """Write the report of a run."""

    manifest: dict[str, Any]


Request = (
    NextClip
    | RedecodeClip
    | ProcessItem
    | FinishStream
    | LoadMessages
    | PersistMessages
    | MakeReport
)


# Replies ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The stages are open."""

    snapshots: dict[str, int] = field(default_factory=dict[str, int])
    """Stateful stages: number of the snapshot that was restored, 0 for the initial state."""
    probe: Probe | None = None
    """What the decoder found out about its source."""
    machine: str = ""
    """Identifier of the machine that the worker runs on."""
    pid: int = 0


@dataclass(frozen=True, kw_only=True)
class OpenFailed:
    """A stage could not be opened."""

    stage: str | None
    """Name of that stage; None where it was the source that could not be opened."""
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class ClipDecoded:
    """The next clip; its frames are among the messages."""

    clip: ClipMetadata


@dataclass(frozen=True, kw_only=True)
class EndOfStream:
    """There is no next clip."""


@dataclass(frozen=True, kw_only=True)
class Processed:
    """A call returned; what it made is among the messages."""

    snapshot_saved: bool = False
    """Whether a snapshot of the stage's state after this call is on disk."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """`finish` returned."""

    files: tuple[str, ...] = ()
    """Names of the files that keep the stage's messages for `--resume`."""


@dataclass(frozen=True, kw_only=True)
class Persisted:
    """Messages were written."""

    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The call raised an exception."""

    failure: Failure


Outcome = (
    Opened | OpenFailed | ClipDecoded | EndOfStream | Processed | Finished | Persisted | Failed
)


@dataclass(frozen=True, kw_only=True)
class ProducedMessage:
    """A message that a call returned, without its large arrays."""

    header: MessageHeader
    arrays: tuple[ForwardedArray | int, ...]
    """For each large array its index among the new arrays, or the given one that it is."""
    sizes: tuple[int, ...]
    """Bytes of each."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to a request; the new arrays travel beside it."""

    outcome: Outcome
    messages: tuple[ProducedMessage, ...] = ()
    events: tuple[tuple[str, Event], ...] = ()
    """Stage name and event."""
    seconds: float = 0.0
    meters: dict[str, Meter] | None = None
    """Stage name to its whole meter, for stages of one stream; shared pools send None."""
    peak_memory_bytes: int = 0
