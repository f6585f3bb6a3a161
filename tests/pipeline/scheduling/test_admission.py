"""Admission by bytes, and who is to blame for a dead worker: without a runner behind them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.contract import Resources
from pipeline.scheduling.admission import FIRST_GUESS, Admission
from pipeline.scheduling.backend import Limits, WorkerLost
from pipeline.scheduling.object_store_budget import ObjectStoreBudget
from pipeline.scheduling.pools import Worker, WorkerPool
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.tasks import StageState, StreamInfo, Task, WorkItem
from pipeline.scheduling.worker_failures import MEMORY_ATTEMPTS, WorkerFailures

CLIP_BYTES = 100


class Workers:
    """What admission and recovery use of a `WorkerManager`."""

    def __init__(self, budget_bytes: int = 10_000) -> None:
        self.limits = Limits(cores=4.0, budget_bytes=budget_bytes, attempts=3, backlog=2)
        self.submitted: list[tuple[str, str]] = []
        self.by_number: dict[int, Stream] = {}
        self.backend: Any = SimpleNamespace(now=lambda: 0.0)
        self.streams: list[Stream] = []

    def submit(self, stream: Stream, task: Task) -> None:
        self.submitted.append((stream.dataflow.info.name, task.kind))

    def stream_of(self, info: StreamInfo) -> Stream:
        return self.by_number[info.number]

    def detach(self, worker: Worker) -> None:
        worker.pool.workers.remove(worker)

    def touch_all(self, pool: WorkerPool) -> None: ...
    def wake(self, pool: WorkerPool) -> None: ...


def stream(workers: Workers, number: int = 1, *, live: bool = False) -> Stream:
    info = StreamInfo(number, f"s{number}", live=live)
    stage: Any = StageState(0, None, "source")  # type: ignore[arg-type]
    dataflow: Any = SimpleNamespace(
        info=info, stages=[stage], source_stage=stage, total=None, produced=0, window=0, open=set()
    )
    pool = WorkerPool(
        name="sample/x", kind="source", specs=(), resources=Resources(), threads=1, stream=info
    )
    hooks: Any = None
    made = Stream(dataflow, hooks, {0: pool}, pool)
    workers.by_number[number] = made
    workers.streams.append(made)
    return made


def known(stream_: Stream, footprint: float) -> Stream:
    """Let a stream have shown what its clips hold."""
    stream_.footprint, stream_.known = footprint, True
    stream_.dataflow.produced = 1
    return stream_


@pytest.fixture
def workers() -> Workers:
    return Workers()


def admission(workers: Workers, *streams: Stream) -> Admission:
    made = Admission(workers, ObjectStoreBudget(workers.limits.budget_bytes))  # type: ignore[arg-type]
    for each in streams:
        made.begin(each)
    return made


def test_a_stream_of_unknown_size_gets_one_clip(workers: Workers) -> None:
    admission(workers, stream(workers)).admit()
    assert workers.submitted == [("s1", "next_clip")]


def test_two_clips_are_in_flight_at_the_source(workers: Workers) -> None:
    one = known(stream(workers), CLIP_BYTES)
    admission(workers, one).admit()
    assert one.requested == 2
    assert one.committed == 2 * CLIP_BYTES


def test_streams_take_turns(workers: Workers) -> None:
    both = [known(stream(workers, n), CLIP_BYTES) for n in (1, 2)]
    admission(workers, *both).admit()
    assert [name for name, _ in workers.submitted] == ["s1", "s2", "s1", "s2"]


def test_bytes_bound_the_clips_of_all_streams() -> None:
    workers = Workers(budget_bytes=3 * CLIP_BYTES)
    both = [known(stream(workers, n), CLIP_BYTES) for n in (1, 2)]
    admission(workers, *both).admit()
    assert sum(each.committed for each in both) == 3 * CLIP_BYTES


def test_one_clip_larger_than_the_budget_still_passes() -> None:
    workers = Workers(budget_bytes=CLIP_BYTES // 2)
    one = known(stream(workers), CLIP_BYTES)
    admission(workers, one).admit()
    assert one.requested == 1


def test_the_first_clip_is_guessed_and_then_measured(workers: Workers) -> None:
    one = stream(workers)
    made = admission(workers, one)
    made.guess(one, CLIP_BYTES)
    assert one.footprint == FIRST_GUESS * CLIP_BYTES
    item = WorkItem(0, "clip 0")
    stage = one.dataflow.source_stage
    made.own(one, Task(one.dataflow.info, stage, "process", item), 30)
    made.learn(one)
    assert one.known
    assert one.footprint == CLIP_BYTES + 30


# Blame -------------------------------------------------------------------------------------------


class Judged:
    """What recovery uses of `StageFailures`."""

    def __init__(self) -> None:
        self.given_up: list[tuple[Task, str]] = []

    def give_up_task(self, stream: Stream, task: Task, why: str) -> None:
        self.given_up.append((task, why))


Case = tuple[WorkerFailures, Judged, WorkerPool, Stream]


@pytest.fixture
def case(workers: Workers) -> Iterator[Case]:
    one = stream(workers)
    judged = Judged()
    pool = WorkerPool(name="flow/x", kind="shared", specs=(), resources=Resources(), threads=1)
    recovery = WorkerFailures(workers, admission(workers, one), judged)  # type: ignore[arg-type]
    return recovery, judged, pool, one


def die(case: Case, *tasks: Task, exclusive: bool = False, **more: Any) -> None:
    recovery, _, pool, _ = case
    worker = Worker(1, pool, state="ready", exclusive=exclusive)
    worker.tasks.extend(tasks)
    pool.workers.append(worker)
    pool.suspects.clear()
    recovery.died(WorkerLost(worker=worker, reason="a segfault", **more))


def clip(case: Case, number: int = 0) -> Task:
    stage: Any = StageState(1, None, "clip")  # type: ignore[arg-type]
    return Task(case[3].dataflow.info, stage, "process", WorkItem(number, f"clip {number}"))


def test_all_tasks_of_a_dead_worker_are_suspects(case: Case) -> None:
    tasks = [clip(case, 0), clip(case, 1)]
    die(case, *tasks)
    assert list(case[2].suspects) == tasks
    assert [task.kills for task in tasks] == [0, 0]


def test_only_deaths_while_alone_count(case: Case) -> None:
    task = clip(case)
    for _ in range(10):
        die(case, task, clip(case, 1))
    assert case[1].given_up == []
    for _ in range(2):
        die(case, task, exclusive=True)
    assert case[1].given_up == []
    die(case, task, exclusive=True)
    ((given_up, why),) = case[1].given_up
    assert given_up is task
    assert why == "it ended its worker 3 times, the last time so: a segfault"


def test_a_worker_that_never_started_blames_no_task(case: Case) -> None:
    task = clip(case)
    for _ in range(10):
        die(case, task, exclusive=True, never_started=True)
    assert case[1].given_up == []
    assert task.kills == 0


def test_memory_that_ran_out_gets_more_attempts_and_fewer_workers(case: Case) -> None:
    task = clip(case)
    for _ in range(2 + MEMORY_ATTEMPTS):
        die(case, task, exclusive=True, out_of_memory=True)
    assert case[1].given_up == []
    assert case[2].memory_bound == 1
    assert case[2].backoff_until > 0
    die(case, task, exclusive=True, out_of_memory=True)
    assert len(case[1].given_up) == 1
