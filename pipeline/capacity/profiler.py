"""Run one video through the chain in this process and time every task.

The scheduler runs unchanged in front of stage hosts (`pipeline.worker.stage_host`), one task at a
time, so the CPU time and the bytes of every task are attributed exactly.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.contract import Array, Context, Probe, Source
from pipeline.errors import Reel3dError, UsageError
from pipeline.lifecycle import PreparedRun, build_manifest, prepare, release
from pipeline.scheduling import (
    FINISH,
    Limits,
    Scheduler,
    StreamHooks,
    Task,
    TaskDone,
    TaskResult,
    Worker,
    WorkerEvent,
    WorkItem,
    assign_pools,
    references_of,
    report_task,
    request_of,
    result_of,
    started,
)
from pipeline.storage import PlannedStage
from pipeline.worker import Opened, OpenFailed, StageHost, mark_location

__all__ = ["Profile", "StageProfile", "profile_run"]


@dataclass
class StageProfile:
    """What the tasks of one stage took on one video."""

    clips: int = 0
    clip_s: float = 0.0
    """CPU seconds of all clips."""
    wall_s: float = 0.0
    """Wall-clock seconds of all clips."""
    end_s: float = 0.0
    """CPU seconds of the tasks after the last clip."""
    made: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Message type to the number of clips that made one, and the bytes of all."""
    ended: dict[str, int] = field(default_factory=dict[str, int])
    """Message type to the bytes made at the end."""


@dataclass
class Profile:
    """One run of a video through the chain."""

    stages: dict[str, StageProfile]
    probe: Probe
    frames: int
    """Number of frames that the sampler selected; overlapping frames count twice."""
    clips: int


def profile_run(config: RunConfig, video: Path, out: Path, *, alone: bool) -> Profile:
    """Run a video through a chain; return what that took.

    Args:
        config: The chain and its options.
        video: The video.
        out: Path of a run folder that does not exist.
        alone: Whether a run has this stream only: its decoder may then have all threads.

    Raises:
        Reel3dError: The video cannot be used, or a stage fails on it.
    """
    source = Source(uri=str(video), shown=video.name, name="film")
    prepared = prepare(source, config, out)
    try:
        return _InProcess(prepared, alone=alone).run()
    finally:
        release(prepared)


class _InProcess(StreamHooks):
    """The scheduler's backend and the stream's hooks, with stage hosts in this process."""

    def __init__(self, prepared: PreparedRun, *, alone: bool) -> None:
        self._prepared = prepared
        self._location = mark_location(prepared.folder, prepared.source)
        self._hosts: dict[int, StageHost] = {}
        self._events: list[WorkerEvent] = []
        self._stages: dict[str, StageProfile] = defaultdict(StageProfile)
        self._probe: Probe | None = None
        self._error: Reel3dError | None = None
        self._frames = 0
        self._scheduler = Scheduler(self, Limits(cores=1.0, budget_bytes=1 << 40))
        self._dataflow = self._scheduler.new_dataflow(prepared.planned_stages, prepared.source)
        self._pools = assign_pools(
            self._dataflow,
            prepared.planned_stages,
            prepared.chain.report,
            prepared.config.run,
            {},
            alone=alone,
        )

    def run(self) -> Profile:
        """Run the stream to its end."""
        self._scheduler.add(self._dataflow, self, *self._pools)
        while self._scheduler.busy:
            self._scheduler.step(0.0)
        self._scheduler.close()
        if self._error is not None:
            raise self._error
        lost = [loss for stage in self._dataflow.stages for loss in stage.lost]
        if lost:
            raise UsageError(
                f"the costs cannot be measured on {self._prepared.source.shown}: {lost[0].what} "
                f"failed there: {lost[0].why}; give another video with --like VIDEO"
            )
        assert self._probe is not None
        return Profile(dict(self._stages), self._probe, self._frames, self._dataflow.produced)

    # The scheduler's backend ------------------------------------------------------------------

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        """Open the stages in this process."""
        pool = worker.pool
        host = self._hosts[worker.number] = StageHost()
        context = Context(seed=self._prepared.config.run.seed, threads=pool.threads)
        location = self._location if pool.stream is not None else None
        reply = host.open(pool.specs, context, location, places)
        if isinstance(reply.outcome, OpenFailed):
            text = reply.outcome.failure.text
            raise UsageError(f"the costs of {pool.name} cannot be measured here: {text}")
        self._events.append(started(worker, reply))

    def send(self, worker: Worker, task: Task) -> None:
        """Carry out the task, and count what it takes."""
        given = references_of(task)
        arrays = tuple(ref.array for ref in given)
        request = request_of(task, self._location)
        cpu, wall = time.process_time(), time.perf_counter()
        reply, fresh = self._hosts[worker.number].handle(request, arrays)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        result = result_of(reply, [_Stored(array) for array in fresh], given)
        self._count(task, cpu, wall, result)
        if result.failure is not None:
            raise UsageError(
                f"the costs of {task.stage.name} cannot be measured on "
                f"{self._prepared.source.shown}: {result.failure.text}; give another video with "
                "--like VIDEO"
            )
        self._events.append(TaskDone(worker=worker, task=task, result=result))

    def stop(self, worker: Worker) -> None:
        """Close the stages."""
        host = self._hosts.pop(worker.number, None)
        if host is not None:
            host.close()

    def kill(self, worker: Worker) -> None:
        """Close the stages."""
        self.stop(worker)

    def end(self, worker: Worker) -> None:
        """Do nothing: no camera is measured."""

    def wait(self, timeout_s: float) -> list[WorkerEvent]:
        """Return the events of what was carried out."""
        del timeout_s
        events, self._events = self._events, []
        return events

    def _count(self, task: Task, cpu_s: float, wall_s: float, result: TaskResult) -> None:
        profile = self._stages[task.stage.name]
        of_clip = task.kind == "next_clip" or (
            task.kind == "process" and task.item is not None and task.item.number < FINISH
        )
        made = {
            kind.__name__: message.nbytes for kind, message in result.outputs.items() if message
        }
        if not of_clip:
            profile.end_s += cpu_s
            for kind, size in made.items():
                profile.ended[kind] = profile.ended.get(kind, 0) + size
            return
        profile.clips += 1
        profile.clip_s += cpu_s
        profile.wall_s += wall_s
        for kind, size in made.items():
            count, total = profile.made.get(kind, (0, 0))
            profile.made[kind] = (count + 1, total + size)

    # The stream's hooks -----------------------------------------------------------------------

    def on_opened(self, opened: Opened) -> None:
        """Record the probe."""
        self._probe = opened.probe or self._probe

    def on_clip(self, item: WorkItem, result: TaskResult) -> None:
        """Count the frames of a clip."""
        assert item.metadata is not None
        self._frames += item.metadata.frame_count

    def on_end(self, error: Reel3dError | None) -> None:
        """Ask for the report."""
        self._error = error
        if error is not None:
            return
        manifest = build_manifest(self._prepared, self._probe, 0)
        link = self._prepared.chain.report
        if link is None:
            self._scheduler.finish_stream(self._dataflow)
            return
        self._scheduler.submit(report_task(self._dataflow.info, PlannedStage(link, ""), manifest))

    def on_report(self, result: TaskResult) -> None:
        """Finish."""
        self._scheduler.finish_stream(self._dataflow)


@dataclass(eq=False)
class _Stored:
    """An array as an object of its own."""

    array: Array
