"""What the scheduler talks to: who carries its calls, and who runs a stream with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.contract.events import Event, Loss
from pipeline.errors import Reel3dError
from pipeline.scheduling.dataflow import Call, Node, Outputs, Parcel
from pipeline.scheduling.pools import Worker
from pipeline.telemetry.meter import Meter
from pipeline.worker.serialization import Packed

__all__ = ["Backend", "Failure", "Happening", "Limits", "Result", "StreamHooks"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An exception that a stage raised, as plain data."""

    kind: str
    text: str
    detail: str = ""


STORE_BYTES_S = 8e9
"""At about this rate a worker writes into the object store."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a call gave back."""

    outputs: Outputs = field(default_factory=dict[type, Packed | None])
    events: tuple[tuple[str, Event], ...] = ()
    """Stage name and event."""
    seconds: float = 0.0
    """Of the stage's own work."""
    stored_bytes: int = 0
    """What the worker then had to write into the object store."""
    failure: Failure | None = None
    meters: dict[str, Meter] | None = None
    """Stage name to all that it has told, for stages that count by themselves."""
    saved: bool = False
    """Whether a snapshot of the state after this call stands on the disk."""
    extra: Any = None
    peak_memory_bytes: int = 0

    @property
    def stored_s(self) -> float:
        """Seconds that writing it took, about."""
        return self.stored_bytes / STORE_BYTES_S


@dataclass(frozen=True, kw_only=True)
class Happening:
    """Something that happened to a worker."""

    worker: Worker
    call: Call | None = None
    """Which call it is about; None for its start."""
    result: Result | None = None
    died: str = ""
    """Why the worker is gone."""
    starved: bool = False
    """It was ended because the machine ran out of memory."""
    missing: bool = False
    """What the call was given is not there any more."""
    untouched: bool = False
    """The worker was gone before it began its first call, which is not to blame."""


class Backend(Protocol):
    """Starts workers and carries calls; everything comes back as a `Happening`."""

    def now(self) -> float:
        """Return the time, s."""
        ...

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        """Start a process and open the lane's stages, each at the place of a snapshot."""
        ...

    def send(self, worker: Worker, call: Call) -> None:
        """Send a call; the worker runs its calls in this order."""
        ...

    def stop(self, worker: Worker) -> None:
        """Close the stages and end the process; nothing more is heard of it."""
        ...

    def end(self, worker: Worker) -> None:
        """Ask a camera to end; its last clips still come."""
        ...

    def kill(self, worker: Worker) -> None:
        """End the process at once; nothing more is heard of it."""
        ...

    def wait(self, timeout_s: float) -> list[Happening]:
        """Return what has happened; wait for it up to this long."""
        ...


class StreamHooks(Protocol):
    """What a stream's run does when the scheduler gets somewhere."""

    def opened(self, found: dict[str, Any]) -> None:
        """Take what a new worker found: the decoder its `probe`."""
        ...

    def clip(self, parcel: Parcel, result: Result) -> None:
        """Write down a new clip, so that it can be made again."""
        ...

    def sent(self, node: Node) -> None:
        """Take that a stage has got a call."""
        ...

    def answered(self, result: Result) -> None:
        """Take what a call told of itself."""
        ...

    def dealt(self, node: Node, parcel: Parcel, seconds: float, loss: Loss | None) -> None:
        """Write down that a stage without memory has dealt with a clip, or that it is given up."""
        ...

    def passed(self, node: Node, parcel: Parcel) -> None:
        """Write down that a stage has no business with a clip."""
        ...

    def total(self, count: int) -> None:
        """Write down how many clips there are."""
        ...

    def tell(self, stage: str, event: Event) -> None:
        """Take what a stage tells while it works."""
        ...

    def settle(self, node: Node) -> None:
        """Record that a stage is through."""
        ...

    def ended(self, error: Reel3dError | None) -> None:
        """Take that every stage is through, or why the stream cannot be worked on."""
        ...

    def reported(self, result: Result) -> None:
        """Take that the report is made."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may use."""

    cores: float
    gpus: float = 0.0
    budget_bytes: int = 1 << 30
    attempts: int = 3
    """Deaths while alone that make a clip count as poison."""
    backlog: int = 2
    """Clips that may wait between two stages."""
