"""Status of a run on Ray: the scheduler's pools and streams as a `RunStatus`."""

from __future__ import annotations

import time

from pipeline.cluster.connection import Cluster
from pipeline.scheduling import Dataflow, Scheduler, WorkerPool
from pipeline.telemetry import RunStatus, StageStatus, StreamStatus

__all__ = ["StatusReporter"]


class StatusReporter:
    """Turns the scheduler's state into rates and shares since the last snapshot."""

    def __init__(self, scheduler: Scheduler, cluster: Cluster) -> None:
        """Report on this scheduler's pools and streams."""
        self._scheduler = scheduler
        self._cluster = cluster
        self._looked = time.monotonic()
        self._before: dict[str, tuple[int, float]] = {}
        """Stage to its tasks and busy seconds at the last snapshot."""
        self.positions: dict[str, tuple[float, float | None]] = {}
        """Stream to the time of its source that clips have reached, and its duration, s."""

    def snapshot(self) -> RunStatus:
        """Return the status of the run."""
        now = time.monotonic()
        interval_s = max(now - self._looked, 1e-3)
        self._looked = now
        scheduler = self._scheduler
        by_name: dict[str, list[WorkerPool]] = {}
        for pool in scheduler.pools:
            by_name.setdefault(pool.name, []).append(pool)
        stages = tuple(self._stage(name, pools, now, interval_s) for name, pools in by_name.items())
        streams = tuple(self._stream(dataflow, state) for dataflow, state in scheduler.states())
        return RunStatus(
            stages=stages,
            streams=streams,
            bytes_used=scheduler.budget.used_bytes,
            bytes_budget=scheduler.limits.budget_bytes,
            nodes=self._cluster.nodes,
            cpus=self._cluster.all_cores,
            gpus=self._cluster.all_gpus,
        )

    def _stage(
        self, name: str, pools: list[WorkerPool], now: float, interval_s: float
    ) -> StageStatus:
        workers = [worker for pool in pools for worker in pool.workers]
        running = sum(now - worker.since for worker in workers if worker.tasks)
        busy_s = running + sum(pool.busy_s for pool in pools) + sum(w.busy_s for w in workers)
        tasks = sum(pool.tasks_done for pool in pools)
        calls_before, busy_before = self._before.get(name, (0, 0.0))
        self._before[name] = (tasks, busy_s)
        busy = (busy_s - busy_before) / (interval_s * max(len(workers), 1))
        held = sum(
            packed.nbytes
            for worker in workers
            for task in worker.tasks
            for packed in task.arguments.values()
        )
        seconds = tuple(second for pool in pools for second in pool.recent)
        for pool in pools:
            pool.recent.clear()
        whole = any(pool.kind == "shared" and pool.whole for pool in pools)
        return StageStatus(
            name=name,
            workers=len(workers),
            busy=min(max(busy, 0.0), 1.0),
            done=tasks,
            backlog=sum(pool.backlog for pool in pools),
            rate_per_s=max(tasks - calls_before, 0) / interval_s,
            bytes_in_flight=held,
            failures=sum(pool.failures for pool in pools),
            seconds=seconds,
            unit="streams" if whole else "clips",
        )

    def _stream(self, dataflow: Dataflow, state: str) -> StreamStatus:
        reached_s, total_s = self.positions.get(dataflow.source.name, (0.0, None))
        figures = dataflow.decode.meter.metrics
        return StreamStatus(
            name=dataflow.source.name,
            reached_s=reached_s,
            total_s=total_s,
            state=state,
            live=dataflow.info.live,
            dropped=figures.get("dropped_share", 0.0),
            dropped_frames=int(figures.get("dropped_frames", 0)),
            clips={
                node.name: node.processed
                for node in dataflow.stages
                if node.kind in ("source", "clip")
            },
        )
