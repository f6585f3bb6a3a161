"""Workers as Ray actors: the scheduler's backend on a real cluster.

Actors have neither Ray's restarts nor its retries: with these, a clip that kills its worker spends
the attempts of the clips queued beside it. The scheduler sees every death itself. Calls return a
small reply, which comes to the driver, and the large arrays, which do not.
"""

from __future__ import annotations

import logging
import pickle
import queue
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pipeline.cluster import key_value
from pipeline.cluster.connection import Cluster
from pipeline.cluster.stage_actor import PROGRESS_KEY, actor_classes
from pipeline.contract import Context, Progress
from pipeline.scheduling import (
    ObjectsLost,
    StreamInfo,
    Task,
    TaskDone,
    TaskResult,
    Worker,
    WorkerEvent,
    WorkerLost,
    WorkerPool,
    WorkerStarted,
    may_idle,
    references_of,
    request_of,
    result_of,
    started,
)
from pipeline.telemetry import LogSettings
from pipeline.worker import (
    Failed,
    Failure,
    OpenFailed,
    Reply,
    Request,
    RunLocation,
)
from pipeline.worker import slots as slots_of

__all__ = ["RayBackend", "death_reason"]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _InFlightCall:
    """A task that was sent to an actor."""

    task: Task
    request: Request
    slots: int
    """Upper bound of the objects that come back."""
    given: list[Any]
    """References of the task's arrays."""
    made: list[Any] = field(default_factory=list[Any])
    """References of the objects that will come back."""


@dataclass(eq=False)
class _Handle:
    """A worker's actor, and its method bound to each number of objects that come back."""

    actor: Any
    methods: dict[int, Callable[..., Any]]


class RayBackend:
    """Starts actors and sends tasks; what comes back waits in one queue."""

    def __init__(self, *, seed: int, cluster: Cluster) -> None:
        """Prepare to start actors in the cluster that this process has joined."""
        self._seed = seed
        self._cluster = cluster
        self._log = LogSettings.inherited()
        self._inbox: queue.SimpleQueue[tuple[Worker, list[_InFlightCall], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._light: dict[Worker, list[_InFlightCall]] = {}
        """Calls that are sent together, with what else their worker gets in this step."""
        self._locations: dict[int, RunLocation] = {}
        """Stream number to the run folder."""
        self._plain, self._threaded = actor_classes()
        self._idle_actors = cluster.idle_actors

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def set_location(self, stream: StreamInfo, location: RunLocation) -> None:
        """Set where the results of a stream go."""
        self._locations[stream.number] = location

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        """Start an actor, or take an idle one, and open the pool's stages."""
        pool = worker.pool
        actor = self._idle_actors.take() if self._may_idle(pool) else None
        if actor is None:
            kind = self._threaded if pool.is_camera else self._plain
            actor = kind.options(**self._cluster.actor_options(pool)).remote(self._log)
        worker.handle = _Handle(actor, {})
        location = self._locations[pool.stream.number] if pool.stream is not None else None
        context = Context(seed=self._seed, threads=pool.threads)
        name = f"{self._cluster.job}:{worker.number}"
        answer = actor.open.remote(name, pool.specs, context, location, places)
        self._expect(worker, [], answer)

    def send(self, worker: Worker, task: Task) -> None:
        """Send a task; its arrays go as references."""
        makes = task.kind in ("process", "finish", "next_clip", "redecode", "load")
        slots = slots_of(task.stage.planned.link.ports.makes) if makes else 0
        request = request_of(task, self._locations[task.stream.number])
        call = _InFlightCall(task, request, slots, references_of(task))
        if worker.pool.light:
            self._light.setdefault(worker, []).append(call)
        else:
            self._post(worker, [call])

    def stop(self, worker: Worker) -> None:
        """Close the stages; the actor then waits for others, or exits."""
        if worker.handle is not None:
            if self._may_idle(worker.pool):
                self._idle_actors.add(worker.handle.actor)
            else:
                self._idle_actors.stop(worker.handle.actor)
            worker.handle = None

    def close(self, idle: int) -> None:
        """Wait until the actors that were stopped have exited, but for so many that stay idle."""
        self._idle_actors.trim(idle)

    def end(self, worker: Worker) -> None:
        """Ask a camera to end; its last clips still come."""
        if worker.handle is not None:
            worker.handle.actor.end.remote()

    def kill(self, worker: Worker) -> None:
        """End the actor at once."""
        import ray

        if worker.handle is not None:
            ray.kill(worker.handle.actor, no_restart=True)
            worker.handle = None

    def wait(self, timeout_s: float) -> list[WorkerEvent]:
        """Return what has come back, waiting for the first of it."""
        for worker, calls in self._light.items():
            if worker.handle is not None:
                self._post(worker, calls)
        self._light.clear()
        self._idle_actors.sweep()
        events: list[WorkerEvent] = []
        try:
            events += self._events_of(*self._inbox.get(timeout=timeout_s))
            while True:
                events += self._events_of(*self._inbox.get_nowait())
        except queue.Empty:
            return events

    def progress(self, workers: list[Worker]) -> list[tuple[Worker, str, Progress]]:
        """Return the progress that long tasks have reported lately."""
        reports: list[tuple[Worker, str, Progress]] = []
        for worker in workers:
            row = key_value.get(PROGRESS_KEY + f"{self._cluster.job}:{worker.number}".encode())
            if row is not None:
                reports.append((worker, row.pop("stage"), Progress(**row)))
        return reports

    def _may_idle(self, pool: WorkerPool) -> bool:
        return may_idle(pool, self._cluster.claim(pool))

    def _post(self, worker: Worker, calls: list[_InFlightCall]) -> None:
        """Send calls to a worker as one of Ray's."""
        handle: _Handle = worker.handle
        slots = sum(call.slots for call in calls)
        method = handle.methods.get(slots)
        if method is None:
            method = handle.actor.handle.options(num_returns=1 + slots).remote
            handle.methods[slots] = method
        # Pickled here: bytes go through Ray as they are.
        rows = [(call.request, call.slots, len(call.given)) for call in calls]
        given = (ref for call in calls for ref in call.given)
        refs = method(pickle.dumps(rows, protocol=5), *given)
        refs = refs if isinstance(refs, list) else [refs]
        at = 1
        for call in calls:
            call.made = refs[at : at + call.slots]
            at += call.slots
        self._expect(worker, calls, refs[0])

    def _expect(self, worker: Worker, calls: list[_InFlightCall], answer: Any) -> None:
        answer.future().add_done_callback(lambda future: self._inbox.put((worker, calls, future)))

    def _events_of(
        self, worker: Worker, calls: list[_InFlightCall], future: Future[Any]
    ) -> list[WorkerEvent]:
        from ray import exceptions

        error = future.exception()
        if error is None:
            return _answered(worker, calls, future.result())
        cause = getattr(error, "cause", None)
        lost = (exceptions.ObjectLostError, exceptions.ReferenceCountingAssertionError)
        if calls and (isinstance(error, lost) or isinstance(cause, lost)):
            return [ObjectsLost(worker=worker, task=call.task) for call in calls]
        if isinstance(error, exceptions.OutOfMemoryError):
            reason = "the machine ran out of memory"
            return [WorkerLost(worker=worker, reason=reason, out_of_memory=True)]
        if isinstance(error, exceptions.RayActorError):
            return [WorkerLost(worker=worker, reason=death_reason(str(error)))]
        if isinstance(error, exceptions.ActorUnschedulableError):
            return [WorkerLost(worker=worker, reason=f"no machine has room for it: {error}")]
        kind = type(cause or error).__name__
        failure = Failure(kind=kind, text=str(cause or error), detail=str(error))
        if not calls:
            return [WorkerStarted(worker=worker, outcome=OpenFailed(stage=None, failure=failure))]
        result = TaskResult(outcome=Failed(failure=failure))
        return [TaskDone(worker=worker, task=call.task, result=result) for call in calls]


def _answered(worker: Worker, calls: list[_InFlightCall], answer: Any) -> list[WorkerEvent]:
    """Return the events of an answer: a reply to `open`, or the pickled replies to calls."""
    if not calls:
        return [started(worker, answer)]
    replies: list[Reply] = pickle.loads(answer)
    return [
        TaskDone(worker=worker, task=call.task, result=result_of(reply, call.made, call.given))
        for call, reply in zip(calls, replies, strict=True)
    ]


def death_reason(text: str) -> str:
    """Summarize Ray's actor-death message in one phrase.

    Of a crash Ray knows only that the connection broke; its message then lists possible causes.
    """
    if "its node has died" in text:
        return "the machine that it ran on was lost"
    code = re.search(r"exit code[ :=]+(-?\d+)", text)
    if code:
        return f"its process ended with code {code[1]}"
    return "its process ended unexpectedly (a crash, lack of memory, or someone ended it)"
