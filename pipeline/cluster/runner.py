"""The cluster runner: the chain as Ray actors, on this machine or on many.

Stages without memory are pools that all streams share; decoder, stateful stages and exporters have
a worker a stream. This process passes references on and never touches a pixel. What needs the run
folder (stateful stages, exporters) runs where that folder is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cluster.connection import Cluster, joined
from pipeline.cluster.fair_share import FairShare
from pipeline.cluster.prometheus import Metrics
from pipeline.cluster.status import StatusReporter
from pipeline.cluster.stream_run import Outcome, StreamRun
from pipeline.config import RunConfig
from pipeline.contract import Progress, Source
from pipeline.errors import SourceError
from pipeline.lifecycle import PreparedRun, prepare
from pipeline.scheduling import Limits, Scheduler, Worker, WorkerPool
from pipeline.telemetry import ProgressListener, RunListener, bind

if TYPE_CHECKING:
    from pipeline.telemetry import RunStatus

__all__ = ["ClusterRunner", "run_all"]

STEP_S = 0.25
STATUS_EVERY_S = 0.5
IDLE_ACTORS_A_CORE = 2
"""Actors that wait for the next run in the same cluster; decoders and exporters do not fill one."""


class ClusterRunner:
    """Several sources that share the workers of one run."""

    def __init__(
        self, *, address: str | None, share: float = 1.0, priority: int = 0, resume: bool = False
    ) -> None:
        """See `cluster.connection.joined` and `pipeline.lifecycle.prepare` for the arguments."""
        self.end_cameras = threading.Event()
        """Once set, cameras are ended and reconstructed."""
        self._address = address
        self._share = share
        self._priority = priority
        self._resume = resume

    def run(
        self, wanted: list[tuple[Source, RunConfig, Path]], listener: RunListener
    ) -> list[Outcome]:
        """Run every source into its folder; return how each ended, in the same order.

        Raises:
            UsageError: An output folder cannot be used, or there is no cluster.
        """
        outcomes: list[Outcome | None] = [None] * len(wanted)
        prepared: dict[int, PreparedRun] = {}
        try:
            for place, (source, config, out) in enumerate(wanted):
                try:
                    run = prepare(source, config, out, resume=self._resume)
                except SourceError as error:
                    outcomes[place] = error
                    continue
                prepared[place] = run
                outcomes[place] = run.done
            todo = [place for place, run in prepared.items() if run.done is None]
            if todo:
                runs = [prepared[place] for place in todo]
                listeners = [listener.for_stream(run.source.name) for run in runs]
                cores = runs[0].config.run.threads
                with joined(self._address, share=self._share, cores=cores) as cluster:
                    ends = run_all(
                        runs,
                        listeners,
                        cluster,
                        priority=self._priority,
                        share=self._share,
                        on_status=listener.update,
                        end_cameras=self.end_cameras,
                    )
                outcomes = [*outcomes]
                for place, end in zip(todo, ends, strict=True):
                    outcomes[place] = end
        finally:
            for run in prepared.values():
                run.folder.close()
        return [outcome for outcome in outcomes if outcome is not None]


def run_all(
    runs: list[PreparedRun],
    listeners: Sequence[ProgressListener],
    cluster: Cluster,
    *,
    priority: int = 0,
    share: float = 1.0,
    on_status: Callable[[RunStatus], None] | None = None,
    end_cameras: threading.Event | None = None,
) -> list[Outcome]:
    """Run several sources over shared pools; return how each ended.

    Args:
        runs: Prepared runs with work to do; they are released in the end.
        listeners: Listener of each run.
        cluster: The Ray cluster that this process has joined.
        priority: Priority of these sources among all on the cluster.
        share: Largest share of the cluster that they may take.
        on_status: Called about twice a second.
        end_cameras: Once set, cameras are ended and reconstructed.
    """
    from pipeline.cluster.ray_backend import RayBackend

    options = runs[0].config.run
    backend = RayBackend(seed=options.seed, cluster=cluster)
    bind(job=cluster.job)
    quota = FairShare(cluster.job, priority=priority, share=share)
    cores, gpus = cluster.divided(quota.renew())
    limits = Limits(
        cores=cores,
        gpus=gpus,
        budget_bytes=options.budget_mb * 10**6 if options.budget_mb else cluster.budget_bytes,
        attempts=options.attempts,
        backlog=options.prefetch,
    )
    scheduler = Scheduler(backend, limits)
    shared: dict[str, WorkerPool] = {}
    reporter, metrics = StatusReporter(scheduler, cluster), Metrics()
    streams = [
        StreamRun(run, listener, scheduler, priority, reporter)
        for run, listener in zip(runs, listeners, strict=True)
    ]
    try:
        cluster.look_around([stream.location for stream in streams])
        for stream in streams:
            backend.set_location(stream.dataflow.info, stream.location)
            stream.begin(shared, alone=len(runs) == 1)
        spoke = 0.0
        while scheduler.busy:
            scheduler.step(STEP_S)
            now = time.monotonic()
            if now - spoke >= STATUS_EVERY_S:
                spoke = now
                scheduler.divide(*cluster.divided(quota.renew()))
                _forward_progress(backend.progress(_long(scheduler, now)), streams)
                status = reporter.snapshot()
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
        backend.close(IDLE_ACTORS_A_CORE * round(cluster.all_cores))
        quota.leave()
        for stream in streams:
            stream.leave()


def _long(scheduler: Scheduler, now: float) -> list[Worker]:
    return [
        worker
        for pool in scheduler.pools
        for worker in pool.workers
        if worker.tasks and now - worker.since > 1.0
    ]


def _forward_progress(
    reports: list[tuple[Worker, str, Progress]], streams: list[StreamRun]
) -> None:
    by_number = {stream.dataflow.info.number: stream for stream in streams}
    for worker, stage, progress in reports:
        if worker.tasks:
            listener = by_number[worker.tasks[0].stream.number].listener
            listener.on_progress(stage, progress.done, progress.total, progress.note)
