"""Interfaces of the scheduler: the `Backend` that carries tasks, the `StreamHooks` of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.contract import Event, Loss
from pipeline.errors import Reel3dError
from pipeline.scheduling.pools import Worker
from pipeline.scheduling.tasks import Outputs, StageState, StreamInfo, Task, WorkItem
from pipeline.storage import PlannedStage
from pipeline.telemetry import Meter
from pipeline.worker import Failed, Failure, MessageRef, Opened, OpenFailed, Outcome

__all__ = [
    "Backend",
    "Limits",
    "ObjectsLost",
    "StreamHooks",
    "TaskDone",
    "TaskResult",
    "WorkerEvent",
    "WorkerLost",
    "WorkerStarted",
    "report_task",
]

STORE_BYTES_S = 8e9
"""Approximate rate at which a worker writes into the object store, bytes/s."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a worker returned."""

    outcome: Outcome
    outputs: Outputs = field(default_factory=dict[type, MessageRef | None])
    events: tuple[tuple[str, Event], ...] = ()
    """Stage name and event."""
    seconds: float = 0.0
    """Duration of the stage's own work."""
    stored_bytes: int = 0
    """Bytes that the worker then had to write into the object store."""
    meters: dict[str, Meter] | None = None
    """Stage name to its whole meter, for stages of one stream; None for shared pools."""
    peak_memory_bytes: int = 0

    @property
    def failure(self) -> Failure | None:
        """The exception that the task raised, if any."""
        return self.outcome.failure if isinstance(self.outcome, Failed) else None

    @property
    def stored_s(self) -> float:
        """Approximate duration of writing the outputs."""
        return self.stored_bytes / STORE_BYTES_S


@dataclass(frozen=True, kw_only=True)
class WorkerStarted:
    """A worker is up."""

    worker: Worker
    outcome: Opened | OpenFailed
    events: tuple[tuple[str, Event], ...] = ()
    meters: dict[str, Meter] | None = None


@dataclass(frozen=True, kw_only=True)
class TaskDone:
    """A task returned or raised an exception."""

    worker: Worker
    task: Task
    result: TaskResult


@dataclass(frozen=True, kw_only=True)
class ObjectsLost:
    """The arguments of a task are not in the object store any more; it did not run."""

    worker: Worker
    task: Task


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """A worker has ended with whatever tasks it held."""

    worker: Worker
    reason: str
    """For people."""
    out_of_memory: bool = False
    """Whether it was ended because its machine ran out of memory."""
    never_started: bool = False
    """Whether it ended before it began its first task, which is not to blame."""


WorkerEvent = WorkerStarted | TaskDone | ObjectsLost | WorkerLost


class Backend(Protocol):
    """Starts workers and carries tasks; everything comes back as a `WorkerEvent`."""

    def now(self) -> float:
        """Return the time in seconds."""
        ...

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        """Start a process and open the pool's stages.

        Args:
            worker: The new worker.
            places: Stage name to the snapshot that it continues from.
        """
        ...

    def send(self, worker: Worker, task: Task) -> None:
        """Send a task; a worker runs its tasks in the order in which it gets them."""
        ...

    def stop(self, worker: Worker) -> None:
        """Close the stages and end the process; no event of it follows."""
        ...

    def end(self, worker: Worker) -> None:
        """Ask a camera to end; its last clips still come."""
        ...

    def kill(self, worker: Worker) -> None:
        """End the process at once; no event of it follows."""
        ...

    def wait(self, timeout_s: float) -> list[WorkerEvent]:
        """Return what has happened; wait for it up to this long."""
        ...


class StreamHooks:
    """What the run of a stream does when the scheduler gets somewhere; by default nothing."""

    def on_opened(self, opened: Opened) -> None:
        """A worker of the stream is up; the decoder's reports its `probe`."""

    def on_clip(self, item: WorkItem, result: TaskResult) -> None:
        """The source made a new clip."""

    def on_sent(self, stage: StageState) -> None:
        """A stage got a task."""

    def on_task_done(self, result: TaskResult) -> None:
        """A task of the stream returned."""

    def on_processed(
        self, stage: StageState, item: WorkItem, seconds: float, loss: Loss | None
    ) -> None:
        """A stage without memory has processed a clip, or any stage has given one up."""

    def on_skipped(self, stage: StageState, item: WorkItem) -> None:
        """A stage reads nothing of a clip."""

    def on_total(self, count: int) -> None:
        """The number of clips is known."""

    def on_event(self, stage: str, event: Event) -> None:
        """A stage reported an event."""

    def on_finalized(self, stage: StageState) -> None:
        """A stage has ended."""

    def on_end(self, error: Reel3dError | None) -> None:
        """Every stage has ended, or the stream cannot go on for this reason."""

    def on_report(self, result: TaskResult) -> None:
        """The report is made, or failed."""


def report_task(stream: StreamInfo, planned: PlannedStage, manifest: dict[str, Any]) -> Task:
    """Return the task that makes the report of a run; it belongs to no stage of the dataflow."""
    stage = StageState(-1, planned, "stateful")
    return Task(stream, stage, "report", manifest=manifest)


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
