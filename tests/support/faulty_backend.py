"""A backend of the scheduler that runs the real workers in this process, on a clock of its own.

Everything that can go wrong on a cluster goes wrong here by a seed, thousands of times faster:
workers die idle, while they start and in the middle of a call (before its effects or after),
machines go with what they held, memory runs out, calls hang, objects are lost, snapshots are
damaged. Objects lie in a dict, so the use of one that was let go is an error.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.contract import Context
from pipeline.scheduling import (
    ObjectsLost,
    Scheduler,
    StreamInfo,
    Task,
    TaskDone,
    TaskResult,
    Worker,
    WorkerEvent,
    WorkerLost,
    references_of,
    request_of,
    result_of,
    started,
)
from pipeline.scheduling.stage_failures import MOST_LOSSES
from pipeline.worker import Reply, RunLocation, StageHost

NOTICE_S = 0.05
"""How long it takes until a death is known."""


@dataclass
class Faults:
    """How often what goes wrong, a call (0..1); after `most` in all nothing does any more."""

    seed: float = 0
    dies: float = 0.0
    idles: float = 0.0
    starves: float = 0.0
    hangs: float = 0.0
    loses: float = 0.0
    damages: float = 0.0
    fails_to_start: float = 0.0
    node_goes: float = 0.0
    most: int = 40
    poison: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """(stage, clip): ends the worker whenever it is tried; `clip 3` for the decoder's fourth."""
    vanishes: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """(stage, clip): what the stage needs of it is lost whenever it is made."""
    slow: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds that a stage's calls take."""


class Ref:
    """An object of the store."""


@dataclass(eq=False)
class Process:
    """A worker's process."""

    worker: Worker
    host: StageHost
    alive: bool = True
    tasks: list[Task] = field(default_factory=list[Task])
    running: bool = False


class FaultyBackend:
    """See `pipeline.scheduling.scheduler.Backend`."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.random = random.Random(faults.seed)
        self.clock = 0.0
        self.scheduler: Scheduler | None = None
        self.locations: dict[int, RunLocation] = {}
        self.objects: dict[Ref, Any] = {}
        self.lost: set[Ref] = set()
        self.bereft: set[Any] = set()
        """Parcels that have lost something."""
        self.processes: dict[int, Process] = {}
        self.graveyard: list[StageHost] = []
        """Dead processes flush nothing: they must not be collected."""
        self.done: Counter[tuple[str, str, str]] = Counter()
        """Stage, verb, clip: how often the call was carried out."""
        self.injected = 0
        self.deaths: Counter[Any] = Counter()
        self.missed: Counter[Any] = Counter()
        """Random deaths a call; two do not make it poison, three would."""
        self._events: list[tuple[float, int, Callable[[], WorkerEvent | None]]] = []
        self._serial = itertools.count()

    # What the scheduler asks for ---------------------------------------------------------------

    def now(self) -> float:
        return self.clock

    def set_location(self, stream: StreamInfo, location: RunLocation) -> None:
        self.locations[stream.number] = location

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        process = Process(worker, StageHost())
        self.processes[worker.number] = process
        pool = worker.pool
        location = self.locations[pool.stream.number] if pool.stream is not None else None

        def up() -> WorkerEvent | None:
            if not process.alive:
                return None
            if self._chance(self.faults.fails_to_start):
                self._end(process)
                return WorkerLost(worker=worker, reason="it did not start")
            reply = process.host.open(pool.specs, Context(threads=1), location, dict(places))
            return started(worker, copy.deepcopy(reply))

        self._later(self.random.uniform(0.5, 2.0), up)

    def send(self, worker: Worker, task: Task) -> None:
        process = self.processes[worker.number]
        assert self.scheduler is not None
        for packed in task.arguments.values():
            for ref in packed.refs:
                held = ref in self.scheduler.budget._held
                # With one object all that a call was given counts as lost; others that wait with
                # it are sent none the less.
                lost = ref in self.lost or task.item in self.bereft
                assert held or lost, f"{task.stage.name} {task.kind} uses what was let go"
        if not process.alive:
            told = WorkerLost(worker=worker, reason="it was dead already", never_started=True)
            self._later(NOTICE_S, lambda: told)
            return
        process.tasks.append(task)
        if not process.running:
            self._run_next(process)

    def stop(self, worker: Worker) -> None:
        process = self.processes.pop(worker.number)
        if process.alive and process.worker.state == "stopped":
            process.host.close()
        self._end(process)

    def end(self, worker: Worker) -> None:
        self.processes[worker.number].host.end()

    def kill(self, worker: Worker) -> None:
        self._end(self.processes.pop(worker.number))

    def wait(self, timeout_s: float) -> list[WorkerEvent]:
        until = self.clock + timeout_s
        while self._events and self._events[0][0] <= until:
            self.clock, _, event = heapq.heappop(self._events)
            event = event()
            if event is not None:
                return [event]
        self.clock = until
        return []

    # Inside ------------------------------------------------------------------------------------

    def _later(self, seconds: float, event: Callable[[], WorkerEvent | None]) -> None:
        heapq.heappush(self._events, (self.clock + seconds, next(self._serial), event))

    def _chance(self, share: float) -> bool:
        if self.injected >= self.faults.most or self.random.random() >= share:
            return False
        self.injected += 1
        return True

    def _key(self, process: Process, task: Task) -> Any:
        """Name what a call is about: a decoder's next clip is the one after those it has made."""
        head = process.host._clips
        place = head._made if task.kind == "next_clip" and head is not None else task.place
        return task.stream.number, task.stage.name, task.kind, task.where, place

    def _end(self, process: Process) -> None:
        process.alive = False
        self.graveyard.append(process.host)

    def _run_next(self, process: Process) -> None:
        process.running = bool(process.tasks)
        if not process.tasks:
            if self._chance(self.faults.idles):
                # Nobody notices until the next call is sent.
                self._end(process)
            return
        task, name = process.tasks[0], process.tasks[0].stage.name
        seconds = self.faults.slow.get(name, self.random.uniform(0.01, 0.2))
        key = self._key(process, task)
        mortal = self.deaths[key] < 2
        limited = process.worker.pool.deadline_of(task) is not None
        if mortal and limited and self._chance(self.faults.hangs):
            self.deaths[key] += 1
            return
        where = f"clip {key[-1]}" if task.kind == "next_clip" else task.where
        if (name, where) in self.faults.poison and task.kind in ("next_clip", "process", "finish"):
            self._later(seconds, lambda: self._dies(process, "a segfault"))
            return
        if mortal and self._chance(self.faults.dies):
            self.deaths[key] += 1
            after = self.random.random() < 0.5

            def die() -> WorkerEvent | None:
                if after and process.alive:
                    self._carry_out(process, task)
                return self._dies(process, "it crashed")

            self._later(seconds, die)
            return
        if self._chance(self.faults.starves):
            self._later(seconds, lambda: self._dies(process, "out of memory", out_of_memory=True))
            return
        if mortal and self._chance(self.faults.node_goes):
            self.deaths[key] += 1
            self._later(seconds, lambda: self._node_goes(process))
            return
        self._later(seconds, lambda: self._done(process, task))

    def _done(self, process: Process, task: Task) -> WorkerEvent | None:
        if not process.alive:
            return None
        assert process.tasks.pop(0) is task
        given = [ref for packed in task.arguments.values() for ref in packed.refs]
        missed = task.item, task.stage.index, task.kind
        always = (task.stage.name, task.where) in self.faults.vanishes
        # By chance nothing is lost so often that it is given up.
        lost = any(ref in self.lost for ref in given) and self.missed[missed] < MOST_LOSSES - 1
        if lost or always:
            self.missed[missed] += 1
            self.bereft.add(task.item)
            event = ObjectsLost(worker=process.worker, task=task)
        else:
            result = self._carry_out(process, task)
            event = TaskDone(worker=process.worker, task=task, result=result)
        self._run_next(process)
        if self._chance(self.faults.loses):
            self._lose(1)
        return event

    def _dies(
        self, process: Process, why: str, *, out_of_memory: bool = False
    ) -> WorkerEvent | None:
        if not process.alive:
            return None
        self._end(process)
        if self._chance(self.faults.damages):
            self._damage(process)
        told = WorkerLost(worker=process.worker, reason=why, out_of_memory=out_of_memory)
        self._later(NOTICE_S, lambda: told)
        return None

    def _node_goes(self, process: Process) -> WorkerEvent | None:
        """Half of the workers go at once, and half of what lies in the store."""
        for other in list(self.processes.values()):
            if other is not process and other.alive and self.random.random() < 0.5:
                for task in other.tasks[:1]:
                    key = self._key(other, task)
                    if self.deaths[key] >= 2:
                        break
                    self.deaths[key] += 1
                else:
                    self._dies(other, "its machine is gone") if other.tasks else self._end(other)
        self._lose(len(self.objects) // 2)
        return self._dies(process, "its machine is gone")

    def _lose(self, count: int) -> None:
        assert self.scheduler is not None
        there = [r for r in self.objects if r in self.scheduler.budget._held and r not in self.lost]
        self.lost.update(self.random.sample(there, min(count, len(there))))

    def _damage(self, process: Process) -> None:
        for store in process.host._snapshots.values():
            files = sorted(store.folder.glob("*"))
            if files:
                path = self.random.choice(files)
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def _carry_out(self, process: Process, task: Task) -> TaskResult:
        stage, given = task.stage, references_of(task)
        request = request_of(task, self.locations[task.stream.number])
        arrays = tuple(self.objects[ref] for ref in given)
        reply, fresh = process.host.handle(request, arrays)
        where = task.item.name if task.item is not None else ""
        self.done[stage.name, task.kind, where] += 1
        refs = [Ref() for _ in fresh]
        for ref, array in zip(refs, fresh, strict=True):
            array.flags.writeable = False
            self.objects[ref] = array
        return self._result(reply, refs, given)

    def _result(self, reply: Reply, objects: list[Ref], given: list[Ref]) -> TaskResult:
        # As across a process's border: the worker counts on.
        meters = copy.deepcopy(reply.meters)
        return replace(result_of(reply, objects, given), seconds=0.1, meters=meters)


def crashes_of(folder: Path) -> list[str]:
    """Return what a run folder still holds that a finished run must not."""
    state = folder / ".reel3d"
    names = [path.name for path in state.iterdir()]
    return [name for name in names if name in ("journal.jsonl", "snapshots")]
