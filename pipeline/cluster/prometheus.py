"""Prometheus metrics of a run on Ray: what the live table shows, for monitoring a cluster.

Each node of a Ray cluster offers them at its metrics export port, with `ray_` before the name
and Ray's own labels (`SessionName`, `NodeAddress`, `WorkerId` …) beside ours:

==================================== ========= =============== =================================
name                                 kind      labels          what
==================================== ========= =============== =================================
reel3d_clips_total                   counter   stage, stream   clips that a stage has processed
reel3d_streams_total                 counter   stage           streams that it has processed
reel3d_stage_seconds                 histogram stage           duration of a task
reel3d_failures_total                counter   stage           tasks that failed or died
reel3d_dropped_frames_total          counter   stream          frames of a camera that were dropped
reel3d_backlog                       gauge     stage           items that wait for a worker
reel3d_busy_ratio                    gauge     stage           share of its workers' time, 0..1
reel3d_workers                       gauge     stage           actors alive
reel3d_in_flight_bytes               gauge     stage           its inputs and outputs in memory
reel3d_streams                       gauge     state           videos and cameras by state
reel3d_object_store_used_bytes       gauge                     held or reserved by the run
reel3d_object_store_budget_bytes     gauge                     what it may hold
reel3d_time_left_seconds             gauge                     absent while unknown
==================================== ========= =============== =================================

A stage is `flow/dis`. A stream is the source's name, masked, never its address; from the 101st on
they share the label `other`, and counts that are not split have `all`. So a run has at most
102 series a stage.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.sources import masked
from pipeline.telemetry import RunStatus

__all__ = ["Metrics"]

MOST_STREAMS = 100
"""How many streams get a label of their own: every label value is a series in the database."""
OTHER, ALL = "other", "all"
SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]
"""Upper bounds of the buckets: from one cheap clip to a whole stream's poses."""

STATES = ("waiting", "running", "made", "failed")
COUNTERS = {
    "reel3d_clips_total": (("stage", "stream"), "Clips that a stage has processed."),
    "reel3d_streams_total": (("stage",), "Streams that a stage has processed."),
    "reel3d_failures_total": (("stage",), "Calls that ended in an error or with their worker."),
    "reel3d_dropped_frames_total": (("stream",), "Frames of a camera that no stage saw."),
}
GAUGES = {
    "reel3d_backlog": (("stage",), "Items that wait for a worker."),
    "reel3d_busy_ratio": (("stage",), "Share of the workers' time spent in tasks."),
    "reel3d_workers": (("stage",), "Actors that are alive."),
    "reel3d_in_flight_bytes": (("stage",), "Inputs and outputs of a stage in the object store."),
    "reel3d_streams": (("state",), "Videos and cameras by state."),
    "reel3d_object_store_used_bytes": ((), "Held or reserved in the object store by the run."),
    "reel3d_object_store_budget_bytes": ((), "What the run may hold in the object store."),
    "reel3d_time_left_seconds": ((), "Estimated; absent while unknown."),
}
HISTOGRAM = "reel3d_stage_seconds"

Sample = tuple[str, tuple[str, ...], float]
"""Name, values of its labels, value."""


class Metrics:
    """Publishes a run's standing through Ray; make it where `ray.init` has been called."""

    def __init__(self) -> None:
        api: Any = importlib.import_module("ray.util.metrics")
        self._counters = {
            name: api.Counter(name, description=told, tag_keys=keys)
            for name, (keys, told) in COUNTERS.items()
        }
        self._gauges = {
            name: api.Gauge(name, description=told, tag_keys=keys)
            for name, (keys, told) in GAUGES.items()
        }
        self._seconds = api.Histogram(
            HISTOGRAM, description="Duration of a task.", boundaries=SECONDS, tag_keys=("stage",)
        )
        self._counted: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._streams: dict[str, str] = {}

    def publish(self, status: RunStatus) -> None:
        """Bring every metric up to date; cheap enough for twice a second."""
        totals: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for name, values, count in self._totals(status):
            totals[name, values] += round(count)
        for (name, values), total in totals.items():
            # A count that fell was reset, as for any counter of Prometheus.
            before = self._counted[name, values]
            more = total - before if total >= before else total
            if more > 0:
                self._counters[name].inc(more, dict(zip(COUNTERS[name][0], values, strict=True)))
            self._counted[name, values] = total
        for name, values, value in _levels(status):
            self._gauges[name].set(value, dict(zip(GAUGES[name][0], values, strict=True)))
        for stage in status.stages:
            for seconds in stage.seconds:
                self._seconds.observe(seconds, {"stage": stage.name})

    def _totals(self, status: RunStatus) -> Iterator[Sample]:
        """Yield what has been counted since the run began; rows of equal labels add up."""
        for stage in status.stages:
            yield "reel3d_failures_total", (stage.name,), stage.failures
            if stage.unit == "streams":
                yield "reel3d_streams_total", (stage.name,), stage.done
                continue
            known = [stream for stream in status.streams if stage.name in stream.clips]
            for stream in known:
                labels = (stage.name, self._label(stream.name))
                yield "reel3d_clips_total", labels, stream.clips[stage.name]
            if not known:
                yield "reel3d_clips_total", (stage.name, ALL), stage.done
        for stream in status.streams:
            if stream.live:
                labels = (self._label(stream.name),)
                yield "reel3d_dropped_frames_total", labels, stream.dropped_frames

    def _label(self, stream: str) -> str:
        """Return the label of a stream, which stays its own; the first come have one."""
        if stream not in self._streams and len(self._streams) < MOST_STREAMS:
            self._streams[stream] = masked(stream)
        return self._streams.get(stream, OTHER)


def _levels(status: RunStatus) -> Iterator[Sample]:
    for stage in status.stages:
        yield "reel3d_backlog", (stage.name,), stage.backlog
        yield "reel3d_busy_ratio", (stage.name,), stage.busy
        yield "reel3d_workers", (stage.name,), stage.workers
        yield "reel3d_in_flight_bytes", (stage.name,), stage.bytes_in_flight
    states = Counter(stream.state for stream in status.streams)
    for state in STATES:
        yield "reel3d_streams", (state,), states[state]
    yield "reel3d_object_store_used_bytes", (), status.bytes_used
    yield "reel3d_object_store_budget_bytes", (), status.bytes_budget
    left = status.eta_s
    # Ray leaves a gauge that is NaN out.
    yield "reel3d_time_left_seconds", (), math.nan if left is None else left
