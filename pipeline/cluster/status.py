"""How a run over Ray stands: the scheduler's lanes and streams as the rows of the board."""

from __future__ import annotations

import time

from pipeline.cluster.connection import Cluster
from pipeline.scheduling.dataflow import Flow
from pipeline.scheduling.pools import Lane
from pipeline.scheduling.scheduler import Scheduler
from pipeline.telemetry.status import RunStatus, StageStatus, StreamStatus

__all__ = ["Standing"]


class Standing:
    """Turns what the scheduler knows into rates and shares since the last look."""

    def __init__(self, scheduler: Scheduler, cluster: Cluster) -> None:
        """Look at this scheduler's lanes and streams."""
        self._scheduler = scheduler
        self._cluster = cluster
        self._looked = time.monotonic()
        self._before: dict[str, tuple[int, float]] = {}
        """Stage to its calls and busy seconds at the last look."""
        self.reached: dict[str, tuple[float, float | None]] = {}
        """Stream to the time of its source that clips have reached, and its duration, s."""

    def look(self) -> RunStatus:
        """Return how the run stands now."""
        now = time.monotonic()
        interval_s = max(now - self._looked, 1e-3)
        self._looked = now
        scheduler = self._scheduler
        by_name: dict[str, list[Lane]] = {}
        for lane in scheduler.lanes:
            by_name.setdefault(lane.name, []).append(lane)
        stages = tuple(self._stage(name, lanes, now, interval_s) for name, lanes in by_name.items())
        streams = tuple(self._stream(flow, state) for flow, state in scheduler.states())
        return RunStatus(
            stages=stages,
            streams=streams,
            bytes_used=scheduler.budget.used_bytes,
            bytes_budget=scheduler.limits.budget_bytes,
            nodes=self._cluster.nodes,
            cpus=self._cluster.all_cores,
            gpus=self._cluster.all_gpus,
        )

    def _stage(self, name: str, lanes: list[Lane], now: float, interval_s: float) -> StageStatus:
        workers = [worker for lane in lanes for worker in lane.workers]
        running = sum(now - worker.since for worker in workers if worker.calls)
        busy_s = running + sum(lane.busy_s for lane in lanes) + sum(w.busy_s for w in workers)
        calls = sum(lane.calls for lane in lanes)
        calls_before, busy_before = self._before.get(name, (0, 0.0))
        self._before[name] = (calls, busy_s)
        busy = (busy_s - busy_before) / (interval_s * max(len(workers), 1))
        held = sum(
            packed.nbytes
            for worker in workers
            for call in worker.calls
            for packed in call.arguments.values()
        )
        seconds = tuple(second for lane in lanes for second in lane.recent)
        for lane in lanes:
            lane.recent.clear()
        whole = any(lane.kind == "pool" and lane.whole for lane in lanes)
        return StageStatus(
            name=name,
            workers=len(workers),
            busy=min(max(busy, 0.0), 1.0),
            done=calls,
            backlog=sum(lane.backlog for lane in lanes),
            rate_per_s=max(calls - calls_before, 0) / interval_s,
            bytes_in_flight=held,
            failures=sum(lane.failures for lane in lanes),
            seconds=seconds,
            unit="streams" if whole else "clips",
        )

    def _stream(self, flow: Flow, state: str) -> StreamStatus:
        reached_s, total_s = self.reached.get(flow.source.name, (0.0, None))
        figures = flow.decode.meter.metrics
        return StreamStatus(
            name=flow.source.name,
            reached_s=reached_s,
            total_s=total_s,
            state=state,
            live=flow.live,
            dropped=figures.get("dropped_share", 0.0),
            dropped_frames=int(figures.get("dropped_frames", 0)),
            clips={node.name: node.dealt for node in flow.nodes if node.kind in ("head", "clip")},
        )
