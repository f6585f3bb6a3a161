"""The run of one stream on the cluster: hooks of its dataflow, its journal, and its end."""

from __future__ import annotations

import logging
import shutil
from typing import Any

from pipeline.cluster.status import StatusReporter
from pipeline.contract import Event, Loss, Probe
from pipeline.errors import Reel3dError
from pipeline.lifecycle import PreparedRun, RunResult, build_manifest, finalize, release
from pipeline.scheduling import (
    Scheduler,
    StageState,
    StreamHooks,
    TaskResult,
    WorkerPool,
    WorkItem,
    assign_pools,
    fast_forward,
    report_task,
)
from pipeline.storage import ClipRecord, Journal, PlannedStage, Snapshots
from pipeline.telemetry import Meter, ProgressListener, meter_from_dict, peak_memory_bytes
from pipeline.worker import Opened, mark_location

__all__ = ["Outcome", "StreamRun"]

log = logging.getLogger(__name__)

Outcome = RunResult | Reel3dError


class StreamRun(StreamHooks):
    """One source's run."""

    def __init__(
        self,
        prepared: PreparedRun,
        listener: ProgressListener,
        scheduler: Scheduler,
        priority: int,
        reporter: StatusReporter,
    ) -> None:
        self.prepared = prepared
        self.listener = listener
        self.location = mark_location(prepared.folder, prepared.source)
        self._scheduler = scheduler
        self._reporter = reporter
        self._probe: Probe | None = None
        self._peak_bytes = 0
        self._ended: Outcome | None = None
        self._began: set[str] = set()
        self._asked_to_end = False
        self._manifest: dict[str, Any] = {}
        self.dataflow = scheduler.new_dataflow(
            prepared.planned_stages,
            prepared.source,
            live=prepared.config.choices[0].model == "rtsp",
            priority=priority,
        )
        state = prepared.folder.scratch("").parent
        self._snapshots = state / "snapshots"
        self._journal = Journal(state / "journal.jsonl", prepared.planned_stages[1].key)

    @property
    def outcome(self) -> Outcome:
        """How the run ended."""
        assert self._ended is not None
        return self._ended

    @property
    def _live(self) -> bool:
        """Whether the source is a camera, which keeps no journal: nothing can be decoded again."""
        return self.dataflow.info.live

    def begin(self, shared: dict[str, WorkerPool], *, alone: bool) -> None:
        """Assign pools, fast-forward to where an interrupted run came, and start the stream.

        Args:
            shared: Pools of the streams before; missing ones are added.
            alone: Whether this is the only stream of the run.
        """
        self._fast_forward()
        prepared = self.prepared
        pools, sink_pool = assign_pools(
            self.dataflow,
            prepared.planned_stages,
            prepared.chain.report,
            prepared.config.run,
            shared,
            alone=alone,
        )
        self._scheduler.add(self.dataflow, self, pools, sink_pool)

    def end_camera(self) -> None:
        """End a camera; the reconstruction follows."""
        if self._live and not self._asked_to_end:
            self._asked_to_end = True
            self._scheduler.end_source(self.dataflow)

    def leave(self) -> None:
        """Release the run folder."""
        self._journal.close()
        release(self.prepared, self._ended if isinstance(self._ended, Reel3dError) else None)

    # Hooks ------------------------------------------------------------------------------------

    def on_opened(self, opened: Opened) -> None:
        """Record the probe."""
        if opened.probe is None:
            return
        if self._probe is None:
            # A run that is resumed after the last clip does not open the source again.
            folder = self.prepared.folder
            folder.write_facts({**folder.facts(), "probe": opened.probe.as_dict()})
        self._probe = opened.probe
        self._begin_stage(self.prepared.planned_stages[0])

    def on_clip(self, item: WorkItem, result: TaskResult) -> None:
        """Record a new clip."""
        assert item.metadata is not None
        if not self._live:
            self._journal.clip(item.number, item.metadata.values)
        total_s = self._probe.duration_s if self._probe else None
        position_s = item.metadata.end_s
        self._reporter.positions[self.dataflow.source.name] = (position_s, total_s)
        self.listener.on_position(position_s, total_s)
        self._peak_bytes = max(self._peak_bytes, result.peak_memory_bytes)

    def on_processed(
        self, stage: StageState, item: WorkItem, seconds: float, loss: Loss | None
    ) -> None:
        """Record that a stage without memory has processed a clip."""
        if not self._live:
            record = ClipRecord(stage.name, stage.planned.key, item.number, seconds, loss)
            self._journal.processed(record)

    def on_skipped(self, stage: StageState, item: WorkItem) -> None:
        """Record that a stage skips a clip."""
        if not self._live:
            self._journal.skipped(stage.planned.key, item.number)

    def on_total(self, count: int) -> None:
        """Record the number of clips."""
        if not self._live:
            self._journal.total(count)

    def on_sent(self, stage: StageState) -> None:
        """Report the start of a stage."""
        self._begin_stage(stage.planned)

    def on_task_done(self, result: TaskResult) -> None:
        """Account for the memory of a task."""
        self._peak_bytes = max(self._peak_bytes, result.peak_memory_bytes)

    def on_event(self, stage: str, event: Event) -> None:
        """Count an event of a shared stage; stages of one stream send whole meters."""
        for state in self.dataflow.stages:
            if state.name == stage and state.kind in ("clip", "whole_stream"):
                state.planned.meter.take(event)

    def on_finalized(self, stage: StageState) -> None:
        """Record the end of a stage."""
        source = stage.kind == "source"
        ended = [self.dataflow.decode, stage.planned] if source else [stage.planned]
        for planned in ended:
            if stage.opened and not stage.stopped:
                planned.state = "made"
            planned.meter.losses += stage.lost if planned is ended[0] else []
            planned.finalize(self.prepared.folder, stage.persisted)
            self.listener.on_stage_end(planned.name, planned.state, planned.meter)
        if not source:
            # The meters of decoder and sampler are needed when the run is resumed after their end.
            self._store(stage).clear()

    def on_end(self, error: Reel3dError | None) -> None:
        """Ask for the report, or record why the run cannot be finished."""
        if error is not None:
            self._ended = error
            return
        peak = peak_memory_bytes() + self._peak_bytes
        self._manifest = build_manifest(self.prepared, self._probe, peak)
        link = self.prepared.chain.report
        if link is None:
            self._finish(None)
            return
        task = report_task(self.dataflow.info, PlannedStage(link, ""), self._manifest)
        self._scheduler.submit(task)

    def on_report(self, result: TaskResult) -> None:
        """Finish the run."""
        assert self.prepared.chain.report is not None
        meter = (result.meters or {}).get(self.prepared.chain.report.name, Meter())
        if result.failure is not None:
            meter.losses.append(Loss(what="report", why=result.failure.text))
        self._finish(meter)

    def _finish(self, report: Meter | None) -> None:
        self._ended = finalize(self.prepared, self._manifest, report, self.listener)
        self._journal.remove()
        shutil.rmtree(self._snapshots, ignore_errors=True)
        self._scheduler.finish_stream(self.dataflow)

    # ------------------------------------------------------------------------------------------

    def _begin_stage(self, planned: PlannedStage) -> None:
        if planned.name not in self._began:
            self._began.add(planned.name)
            self.listener.on_stage_start(planned.name)

    def _store(self, stage: StageState) -> Snapshots:
        return Snapshots(self._snapshots / stage.name.replace("/", ".") / stage.planned.key[:16])

    def _fast_forward(self) -> None:
        """Find the last clip that every stage has processed, and continue after it."""
        dataflow = self.dataflow
        state = self._journal.read()
        clips = fast_forward(dataflow, state, lambda stage: self._store(stage).numbers)
        self._journal.begin(state, clips)
        if clips and state.total == clips and self._restore_source(clips):
            dataflow.total = clips
        if clips:
            log.info("%s: continues after %d clips", dataflow.source.name, clips)

    def _restore_source(self, clips: int) -> bool:
        """Restore the meters of decoder and sampler; without them both run again."""
        source = self.prepared.planned_stages[:2]
        try:
            _, saved = self._store(self.dataflow.source_stage).load(clips)
            meters = [meter_from_dict(saved[planned.name]) for planned in source]
        except (ValueError, KeyError, TypeError):
            return False
        for planned, meter in zip(source, meters, strict=True):
            planned.meter = meter
        return True
