"""Metrics as Prometheus would read them from a real Ray's own endpoint."""

import os
import re
import socket
import subprocess
import sys
import tempfile

import pytest

from pipeline.cluster import prometheus as metrics
from tests.support.paths import ROOT

PUBLISHED = """
import sys, time, urllib.request
from dataclasses import replace
import ray
from pipeline.cluster.prometheus import Metrics
from pipeline.cluster.local_ray import start_ray
from pipeline.telemetry.status import RunStatus, StageStatus, StreamStatus

folder, port = sys.argv[1], int(sys.argv[2])
start_ray(
    num_cpus=1, object_store_memory=80_000_000, _temp_dir=folder,
    _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 500},
)
flow = StageStatus(
    name="flow/dis", workers=2, busy=0.5, done=3, backlog=4, rate_per_s=1.0,
    bytes_in_flight=1000, failures=1, seconds=(0.02, 0.3),
)
pose = replace(flow, name="pose/colmap", done=2, unit="streams", failures=0, seconds=())
film = StreamStatus(
    name="film", reached_s=1.0, total_s=9.0, state="running", clips={"flow/dis": 2}
)
gate = replace(
    film, name="rtsp://me:hunter2@gate/1", live=True, dropped_frames=7, clips={"flow/dis": 1}
)
many = [replace(film, name=f"v{i}", clips={"flow/dis": 1}) for i in range(150)]
first = RunStatus(stages=(flow, pose), streams=(film, gate, *many), bytes_used=30, bytes_budget=90)
# Later: two more clips, one more dropped frame; what did not change must not count again.
later = replace(
    first,
    stages=(replace(flow, done=5, backlog=0, seconds=(0.3,)), pose),
    streams=(replace(film, clips={"flow/dis": 4}), replace(gate, dropped_frames=8), *many),
    eta_s=12.5,
)
published = Metrics()
published.publish(first)
published.publish(first)
published.publish(later)
text, end = "", time.monotonic() + 30
while "reel3d_time_left_seconds" not in text and time.monotonic() < end:
    time.sleep(0.25)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        pass
print(text)
ray.shutdown()
"""

Found = dict[tuple[str, ...], float]


@pytest.fixture(scope="module")
def found() -> Found:
    """Read (name, values of our labels …) to value."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Short: the sockets' names below it have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rm", dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", PUBLISHED, folder, str(port)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "hunter2" not in done.stdout
    samples: Found = {}
    for name, labels, value in re.findall(r"^ray_(reel3d_\w+)\{(.*)\} (\S+)$", done.stdout, re.M):
        all_labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        ours = [all_labels[k] for k in ("stage", "stream", "state", "le") if k in all_labels]
        samples[name, *ours] = float(value)
    return samples


def test_counts_are_counted_once(found: Found):
    assert found["reel3d_clips_total", "flow/dis", "film"] == 4
    assert found["reel3d_streams_total", "pose/colmap"] == 2
    assert found["reel3d_failures_total", "flow/dis"] == 1
    assert ("reel3d_failures_total", "pose/colmap") not in found


def test_levels_are_those_of_the_last_time(found: Found):
    assert found["reel3d_backlog", "flow/dis"] == 0
    assert found["reel3d_busy_ratio", "flow/dis"] == 0.5
    assert found["reel3d_workers", "flow/dis"] == 2
    assert found["reel3d_in_flight_bytes", "flow/dis"] == 1000
    assert found["reel3d_streams", "running"] == 152
    assert found["reel3d_streams", "failed"] == 0
    assert found["reel3d_object_store_used_bytes",] == 30
    assert found["reel3d_object_store_budget_bytes",] == 90
    assert found["reel3d_time_left_seconds",] == 12.5


def test_calls_fall_into_buckets_by_their_time(found: Found):
    def at_most(le: str) -> float:
        return found["reel3d_stage_seconds_bucket", "flow/dis", le]

    assert [at_most(le) for le in ("0.01", "0.025", "0.25", "0.5", "+Inf")] == [0, 2, 2, 5, 5]
    assert found["reel3d_stage_seconds_count", "flow/dis"] == 5


def test_streams_are_masked_and_bounded(found: Found):
    labels = {key[2] for key in found if key[0] == "reel3d_clips_total"}
    assert len(labels) == metrics.MOST_STREAMS + 1
    assert found["reel3d_clips_total", "flow/dis", "other"] == 152 - metrics.MOST_STREAMS
    assert found["reel3d_dropped_frames_total", "rtsp://***@gate/1"] == 8


def test_the_table_lists_what_there_is(found: Found):
    named = {name for name in re.findall(r"^reel3d_\w+", metrics.__doc__ or "", re.M)}
    assert named == {*metrics.COUNTERS, *metrics.GAUGES, metrics.HISTOGRAM}
    exported = {re.sub(r"(?<=stage_seconds)_(bucket|count|sum)$", "", key[0]) for key in found}
    assert exported == named
    for name in metrics.COUNTERS:
        assert name.endswith("_total")
