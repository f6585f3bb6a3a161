"""Worker pools: the workers of one stage, the tasks that wait for them, and how many there are.

A pool is shared by all streams (stages without memory), or holds the one worker of a stream's
decoder, of one of its stateful stages, or of its exporters. The rules here are the whole policy of
pool sizes; the Ray runner and the simulator both apply them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Any, Literal

from pipeline.contract import Resources
from pipeline.scheduling.tasks import FINISH, StreamInfo, Task
from pipeline.worker import StageSpec

__all__ = ["DEPTH", "Worker", "WorkerPool"]

DEPTH = 2
"""Tasks that a worker may hold: one runs, one has arrived when it ends. A third gained nothing on
Ray 2.60 (measured with stages of 1 to 100 ms)."""
LIGHT_S = 0.004
"""Tasks shorter than this are light: sending one costs as much as running it, so those that are
sent at the same moment travel together."""
LIGHT_DEPTH = 8
"""Tasks that a worker may hold of a stage whose tasks are light."""
IDLE_S = 10.0
"""A shared pool's worker without work for this long is stopped."""
START_S = 1.0
"""Cost of starting one more worker: it is worth it once that much work waits, or was done since the
last one started. Stages of a millisecond would otherwise get workers by turns."""
SLACK = 0.1
"""A pool may stay this far below its share of the cores."""
SMOOTHING = 0.2
"""Weight of the newest task in the mean duration of a pool's tasks."""


@dataclass(eq=False)
class Worker:
    """A process that runs the tasks of one pool in the order in which it gets them."""

    number: int
    pool: WorkerPool
    state: Literal["starting", "ready", "stopped"] = "starting"
    tasks: deque[Task] = field(default_factory=deque[Task])
    """Tasks that were sent and have not returned; the first one runs."""
    since: float = 0.0
    """Time when the first of `tasks` began to run, or when the worker fell idle."""
    started: float = 0.0
    """Time when it was started."""
    busy_s: float = 0.0
    """Total duration of its tasks."""
    exclusive: bool = False
    """Whether its only task is a suspect: no other may join it."""
    draining: bool = False
    """Whether it gets no more tasks."""
    sealed: bool = False
    """Whether its light tasks have been sent: new ones wait for their reply, and travel
    together."""
    handle: Any = None
    """Private to the backend."""
    machine: str = ""
    """Identifier of the machine that it runs on."""


@dataclass(eq=False)
class WorkerPool:
    """One kind of worker and the tasks that wait for it."""

    name: str
    kind: Literal["source", "stateful", "shared", "sink"]
    specs: tuple[StageSpec, ...]
    """Stages that each worker opens."""
    resources: Resources
    """What each worker needs."""
    threads: int
    """Threads that each worker may use."""
    whole: bool = False
    """Whether a task of this shared pool is a whole stream."""
    stream: StreamInfo | None = None
    """The stream that it belongs to; None for a shared pool."""
    deadline_s: float | None = None
    """Upper bound of the duration of one clip; None for no bound."""
    whole_deadline_s: float | None = None
    """Upper bound of the duration of a task for a whole stream."""
    waiting: list[tuple[int, int, Task]] = field(default_factory=list[tuple[int, int, Task]])
    """Heap of the queued tasks: higher priority first, then first come, first served."""
    suspects: deque[Task] = field(default_factory=deque[Task])
    """Tasks that a worker held when it died: each runs again alone."""
    exclusive_until: int = -1
    """Stateful: tasks up to this place run alone, since the worker died of one of them."""
    workers: list[Worker] = field(default_factory=list[Worker])
    tasks_done: int = 0
    seconds: float = 0.0
    """Smoothed mean duration of a task."""
    done_s: float = 0.0
    """Total duration of the tasks done since its last worker was started."""
    recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=4096))
    """Durations in seconds of the tasks since the last status report."""
    lately: deque[float] = field(default_factory=lambda: deque[float](maxlen=LIGHT_DEPTH))
    """Durations in seconds of the last tasks."""
    usual_s: float = float("inf")
    """Median of `lately`, known after a few tasks; a busy machine disturbs it less than a mean."""
    failures: int = 0
    """Number of exceptions and deaths."""
    starts_failed: int = 0
    """Number of workers in a row that did not come up."""
    backoff_until: float = 0.0
    """Time before which no worker is started, since memory ran out."""
    memory_bound: float = float("inf")
    """Number of workers that fit, where memory has run out."""
    users: int = 0
    """Number of streams that may still need it."""
    busy_s: float = 0.0
    """Total duration of the tasks of workers that have ended."""

    @property
    def is_camera(self) -> bool:
        """Whether its worker decodes a live camera."""
        return self.kind == "source" and self.stream is not None and self.stream.live

    def enqueue(self, task: Task) -> None:
        """Queue a task."""
        heapq.heappush(self.waiting, (-task.stream.priority, task.serial, task))

    def record_duration(self, seconds: float, stored_s: float = 0.0) -> None:
        """Account for a task and for the time that storing its outputs took."""
        self.lately.append(seconds)
        if len(self.lately) == LIGHT_DEPTH:
            self.usual_s = median(self.lately)
        seconds += stored_s
        self.tasks_done += 1
        self.recent.append(seconds)
        self.done_s += seconds
        share = max(SMOOTHING, 1 / self.tasks_done)
        self.seconds += share * (seconds - self.seconds)

    def deadline_of(self, task: Task) -> float | None:
        """Return the upper bound of a task's duration in seconds, or None."""
        clip = task.kind == "next_clip" or (task.item is not None and task.item.number < FINISH)
        return self.deadline_s if clip else self.whole_deadline_s

    @property
    def backlog(self) -> int:
        """Number of tasks without a worker."""
        return len(self.waiting) + len(self.suspects)

    @property
    def load(self) -> int:
        """Number of tasks that wait or run."""
        return self.backlog + sum(len(worker.tasks) for worker in self.workers)

    @property
    def light(self) -> bool:
        """Whether its tasks may travel together."""
        return self.usual_s < LIGHT_S

    @property
    def depth(self) -> int:
        """Number of tasks that a worker may hold."""
        return LIGHT_DEPTH if self.light else DEPTH

    @property
    def pending_s(self) -> float:
        """Seconds of work that wait or run; a camera's decoder waits for frames, not for cores."""
        return 0.0 if self.is_camera else self.seconds * self.load

    def drop_stream(self, stream: StreamInfo) -> None:
        """Drop the queued tasks of a stream that has ended."""
        self.withdraw(lambda task: task.stream == stream)

    def withdraw(self, wanted: Callable[[Task], bool]) -> list[Task]:
        """Remove the tasks without a worker for which `wanted` is true, and return them."""
        back = [task for _, _, task in self.waiting if wanted(task)]
        back += [task for task in self.suspects if wanted(task)]
        self.waiting = [entry for entry in self.waiting if not wanted(entry[2])]
        heapq.heapify(self.waiting)
        self.suspects = deque(task for task in self.suspects if not wanted(task))
        return back

    def next_assignment(self) -> tuple[Worker, Task, bool] | None:
        """Return a worker, the task that it should take now, and whether exclusively.

        The least busy worker goes first. A suspect goes to a worker that holds nothing, and
        nothing joins it; so while there is one, the least busy worker takes nothing new.
        """
        free = [w for w in self.workers if w.state == "ready" and not (w.exclusive or w.draining)]
        if self.light:
            free = [w for w in free if not (w.sealed and w.tasks)]
        free.sort(key=lambda worker: len(worker.tasks))
        if self.suspects and free:
            if not free[0].tasks:
                return free[0], self.suspects.popleft(), True
            del free[0]
        if not self.waiting or not free or len(free[0].tasks) >= self.depth:
            return None
        alone = self.waiting[0][2].place <= self.exclusive_until
        if alone and free[0].tasks:
            return None
        return free[0], heapq.heappop(self.waiting)[2], alone

    def desired_size(self, cores: float, gpus: float, work: float) -> int:
        """Return the number of workers that the pool should have now.

        The cores go where the work waits: a pool gets the share of them that its tasks have of all
        the work that waits or runs, and never more workers than it has tasks for, or than are
        worth their start.

        Args:
            cores: CPUs that this run may use.
            gpus: GPUs that this run may use.
            work: Seconds of work that wait or run, in all pools.
        """
        if self.kind != "shared":
            return 1
        if not self.load:
            return 0
        most = float(self.max_size(cores, gpus))
        if self.resources.cpus and self.seconds and work:
            share = self.pending_s / work
            # Rounded up: a stage that needs 1.4 cores and has one would hold up all the others.
            most = min(most, max(1.0, ceil(cores * share / self.resources.cpus - SLACK)))
        elif not self.seconds:
            most = 1.0
        if self.pending_s < START_S and self.done_s < START_S:
            most = min(most, max(1, len(self.workers)))
        return int(max(1, min(most, -(-self.load // self.depth))))

    def max_size(self, cores: float, gpus: float) -> int:
        """Return the number of workers that fit into so many cores and GPUs."""
        most = self.memory_bound
        if self.resources.cpus:
            most = min(most, cores / self.resources.cpus)
        if self.resources.gpus:
            most = min(most, gpus / self.resources.gpus)
        return int(max(1, min(most, 1 << 20)))
