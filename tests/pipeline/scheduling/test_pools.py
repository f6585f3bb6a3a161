"""The policy of pool sizes and assignments, without a scheduler."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from pipeline.contract import Resources
from pipeline.scheduling.pools import DEPTH, LIGHT_DEPTH, Worker, WorkerPool
from pipeline.scheduling.tasks import FINISH, StageState, StreamInfo, Task, TaskKind, WorkItem

STREAM = StreamInfo(1, "film")


def pool(
    kind: Literal["source", "stateful", "shared", "sink"] = "shared", **more: Any
) -> WorkerPool:
    resources = more.pop("resources", Resources(cpus=1.0))
    return WorkerPool(name="flow/x", kind=kind, specs=(), resources=resources, threads=1, **more)


def task(place: int = 0, stream: StreamInfo = STREAM, kind: TaskKind = "process") -> Task:
    serial = task.serial = getattr(task, "serial", 0) + 1
    stage: Any = StageState(0, None, "clip")  # type: ignore[arg-type]
    return Task(stream, stage, kind, WorkItem(place, f"clip {place}"), place=place, serial=serial)


def worker(of: WorkerPool, held: int = 0, **more: Any) -> Worker:
    made = Worker(len(of.workers), of, state="ready", **more)
    made.tasks.extend(task() for _ in range(held))
    of.workers.append(made)
    return made


def filled(tasks: int, seconds: float = 1.0, **more: Any) -> WorkerPool:
    made = pool(**more)
    for place in range(tasks):
        made.enqueue(task(place))
    for _ in range(2):
        made.record_duration(seconds)
    return made


def test_a_pool_has_no_worker_without_tasks() -> None:
    assert pool().desired_size(8, 0, 0.0) == 0


def test_a_pool_of_one_stream_always_has_one() -> None:
    assert pool("stateful").desired_size(8, 0, 0.0) == 1


def test_the_first_task_of_a_new_stage_gets_one_worker() -> None:
    made = pool()
    for place in range(10):
        made.enqueue(task(place))
    assert made.desired_size(8, 0, 0.0) == 1


def test_all_the_work_gets_all_the_cores() -> None:
    made = filled(40)
    assert made.desired_size(8, 0, made.pending_s) == 8


def test_a_third_of_the_work_gets_a_third_of_the_cores() -> None:
    made = filled(40)
    assert made.desired_size(9, 0, 3 * made.pending_s) == 3


@pytest.mark.parametrize(("cores", "expected"), [(10, 5), (9, 5), (8, 4)])
def test_a_share_is_rounded_up_but_for_the_slack(cores: float, expected: int) -> None:
    """4.5 cores want five workers; a fraction under a tenth wants none of its own."""
    made = filled(40)
    assert made.desired_size(cores, 0, 2 * made.pending_s) == expected


def test_never_more_workers_than_tasks_to_hold() -> None:
    made = filled(2 * DEPTH)
    assert made.desired_size(64, 0, made.pending_s) == 2


def test_a_worker_that_costs_more_to_start_than_it_saves_is_not_started() -> None:
    made = filled(10, seconds=0.01)
    assert made.desired_size(64, 0, made.pending_s) == 1


def test_gpus_bound_a_pool() -> None:
    made = filled(40, resources=Resources(cpus=1.0, gpus=0.5))
    assert made.max_size(64, 2) == 4
    assert made.desired_size(64, 2, made.pending_s) == 4


def test_memory_that_ran_out_bounds_a_pool() -> None:
    made = filled(40)
    made.memory_bound = 3
    assert made.desired_size(64, 0, made.pending_s) == 3


def test_a_camera_that_waits_for_frames_is_no_work() -> None:
    live = StreamInfo(1, "camera", live=True)
    made = pool("source", stream=live)
    made.enqueue(task(kind="next_clip"))
    made.record_duration(5.0)
    assert made.is_camera
    assert made.pending_s == 0.0


def test_the_least_busy_worker_is_served_first() -> None:
    made = filled(1)
    worker(made, held=1)
    idle = worker(made)
    assert made.next_assignment() is not None
    made.enqueue(task())
    assigned = made.next_assignment()
    assert assigned is not None
    assert assigned[0] is idle


def test_a_worker_holds_so_many_tasks_and_no_more() -> None:
    made = filled(1)
    worker(made, held=DEPTH)
    assert made.next_assignment() is None


def test_light_tasks_queue_deeper() -> None:
    made = pool()
    for _ in range(LIGHT_DEPTH):
        made.record_duration(0.001)
    assert made.light
    assert made.depth == LIGHT_DEPTH


def test_higher_priority_goes_first_then_first_come_first_served() -> None:
    made = pool()
    worker(made)
    low, high, low2 = task(), task(stream=StreamInfo(2, "urgent", priority=3)), task()
    for each in (low, high, low2):
        made.enqueue(each)
    order = []
    while made.waiting:
        made.workers[0].tasks.clear()
        assigned = made.next_assignment()
        assert assigned is not None
        order.append(assigned[1])
    assert order == [high, low, low2]


def test_a_suspect_runs_alone_and_nothing_joins_it() -> None:
    made = filled(3)
    busy = worker(made, held=1)
    suspect = task()
    made.suspects.append(suspect)
    assert made.next_assignment() is None, "the only worker is busy: it empties for the suspect"
    busy.tasks.clear()
    assert made.next_assignment() == (busy, suspect, True)
    busy.tasks.append(suspect)
    busy.exclusive = True
    assert made.next_assignment() is None


def test_tasks_up_to_the_place_of_a_death_run_alone() -> None:
    made = filled(3)
    made.exclusive_until = 0
    free = worker(made)
    assigned = made.next_assignment()
    assert assigned is not None
    assert assigned[2]
    free.tasks.append(assigned[1])
    assigned = made.next_assignment()
    assert assigned is not None
    assert not assigned[2]


def test_a_draining_worker_gets_nothing() -> None:
    made = filled(1)
    worker(made, draining=True)
    assert made.next_assignment() is None


def test_the_end_of_a_stream_has_a_deadline_of_its_own() -> None:
    made = pool(deadline_s=5.0, whole_deadline_s=None)
    assert made.deadline_of(task(0)) == 5.0
    assert made.deadline_of(task(FINISH + 1)) is None


def test_tasks_of_an_ended_stream_are_dropped() -> None:
    made = filled(2)
    other = task(stream=StreamInfo(2, "other"))
    made.enqueue(other)
    made.drop_stream(STREAM)
    assert [entry[2] for entry in made.waiting] == [other]
