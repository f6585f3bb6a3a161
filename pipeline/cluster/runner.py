"""The cluster runner: the chain as Ray actors, on this machine or on many.

Stages without memory are pools over all streams; decoder, stream-scoped stages and exporters
have a worker a stream. This process hands out references and never touches a pixel. What the
folder of a run needs (stream-scoped stages, exporters) runs where that folder is.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cluster.connection import Cluster, joined
from pipeline.cluster.fair_share import Quota
from pipeline.cluster.prometheus import Metrics
from pipeline.cluster.status import Standing
from pipeline.config import RunConfig
from pipeline.contract.events import Event, Loss
from pipeline.contract.source import Probe, Source
from pipeline.errors import Reel3dError, SourceError
from pipeline.run import Begun, Result, begin, conclude, finish, leave
from pipeline.scheduling.backend import Limits
from pipeline.scheduling.backend import Result as Answer
from pipeline.scheduling.dataflow import Call, Flow, Node, Parcel
from pipeline.scheduling.placement import lanes_of
from pipeline.scheduling.pools import Lane, Worker
from pipeline.scheduling.resume import recall
from pipeline.scheduling.scheduler import Scheduler
from pipeline.storage.journal import Dealt, Journal
from pipeline.storage.plan import Job
from pipeline.storage.snapshots import Snapshots
from pipeline.telemetry.listener import Watch
from pipeline.telemetry.logs import bind
from pipeline.telemetry.meter import Meter, meter_from_dict, peak_memory_bytes
from pipeline.worker.protocol import Home, mark_home

if TYPE_CHECKING:
    from pipeline.telemetry.live_table import Board
    from pipeline.telemetry.status import RunStatus

__all__ = ["Outcome", "Together", "run_all"]

STEP_S = 0.25
STATUS_EVERY_S = 0.5
RESTING_A_CORE = 2
"""Actors that wait for the next run in the same cluster; decoders and exporters do not fill one."""

log = logging.getLogger(__name__)

Outcome = Result | Reel3dError


class Together:
    """Several sources that share the workers of one run."""

    def __init__(
        self, *, address: str | None, share: float = 1.0, priority: int = 0, resume: bool = False
    ) -> None:
        """See `pipeline.cluster.connection.joined` and `pipeline.run.begin` for the arguments."""
        self.end_cameras = threading.Event()
        """Once set, cameras are ended and reconstructed."""
        self._address = address
        self._share = share
        self._priority = priority
        self._resume = resume

    def run(self, wanted: list[tuple[Source, RunConfig, Path]], board: Board) -> list[Outcome]:
        """Run every source into its folder; return how each ended, in the same order.

        Raises:
            UsageError: An output folder cannot be used, or there is no cluster.
        """
        outcomes: list[Outcome | None] = [None] * len(wanted)
        begun: dict[int, Begun] = {}
        try:
            for place, (source, config, out) in enumerate(wanted):
                try:
                    run = begin(source, config, out, resume=self._resume)
                except SourceError as error:
                    outcomes[place] = error
                    continue
                begun[place] = run
                outcomes[place] = run.done
            todo = [place for place, run in begun.items() if run.done is None]
            if todo:
                runs = [begun[place] for place in todo]
                watches = [board.for_stream(run.source.name) for run in runs]
                cores = runs[0].config.run.threads
                with joined(self._address, share=self._share, cores=cores) as cluster:
                    ends = run_all(
                        runs,
                        watches,
                        cluster,
                        priority=self._priority,
                        share=self._share,
                        on_status=board.update,
                        end_cameras=self.end_cameras,
                    )
                outcomes = [*outcomes]
                for place, end in zip(todo, ends, strict=True):
                    outcomes[place] = end
        finally:
            for run in begun.values():
                run.folder.close()
        return [outcome for outcome in outcomes if outcome is not None]


def run_all(
    runs: list[Begun],
    watches: Sequence[Watch],
    cluster: Cluster,
    *,
    priority: int = 0,
    share: float = 1.0,
    on_status: Callable[[RunStatus], None] | None = None,
    end_cameras: threading.Event | None = None,
) -> list[Outcome]:
    """Run several sources over shared pools; return how each ended.

    Args:
        runs: Begun and not done; they are left in the end.
        watches: Who wants to know, a run each.
        cluster: The Ray cluster that this process has joined.
        priority: Of these sources, among all on the cluster.
        share: Most of the cluster that they may take.
        on_status: Is called about twice a second.
        end_cameras: Once set, cameras are ended and reconstructed.
    """
    from pipeline.cluster.actors import RayBackend

    options = runs[0].config.run
    backend = RayBackend(
        seed=options.seed, claim=cluster.claim, job=cluster.job, spares=cluster.spares
    )
    bind(job=cluster.job)
    quota = Quota(cluster.job, priority=priority, share=share)
    cores, gpus = cluster.divided(quota.renew())
    limits = Limits(
        cores=cores,
        gpus=gpus,
        budget_bytes=options.budget_mb * 10**6 if options.budget_mb else cluster.budget_bytes,
        attempts=options.attempts,
        backlog=options.prefetch,
    )
    scheduler = Scheduler(backend, limits)
    pools: dict[str, Lane] = {}
    standing, metrics = Standing(scheduler, cluster), Metrics()
    streams = [
        _Stream(run, watch, scheduler, priority, standing)
        for run, watch in zip(runs, watches, strict=True)
    ]
    try:
        cluster.look_around([stream.home for stream in streams])
        for stream in streams:
            backend.at_home(stream.flow, stream.home)
            stream.begin(pools, alone=len(runs) == 1)
        spoke = 0.0
        while scheduler.busy:
            scheduler.step(STEP_S)
            now = time.monotonic()
            if now - spoke >= STATUS_EVERY_S:
                spoke = now
                scheduler.divide(*cluster.divided(quota.renew()))
                _tell_progress(backend.progress(_long(scheduler, now)), streams)
                status = standing.look()
                metrics.publish(status)
                if on_status is not None:
                    on_status(status)
            if end_cameras is not None and end_cameras.is_set():
                for stream in streams:
                    stream.end_camera()
        return [stream.outcome for stream in streams]
    except BaseException:
        # What the stages have put aside stays for `--resume`.
        scheduler.close(at_once=True)
        raise
    finally:
        scheduler.close()
        backend.close(RESTING_A_CORE * round(cluster.all_cores))
        quota.leave()
        for stream in streams:
            stream.leave()


def _long(scheduler: Scheduler, now: float) -> list[Worker]:
    return [
        worker
        for lane in scheduler.lanes
        for worker in lane.workers
        if worker.calls and now - worker.since > 1.0
    ]


def _tell_progress(told: list[tuple[Worker, str, Any]], streams: list[_Stream]) -> None:
    for worker, stage, progress in told:
        if worker.calls:
            flow = worker.calls[0].flow
            for stream in streams:
                if stream.flow is flow:
                    stream.watch.progress(stage, progress.done, progress.total, progress.note)


class _Stream:
    """One source's run: the hooks of its flow, its journal, its end."""

    def __init__(
        self,
        begun: Begun,
        watch: Watch,
        scheduler: Scheduler,
        priority: int,
        standing: Standing,
    ) -> None:
        self.begun = begun
        self.watch = watch
        self.home: Home = mark_home(begun.folder, begun.source)
        self._scheduler = scheduler
        self._standing = standing
        self._probe: Probe | None = None
        self._peak_bytes = 0
        self._ended: Outcome | None = None
        self._began: set[str] = set()
        self._asked_to_end = False
        self._manifest: dict[str, Any] = {}
        live = begun.config.choices[0].model == "rtsp"
        self.flow: Flow = scheduler.new_flow(
            jobs=begun.jobs, source=begun.source, live=live, priority=priority
        )
        state = begun.folder.scratch("").parent
        self._snapshots = state / "snapshots"
        self._journal = Journal(state / "journal.jsonl", begun.jobs[1].key)

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        assert self._ended is not None
        return self._ended

    def begin(self, pools: dict[str, Lane], *, alone: bool) -> None:
        """Make the lanes, recall what stands, and give the stream to the scheduler."""
        self._recall()
        begun = self.begun
        lanes, sinks = lanes_of(
            self.flow, begun.jobs, begun.chain.report, begun.config.run, pools, alone=alone
        )
        self._scheduler.add(self.flow, self, lanes, sinks)

    def end_camera(self) -> None:
        """End a camera; the reconstruction follows."""
        if self.flow.live and not self._asked_to_end:
            self._asked_to_end = True
            self._scheduler.end_head(self.flow)

    def leave(self) -> None:
        """Let go of the folder."""
        self._journal.close()
        leave(self.begun, self._ended if isinstance(self._ended, Reel3dError) else None)

    # What the scheduler tells -----------------------------------------------------------------

    def opened(self, found: dict[str, Any]) -> None:
        """Take the probe."""
        if isinstance(found.get("probe"), Probe):
            if self._probe is None:
                # A run that goes on after the last clip opens the source no more.
                folder = self.begun.folder
                folder.write_facts({**folder.facts(), "probe": found["probe"].as_dict()})
            self._probe = found["probe"]
            self._begin_stage(self.begun.jobs[0])

    def clip(self, parcel: Parcel, result: Answer) -> None:
        """Write down a new clip."""
        if not self.flow.live:
            self._journal.clip(parcel.number, parcel.remembered)
        total_s = self._probe.duration_s if self._probe else None
        reached_s = parcel.remembered["pts_ns"][-1] / 1e9
        self._standing.reached[self.flow.source.name] = (reached_s, total_s)
        self.watch.reached(reached_s, total_s)
        self._peak_bytes = max(self._peak_bytes, result.peak_memory_bytes)

    def dealt(self, node: Node, parcel: Parcel, seconds: float, loss: Loss | None) -> None:
        """Write down that a stage without memory has dealt with a clip."""
        if not self.flow.live:
            row = Dealt(node.name, node.job.key, parcel.number, seconds, loss)
            self._journal.dealt(row)

    def passed(self, node: Node, parcel: Parcel) -> None:
        """Write down that a stage has no business with a clip."""
        if not self.flow.live:
            self._journal.passed(node.job.key, parcel.number)

    def total(self, count: int) -> None:
        """Write down how many clips there are."""
        if not self.flow.live:
            self._journal.total(count)

    def sent(self, node: Node) -> None:
        """Take that a stage has got a call."""
        self._begin_stage(node.job)

    def answered(self, result: Answer) -> None:
        """Take what a call told."""
        self._peak_bytes = max(self._peak_bytes, result.peak_memory_bytes)

    def tell(self, stage: str, event: Event) -> None:
        """Take what a pool's stage told; those of a stream count by themselves."""
        for node in self.flow.nodes:
            if node.name == stage and node.kind in ("clip", "whole"):
                node.job.meter.take(event)

    def settle(self, node: Node) -> None:
        """Record that a stage is through."""
        jobs = [self.flow.decode, node.job] if node.kind == "head" else [node.job]
        for job in jobs:
            if node.opened and not node.over:
                job.state = "made"
            job.meter.losses += node.lost if job is jobs[0] else []
            job.settle(self.begun.folder, node.kept)
            self.watch.ended(job.name, job.state, job.meter)
        if node.kind != "head":
            # What decoder and sampler told is asked for when the run goes on after their end.
            self._store(node).clear()

    def ended(self, error: Reel3dError | None) -> None:
        """Conclude the run, or take why it cannot be."""
        if error is not None:
            self._ended = error
            return
        peak = peak_memory_bytes() + self._peak_bytes
        self._manifest = conclude(self.begun, self._probe, peak)
        link = self.begun.chain.report
        if link is None:
            self._finish(None)
            return
        node = Node(-1, Job(link, ""), "fold")
        call = Call(self.flow, node, "report", message=self._manifest)
        self._scheduler.call(self.flow, call)

    def reported(self, result: Answer) -> None:
        """Take the report, and finish."""
        assert self.begun.chain.report is not None
        meter = (result.meters or {}).get(self.begun.chain.report.name, Meter())
        if result.failure is not None:
            meter.losses.append(Loss(what="report", why=result.failure.text))
        self._finish(meter)

    def _finish(self, report: Meter | None) -> None:
        self._ended = finish(self.begun, self._manifest, report, self.watch)
        self._journal.remove()
        shutil.rmtree(self._snapshots, ignore_errors=True)
        self._scheduler.finish_stream(self.flow)

    # ------------------------------------------------------------------------------------------

    def _begin_stage(self, job: Job) -> None:
        if job.name not in self._began:
            self._began.add(job.name)
            self.watch.began(job.name)

    def _store(self, node: Node) -> Snapshots:
        return Snapshots(self._snapshots / node.name.replace("/", ".") / node.job.key[:16])

    def _recall(self) -> None:
        """Find the last clip up to which all work stands, and begin behind it."""
        flow = self.flow
        standing = self._journal.read()
        clips = recall(flow, standing, lambda node: self._store(node).numbers)
        self._journal.begin(standing, clips)
        if clips and standing.total == clips and self._recall_head(clips):
            flow.total = clips
        if clips:
            log.info("%s: goes on after %d clips", flow.source.name, clips)

    def _recall_head(self, clips: int) -> bool:
        """Take what decoder and sampler told until their end; without it they run again."""
        try:
            _, told = self._store(self.flow.head).load(clips)
            meters = [meter_from_dict(told[job.name]) for job in self.begun.jobs[:2]]
        except (ValueError, KeyError, TypeError):
            return False
        for job, meter in zip(self.begun.jobs[:2], meters, strict=True):
            job.meter = meter
        return True
