"""Deaths of workers: which task is to blame, what runs again, and where stateful stages continue.

- A worker that dies makes suspects of all tasks it held. Each runs again alone with a worker; only
  a death while alone counts against a task, and after `attempts` of these the clip is given up: it
  costs itself only, and its reason is recorded in the run's errors.
- A task that exceeds its deadline ends its worker; the rest is as above.
- The worker of a stateful stage is replaced by one that continues from the last snapshot, or from
  the beginning of the stream, whose clips are then made again.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from pipeline.scheduling.admission import Admission
from pipeline.scheduling.backend import WorkerLost
from pipeline.scheduling.pools import WorkerPool
from pipeline.scheduling.stage_failures import StageFailures, withdraw
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.tasks import StageState, Task
from pipeline.scheduling.worker_manager import WorkerManager
from pipeline.worker import Failure, Opened

__all__ = ["WorkerFailures"]

MOST_FAILED_STARTS = 5
"""Number of workers of a pool in a row that may fail to come up."""
STARTING_S = 300.0
"""A worker that is not up after this long does not come up: weights may have to be loaded."""
BACKOFF_S = 2.0
"""Time for which a pool starts no worker after memory ran out."""
MEMORY_ATTEMPTS = 3
"""Memory may run out through no fault of the clip: it gets this many more attempts."""

log = logging.getLogger(__name__)


class WorkerFailures:
    """Recovers from the deaths of workers."""

    def __init__(
        self, workers: WorkerManager, admission: Admission, stage_failures: StageFailures
    ) -> None:
        self.count = 0
        """Number of workers that have died."""
        self._workers = workers
        self._admission = admission
        self._stage_failures = stage_failures

    def died(self, event: WorkerLost) -> None:
        """Recover from the death of a worker."""
        worker, why = event.worker, event.reason
        pool, tasks = worker.pool, list(worker.tasks)
        began = worker.state == "ready"
        alone = worker.exclusive and not event.never_started
        self._workers.detach(worker)
        self._workers.touch_all(pool)
        self._workers.wake(pool)
        self.count += 1
        pool.failures += 1
        log.warning("a worker of %s died: %s", pool.name, why)
        if event.out_of_memory:
            pool.backoff_until = self._workers.backend.now() + BACKOFF_S
            pool.memory_bound = max(1, len(pool.workers))
        if not began:
            pool.starts_failed += 1
            if pool.starts_failed >= MOST_FAILED_STARTS:
                self._cannot_start(pool, why)
            return
        if pool.stream is not None and pool.kind != "source":
            stream = self._workers.stream_of(pool.stream)
            self._stateful_died(stream, pool, tasks, event, alone=alone)
            return
        for place, task in enumerate(tasks):
            stream = self._workers.stream_of(task.stream)
            if stream.ended:
                continue
            if task.kind == "next_clip":
                stream.requested -= 1
                if place == 0 and not event.never_started:
                    self._decoder_died(stream, event)
                continue
            if self._is_poison(task, event, alone=alone):
                self._stage_failures.give_up_task(stream, task, _blame(task, why))
            elif task.stage.stopped and task.kind == "process":
                stream.dataflow.completed(task, {})
            else:
                pool.suspects.append(task)

    def _is_poison(self, task: Task, event: WorkerLost, *, alone: bool) -> bool:
        """Count a death against a task; return whether these are too many."""
        task.out_of_memory += event.out_of_memory
        task.kills += alone and not event.out_of_memory
        deaths = max(task.kills, task.out_of_memory - MEMORY_ATTEMPTS)
        return deaths >= self._workers.limits.attempts

    def _decoder_died(self, stream: Stream, event: WorkerLost) -> None:
        """Handle a decoder that died on its way to the next clip."""
        source, place = stream.dataflow.source_stage, stream.dataflow.produced
        if source.stuck_at is None or source.stuck_at.place != place:
            source.stuck_at = Task(stream.dataflow.info, source, "next_clip", place=place)
        if self._is_poison(source.stuck_at, event, alone=True):
            failure = Failure(kind="WorkerDied", text=event.reason)
            self._stage_failures.source_failed(stream, failure)

    def _stateful_died(
        self,
        stream: Stream,
        pool: WorkerPool,
        tasks: list[Task],
        event: WorkerLost,
        *,
        alone: bool,
    ) -> None:
        """Send the stages of a lost worker back to their snapshots."""
        if stream.ended:
            return
        pool.exclusive_until = max([pool.exclusive_until, *(task.place for task in tasks)])
        ran = tasks[0] if tasks else None
        stages = self._send_back(stream, pool, tasks[1:])
        if ran is not None and ran.kind in ("persist", "load", "report"):
            if self._is_poison(ran, event, alone=alone):
                self._stage_failures.give_up_task(stream, ran, _blame(ran, event.reason))
            else:
                self._workers.submit(stream, ran)
        elif ran is not None:
            stage = ran.stage
            if stage.stuck_at is None or stage.stuck_at.place != ran.place:
                # Without its arguments: they would stay in the object store.
                stage.stuck_at = replace(ran, arguments={})
            if self._is_poison(stage.stuck_at, event, alone=alone):
                why = _blame(stage.stuck_at, event.reason)
                self._stage_failures.give_up_task(stream, ran, why)
        for stage in stages:
            stream.dataflow.advance(stage)

    def _send_back(
        self, stream: Stream, pool: WorkerPool, tasks: list[Task], also: StageState | None = None
    ) -> list[StageState]:
        """Send the stages of a stream's pool back; other tasks of its worker are queued again."""
        dataflow = stream.dataflow
        mine = [s for s in dataflow.stages if stream.pools[s.index] is pool and s.runs]
        stages = [stage for stage in mine if not stage.finalized or stage is also]
        withdraw(self._admission, pool, stages)
        for task in tasks:
            if task.kind in ("persist", "load", "report"):
                self._workers.submit(stream, task)
        for stage in stages:
            dataflow.rewind(stage, stage.restart_place)
        return stages

    def restart(self, stream: Stream, stage: StageState) -> None:
        """Replace a stateful stage's worker by one that continues from the last snapshot."""
        pool = stream.pools[stage.index]
        if stage.finalized:
            # Its snapshots were removed at its end.
            stage.restart_place = stage.snapshot = 0
        tasks: list[Task] = []
        for worker in list(pool.workers):
            tasks += worker.tasks
            self._workers.kill(worker)
        for sent_back in self._send_back(stream, pool, tasks, also=stage):
            stream.dataflow.advance(sent_back)

    def opened(self, stream: Stream, pool: WorkerPool, opened: Opened) -> None:
        """Compare the snapshots that a stream's new worker restored with those it was to."""
        for stage in stream.dataflow.stages:
            if stream.pools.get(stage.index) is not pool or stage.name not in opened.snapshots:
                continue
            restored = opened.snapshots[stage.name]
            if stage.kind == "stateful" and restored != stage.snapshot and not stage.finalized:
                # The snapshot was damaged or never there: the stage begins again.
                withdraw(self._admission, pool, [stage])
                stage.snapshot = restored
                stream.dataflow.rewind(stage, restored)
                stream.dataflow.advance(stage)

    def _cannot_start(self, pool: WorkerPool, why: str) -> None:
        failure = Failure(kind="WorkerDied", text=f"no worker of it comes up: {why}")
        for stream in self._workers.streams:
            for stage in stream.dataflow.stages:
                if not stream.ended and stream.pools.get(stage.index) is pool and stage.runs:
                    self._stage_failures.failed(stream, stage, None, failure)
        pool.starts_failed = 0
        for task in pool.withdraw(lambda task: task.kind != "next_clip"):
            stream = self._workers.stream_of(task.stream)
            if not stream.ended:
                self._stage_failures.give_up_task(stream, task, failure.text)

    def watch_deadlines(self) -> None:
        """End the workers that have been at one task for too long."""
        now = self._workers.backend.now()
        for pool in list(self._workers.pools):
            for worker in list(pool.workers):
                if worker.state == "starting" and now - worker.started > STARTING_S:
                    self._workers.backend.kill(worker)
                    reason = f"it was not up after {STARTING_S:g} s"
                    self.died(WorkerLost(worker=worker, reason=reason))
                    continue
                limit = pool.deadline_of(worker.tasks[0]) if worker.tasks else None
                if limit is not None and now - worker.since > limit:
                    self._workers.backend.kill(worker)
                    reason = f"{pool.name} gave no sign of life for {limit:g} s and was ended"
                    self.died(WorkerLost(worker=worker, reason=reason))


def _blame(task: Task, why: str) -> str:
    times = max(task.kills, task.out_of_memory)
    return f"it ended its worker {times} times, the last time so: {why}"
