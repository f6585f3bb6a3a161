"""Event loop of the cluster runner: applies worker events and dispatches ready tasks.

`pipeline.scheduling.dataflow` says which tasks of a stream are ready. These decide what happens:

- `pipeline.scheduling.admission`: which stream may begin its next clip, so that bytes stay bounded.
- `pipeline.scheduling.worker_manager`: which worker takes which task, by the policy of
  `pipeline.scheduling.pools`.
- `pipeline.scheduling.worker_failures`: what happens to the tasks of a worker that died or hung.
- `pipeline.scheduling.stage_failures`: what an exception or a poison clip costs.

None of them imports Ray: a `Backend` starts workers and carries tasks. The simulator is another.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from pipeline.contract import Source
from pipeline.errors import Reel3dError
from pipeline.scheduling.admission import Admission
from pipeline.scheduling.backend import (
    Backend,
    Limits,
    ObjectsLost,
    StreamHooks,
    TaskDone,
    TaskResult,
    WorkerEvent,
    WorkerLost,
    WorkerStarted,
)
from pipeline.scheduling.dataflow import Dataflow
from pipeline.scheduling.object_store_budget import ObjectStoreBudget
from pipeline.scheduling.pools import WorkerPool
from pipeline.scheduling.stage_failures import StageFailures
from pipeline.scheduling.stream_graph import Decision, Ready, Release, Restart, Skipped
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.tasks import Outputs, StreamInfo, Task
from pipeline.scheduling.worker_failures import WorkerFailures
from pipeline.scheduling.worker_manager import WorkerManager
from pipeline.storage import PlannedStage
from pipeline.worker import ClipDecoded, Finished, Opened, Persisted, Processed, no_frames

__all__ = ["Scheduler"]

CHECK_EVERY_S = 0.1
"""Interval of the checks of all streams and pools. Between them a step handles only those to which
something has happened: a thousand streams would cost 10 ms a step otherwise."""


class Scheduler:
    """Runs the streams to their ends."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.budget = ObjectStoreBudget(limits.budget_bytes)
        self.began = backend.now()
        self._workers = WorkerManager(backend, limits)
        self._admission = Admission(self._workers, self.budget)
        self._stage_failures = StageFailures(self._workers, self._admission, self._end)
        self._worker_failures = WorkerFailures(self._workers, self._admission, self._stage_failures)
        self._decisions: deque[Decision] = deque()
        """What the dataflows of all streams want done, in order."""
        self._numbers = 0
        self._queue: list[Stream] = []
        """Streams that have not begun."""
        self._next_check = 0.0
        self._unrecoverable: list[Task] = []
        """Clips of cameras that were lost: a camera does not show them again."""

    # Streams ----------------------------------------------------------------------------------

    def new_dataflow(
        self,
        planned_stages: list[PlannedStage],
        source: Source,
        *,
        live: bool = False,
        priority: int = 0,
    ) -> Dataflow:
        """Return the dataflow of a new stream; see `StreamInfo` and `StreamGraph`."""
        self._numbers += 1
        info = StreamInfo(self._numbers, source.name, priority, live)
        return Dataflow(planned_stages, source, info, self._decisions)

    def add(
        self,
        dataflow: Dataflow,
        hooks: StreamHooks,
        pools: dict[int, WorkerPool],
        sink_pool: WorkerPool,
    ) -> None:
        """Add a stream; `pools` says by index where the tasks of each of its stages go."""
        stream = Stream(dataflow, hooks, pools, sink_pool)
        self._workers.add(stream)
        self._queue.append(stream)
        self._start_queued()

    def finish_stream(self, dataflow: Dataflow) -> None:
        """Take note that the run of a stream is finalized."""
        stream = self._workers.stream_of(dataflow.info)
        stream.ended, stream.end = True, "made"
        self._leave(stream)

    def end_source(self, dataflow: Dataflow) -> None:
        """End a camera: the clips that it has given become the whole stream."""
        for worker in self._workers.stream_of(dataflow.info).pools[0].workers:
            self._workers.backend.end(worker)

    def submit(self, task: Task) -> None:
        """Queue a task of the run itself (the report) for the stream's sinks."""
        self._workers.submit(self._workers.stream_of(task.stream), task)

    def divide(self, cores: float, gpus: float) -> None:
        """Take note that this run's part of the cluster has changed."""
        if (cores, gpus) != (self.limits.cores, self.limits.gpus):
            self._workers.limits = replace(self.limits, cores=cores, gpus=gpus)

    def close(self, *, at_once: bool = False) -> None:
        """End every worker; `at_once` does not let the stages close, as a crash would."""
        self._workers.close(at_once=at_once)

    # What it knows ----------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """What the run may use now."""
        return self._workers.limits

    @property
    def pools(self) -> list[WorkerPool]:
        """The pools of all running streams."""
        return self._workers.pools

    @property
    def streams(self) -> list[Stream]:
        """All streams that were ever added."""
        return self._workers.streams

    @property
    def deaths(self) -> int:
        """Number of workers that have died."""
        return self._worker_failures.count

    @property
    def busy(self) -> bool:
        """Whether any stream has not ended."""
        return any(not stream.ended for stream in self.streams)

    def states(self) -> list[tuple[Dataflow, str]]:
        """Return every stream and whether it is `waiting`, `running`, `made` or `failed`."""
        rows: list[tuple[Dataflow, str]] = []
        for stream in self.streams:
            state = (
                "running" if stream.dataflow.produced or stream.dataflow.total == 0 else "waiting"
            )
            rows.append((stream.dataflow, stream.end or state))
        return rows

    # A step -----------------------------------------------------------------------------------

    def step(self, timeout_s: float) -> None:
        """Send the tasks that can be sent, wait for events, and apply them."""
        self._check()
        self._give_up_unrecoverable()
        self._carry_out()
        self._admission.open_gate()
        self._admission.admit()
        self._workers.dispatch()
        for event in self._workers.backend.wait(timeout_s):
            self._apply(event)
            self._carry_out()
        self._finalize()
        self._start_queued()

    def _check(self) -> None:
        """Check all streams and pools, now and then."""
        now = self._workers.backend.now()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_EVERY_S
        self._worker_failures.watch_deadlines()
        self._workers.review()
        for stream in self._workers.at_work:
            # The clips that it can use depend on the workers that the other streams have, too.
            self._admission.recount(stream)
            if stream.dataflow.info.live and not stream.dataflow.produced:
                # The death of a worker that had no task yet shows nowhere else.
                self._prepare(stream)

    def _give_up_unrecoverable(self) -> None:
        tasks, self._unrecoverable = self._unrecoverable, []
        for task in tasks:
            stream = self._workers.stream_of(task.stream)
            if not stream.ended:
                why = "a camera does not show it again"
                self._stage_failures.give_up_task(stream, task, why)

    def _carry_out(self) -> None:
        """Carry out what the dataflows have decided, in order; that may lead to more."""
        while self._decisions:
            decision = self._decisions.popleft()
            match decision:
                case Release():
                    self.budget.release(decision.message)
                case Ready():
                    self._ready(decision.task)
                case Skipped():
                    hooks = self._workers.stream_of(decision.stream).hooks
                    hooks.on_skipped(decision.stage, decision.item)
                case Restart():
                    stream = self._workers.stream_of(decision.stream)
                    if not stream.ended:
                        self._worker_failures.restart(stream, decision.stage)

    def _ready(self, task: Task) -> None:
        if task.kind == "redecode" and task.stream.live:
            self._unrecoverable.append(task)
            return
        stream = self._workers.stream_of(task.stream)
        if not stream.ended:
            self._admission.pass_gate(stream, task)

    def _start_queued(self) -> None:
        """Begin as many streams as may run at one time; cameras do not wait."""
        for stream in list(self._queue):
            live = stream.dataflow.info.live
            at_work = sum(not (s.ended or s.dataflow.info.live) for s in self._workers.at_work)
            if not live and at_work >= max(2, round(self.limits.cores)):
                continue
            self._queue.remove(stream)
            self._workers.at_work.append(stream)
            self._admission.begin(stream)
            self._workers.touch(stream)
            stream.dataflow.begin()
            self._carry_out()
            if not stream.ended:
                self._prepare(stream)

    def _prepare(self, stream: Stream) -> None:
        """Start the first worker of each stage that processes clips, all at one time.

        A camera's decoder comes when they are up: no clip of it should wait for them.
        """
        for stage in stream.dataflow.stages:
            pool = stream.pools[stage.index]
            clips = stream.dataflow.total is None and stage.kind != "whole_stream"
            if clips and not pool.workers and not pool.is_camera:
                self._workers.start(pool)

    # Events -----------------------------------------------------------------------------------

    def _apply(self, event: WorkerEvent) -> None:
        worker = event.worker
        if worker.state == "stopped":
            return
        match event:
            case WorkerStarted():
                self._workers.touch_all(worker.pool)
                self._started(event)
            case WorkerLost():
                self._worker_failures.died(event)
            case TaskDone() | ObjectsLost():
                now = self._workers.backend.now()
                worker.tasks.remove(event.task)
                worker.busy_s += now - worker.since
                worker.since, worker.exclusive = now, False
                stream = self._workers.stream_of(event.task.stream)
                self._workers.touch(stream)
                if stream.ended:
                    return
                if isinstance(event, ObjectsLost):
                    self._stage_failures.objects_lost(stream, event.task)
                    return
                worker.pool.record_duration(event.result.seconds, event.result.stored_s)
                self._task_done(stream, event.task, event.result)

    def _started(self, event: WorkerStarted) -> None:
        worker, outcome = event.worker, event.outcome
        pool = worker.pool
        if isinstance(outcome, Opened):
            worker.state, worker.since = "ready", self._workers.backend.now()
            worker.machine = outcome.machine
            pool.starts_failed = 0
            if pool.stream is not None:
                stream = self._workers.stream_of(pool.stream)
                stream.hooks.on_opened(outcome)
                self._worker_failures.opened(stream, pool, outcome)
                self._account(
                    stream, TaskResult(outcome=outcome, events=event.events, meters=event.meters)
                )
            return
        # The stage itself says that it cannot work: that is the answer for all who use it.
        self._workers.stop(worker)
        for stream in self.streams:
            stages = [s for s in stream.dataflow.stages if stream.pools.get(s.index) is pool]
            for stage in [] if stream.ended else stages:
                if pool.kind != "sink" or outcome.stage in (None, stage.name):
                    self._stage_failures.failed(stream, stage, None, outcome.failure)
        if pool.kind == "sink":
            pool.specs = tuple(spec for spec in pool.specs if spec.name != outcome.stage)

    def _task_done(self, stream: Stream, task: Task, result: TaskResult) -> None:
        dataflow, stage = stream.dataflow, task.stage
        outcome, outputs = result.outcome, dict(result.outputs)
        again = task.item is not None and bool(task.item.recompute & stage.bit)
        self._account(stream, result, again=again)
        stream.hooks.on_task_done(result)
        for message in outputs.values():
            if message is not None:
                new = self.budget.hold(message)
                if task.kind != "next_clip" and not again:
                    self._admission.own(stream, task, new)
        if task.kind == "next_clip":
            self._clip_done(stream, result, outputs)
        elif task.kind == "report":
            stream.hooks.on_report(result)
        elif result.failure is not None:
            self._count(task, result, again=again)
            self._stage_failures.failed(stream, stage, task, result.failure)
        elif isinstance(outcome, Persisted):
            stage.persisting -= 1
            stage.persisted += [name for name in outcome.files if name not in stage.persisted]
            if task.item is not None:
                dataflow.persisted(task.item)
        else:
            self._count(task, result, again=again)
            if isinstance(outcome, Processed) and outcome.snapshot_saved:
                dataflow.snapshot_saved(stage, task.place)
            elif stage.kind == "stateful" and task.kind == "process":
                stage.forgetful = True
            if stage.kind == "stateful" and isinstance(outcome, Finished):
                stage.persisted = list(outcome.files)
            if task.kind != "load":
                self._persist(stream, task, outputs)
            dataflow.completed(task, outputs)
            if task.item is not None and stage.kind == "clip" and not again:
                stream.hooks.on_processed(stage, task.item, result.seconds, None)
            self._admission.learn(stream)

    def _clip_done(self, stream: Stream, result: TaskResult, outputs: Outputs) -> None:
        dataflow = stream.dataflow
        stream.requested -= 1
        if result.failure is not None:
            self._stage_failures.source_failed(stream, result.failure)
        elif isinstance(result.outcome, ClipDecoded):
            (message,) = outputs.values()
            assert message is not None
            if dataflow.total is not None:
                self.budget.release(message)
                return
            self._admission.guess(stream, message.nbytes)
            item = dataflow.add_clip(outputs, result.outcome.clip)
            stream.hooks.on_clip(item, result)
        elif dataflow.total is None:
            if not dataflow.produced:
                self._end(stream, no_frames(dataflow.source.shown))
                return
            stream.hooks.on_total(dataflow.produced)
            dataflow.end()

    def _count(self, task: Task, result: TaskResult, *, again: bool) -> None:
        planned = task.stage.planned
        mine = result.meters is None and not task.stage.stopped
        if mine and task.kind == "process" and not again:
            planned.meter.items += 1
            planned.meter.seconds += result.seconds

    def _account(self, stream: Stream, result: TaskResult, *, again: bool = False) -> None:
        """Take over the meters of a stream's own stages, and the events of shared ones."""
        if result.meters:
            # Tasks that were in flight when a stage was given up count for nothing.
            stages = [s for s in stream.dataflow.stages if not (s.finalized or s.stopped)]
            planned = {stage.name: stage.planned for stage in stages}
            if not stream.dataflow.source_stage.finalized:
                planned[stream.dataflow.decode.name] = stream.dataflow.decode
            for name in planned.keys() & result.meters.keys():
                planned[name].meter = result.meters[name]
        # What is made again was reported the first time.
        for name, event in () if again else result.events:
            stream.hooks.on_event(name, event)

    def _persist(self, stream: Stream, task: Task, outputs: Outputs) -> None:
        """Have messages about the whole stream written for `--resume`."""
        stage, item = task.stage, task.item
        if stage.kind != "whole_stream" or not stage.planned.link.keeps or item is None:
            return
        arguments = {kind.__name__: message for kind, message in outputs.items() if message}
        if arguments:
            stage.persisting += 1
            self._workers.submit(stream, Task(task.stream, stage, "persist", item, arguments))

    # Ends -------------------------------------------------------------------------------------

    def _finalize(self) -> None:
        for stream in self._workers.touched():
            self._admission.recount(stream)
            if stream.ended:
                continue
            dataflow = stream.dataflow
            for stage in dataflow.stages:
                if not stage.finalized and dataflow.is_through(stage):
                    stage.finalized = True
                    stream.hooks.on_finalized(stage)
                    self._workers.stop_finished(stream, stream.pools[stage.index])
                    sinks = stream.sink_pool
                    sinks.specs = tuple(spec for spec in sinks.specs if spec.name != stage.name)
            if dataflow.finished and not dataflow.end_reported:
                dataflow.end_reported = True
                stream.hooks.on_end(None)

    def _end(self, stream: Stream, error: Reel3dError) -> None:
        """Stop a stream that cannot go on."""
        stream.ended, stream.end = True, "failed"
        self._leave(stream)
        stream.hooks.on_end(error)

    def _leave(self, stream: Stream) -> None:
        if stream in self._workers.at_work:
            self._workers.at_work.remove(stream)
        elif stream in self._queue:
            self._queue.remove(stream)
        for item in stream.dataflow.work_items.values():
            for outputs in item.outputs.values():
                for kind, message in outputs.items():
                    if message is not None:
                        self.budget.release(message)
                        outputs[kind] = None
        self._workers.leave(stream)
        self._admission.leave(stream)
