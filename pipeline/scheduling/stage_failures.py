"""Failures inside the work: exceptions, lost objects, and clips or stages that are given up.

An exception costs what it costs in the local runner (`pipeline.worker.failure_policy`): a clip that
cannot be processed costs itself only; a stage that fails as a whole costs its stream what it makes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.contract import Loss
from pipeline.errors import OutputError, Reel3dError
from pipeline.scheduling.admission import Admission
from pipeline.scheduling.backend import TaskResult
from pipeline.scheduling.pools import WorkerPool
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.tasks import FINISH, StageState, Task
from pipeline.scheduling.worker_manager import WorkerManager
from pipeline.worker import Failed, Failure, judge_source, judge_stage

__all__ = ["StageFailures", "withdraw"]

MOST_LOSSES = 8
"""Number of times in a row that a task's arguments may be lost before the run stops trying."""

log = logging.getLogger(__name__)


class StageFailures:
    """Decides what an exception, a loss or a hopeless task costs."""

    def __init__(
        self,
        workers: WorkerManager,
        admission: Admission,
        end_stream: Callable[[Stream, Reel3dError], None],
    ) -> None:
        """Use these; `end_stream` stops a stream that cannot go on."""
        self._workers = workers
        self._admission = admission
        self._end_stream = end_stream

    def objects_lost(self, stream: Stream, task: Task) -> None:
        """Handle arguments that are not in the object store any more."""
        item = task.item
        assert item is not None
        key = task.stage.index, task.kind
        item.losses[key] = item.losses.get(key, 0) + 1
        if item.losses[key] >= MOST_LOSSES:
            why = f"what it needs of {task.where} was lost {MOST_LOSSES} times"
            self.give_up_task(stream, task, why)
        elif task.kind == "persist":
            task.stage.persisting -= 1
            stream.dataflow.lost_before_persisted(task)
        else:
            stream.dataflow.lost(task)

    def failed(
        self, stream: Stream, stage: StageState, task: Task | None, failure: Failure
    ) -> None:
        """Handle an exception of a stage, while it opened (`task` is None) or worked."""
        one_clip = task is not None and stage.kind == "clip" and task.kind == "process"
        verdict = judge_stage(failure, stage.name, one_clip=one_clip)
        if verdict.costs == "run":
            self._end_stream(stream, OutputError(verdict.why))
            return
        if task is not None and task.kind in ("redecode", "load", "persist", "report"):
            self._failed_beside(stream, task, failure)
            return
        stream.pools[stage.index].failures += 1
        if task is not None and task.item is not None and task.item.recompute & stage.bit:
            why = f"it could not be made again: {failure.text}"
            self._give_up_clip(stream, task, why, failure.detail)
        elif stage.kind == "source":
            self.source_failed(stream, failure)
        elif task is not None and verdict.costs == "clip":
            self._give_up_clip(stream, task, verdict.why, verdict.detail)
        else:
            self._give_up_stage(stream, stage, verdict.state, verdict.why, verdict.detail)

    def _failed_beside(self, stream: Stream, task: Task, failure: Failure) -> None:
        """Handle an exception of a task that is not a stage's own work."""
        stage, dataflow = task.stage, stream.dataflow
        if task.kind == "report":
            stream.hooks.on_report(TaskResult(outcome=Failed(failure=failure)))
        elif task.kind == "redecode":
            dataflow.decode.tainted = True
            self._give_up_clip(stream, task, f"it could not be decoded again: {failure.text}")
        elif task.kind == "load":
            self._end_stream(
                stream,
                OutputError(
                    f"what {stage.name} kept of {dataflow.source.shown} in an earlier run cannot "
                    f"be read ({failure.text}): remove .reel3d in the output folder and run again"
                ),
            )
        else:
            # The run has the message; another one with --resume would have to make it again.
            stage.persisting -= 1
            stage.planned.tainted = True
            log.warning("%s: not kept for --resume: %s", stage.name, failure.text)
            if task.item is not None:
                dataflow.persisted(task.item)

    def give_up_task(self, stream: Stream, task: Task, why: str) -> None:
        """Give up a task: it costs its clip, or the stage its stream."""
        again = task.item is not None and bool(task.item.recompute & task.stage.bit)
        whole = task.stage.kind == "whole_stream" and not again
        counts = task.stage.kind in ("clip", "whole_stream") and task.kind == "process"
        if counts and not again:
            task.stage.planned.meter.items += not task.stage.stopped
        if task.kind == "process" and not whole:
            self._give_up_clip(stream, task, why)
        else:
            self.failed(stream, task.stage, task, Failure(kind="WorkerDied", text=why))

    def _give_up_clip(self, stream: Stream, task: Task, why: str, detail: str = "") -> None:
        """Give up one clip of one stage."""
        stage, item = task.stage, task.item
        assert item is not None
        loss = Loss(what=f"clip {item.name}", why=why, detail=detail)
        again = bool(item.recompute & stage.bit)
        if not stage.stopped:
            stage.planned.tainted = True
            (stage.planned.meter.losses if stage.finalized else stage.lost).append(loss)
        if stage.kind == "stateful":
            stage.poison.add(task.place)
        if stage.kind in ("clip", "stateful") and item.number < FINISH and not again:
            stream.hooks.on_processed(stage, item, 0.0, loss)
        stream.dataflow.completed(task, {})

    def _give_up_stage(
        self, stream: Stream, stage: StageState, state: str, why: str, detail: str = ""
    ) -> None:
        if stage.stopped or stage.finalized:
            return
        planned = stage.planned
        planned.state = state
        planned.tainted = planned.tainted or state == "failed"
        stage.lost.append(Loss(what=planned.makes_shown, why=why, detail=detail))
        withdraw(self._admission, stream.pools[stage.index], [stage])
        stream.dataflow.give_up(stage)

    def source_failed(self, stream: Stream, failure: Failure) -> None:
        """Handle a decoder that cannot go on: the clips that it has made stay."""
        dataflow = stream.dataflow
        verdict = judge_source(failure, dataflow.source.shown, dataflow.produced)
        if isinstance(verdict, Reel3dError):
            self._end_stream(stream, verdict)
            return
        if dataflow.total is not None:
            return
        dataflow.source_stage.lost.append(verdict)
        dataflow.source_stage.planned.tainted = dataflow.decode.tainted = True
        # The number of clips is not recorded: a resumed run tries the decoder again.
        dataflow.end()


def withdraw(admission: Admission, pool: WorkerPool, stages: list[StageState]) -> None:
    """Withdraw the tasks of stages that wait for a worker, or for room."""

    def theirs(task: Task) -> bool:
        return task.stage in stages and task.kind in ("process", "finish")

    pool.withdraw(theirs)
    admission.withdraw(theirs)
