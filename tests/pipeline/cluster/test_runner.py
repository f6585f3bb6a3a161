"""The cluster runner on a real Ray: equal to the local runner, whatever dies on the way."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

import pipeline
from pipeline.cluster.connection import Cluster, joined
from pipeline.cluster.local_ray import own_signals
from pipeline.cluster.ray_backend import death_reason
from pipeline.cluster.stage_actor import StageActor
from pipeline.config import load
from pipeline.contract import Context, Source
from pipeline.errors import SourceError
from pipeline.lifecycle import RunResult, run
from pipeline.scheduling import ResourceClaim, WorkerEvent, WorkerPool
from pipeline.telemetry import LogSettings, SilentListener
from pipeline.worker import StageSpec
from tests.support.on_ray import (
    SCRIPTED,
    Recorded,
    film,
    living,
    made_of,
    misbehaving,
    store_stats,
    together,
)
from tests.support.stage_ends import StageEnds

STORE_BYTES = 100_000_000
Say = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Ray of two cores for all tests of this file, with the misbehaving stages in reach."""
    with misbehaving() as patch:
        # A machine that is gone is missed after a second; by default after 15.
        patch.setenv("RAY_health_check_initial_delay_ms", "0")
        patch.setenv("RAY_health_check_period_ms", "300")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        with joined(cores=2, store_bytes=STORE_BYTES) as there:
            yield there


@pytest.fixture(autouse=True)
def all_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every run: no worker, no object, no core is held, and nothing was spilled."""
    yield
    if "cluster" not in request.fixturenames:
        return
    import ray

    request.getfixturevalue("cluster").idle_actors.trim(0)
    pids = list(Recorded.last.pids.values())
    assert Recorded.last.budget.used_bytes == 0
    wait_until(lambda: not any(map(living, pids)), "workers are left")
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0, "cores are still claimed")
    gc.collect()
    wait_until(lambda: store_stats().object_store_bytes_used == 0, "objects are left")
    assert store_stats().spilled_bytes_total == 0


def wait_until(happens: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def local(source: Source, out: Path, *words: str) -> dict[str, Any]:
    run(source, load(file=SCRIPTED, overrides=words, uri=source.uri), out, SilentListener())
    return made_of(out)


def tasks(log: Path) -> list[str]:
    """Return the clips that a stage was called with."""
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


WHOLE = ("splat.model=none", "sample.model=fps", "sample.fps=8", "export.borrowed=on")


def test_a_run_equals_that_of_the_local_runner(
    cluster: Cluster, short_film: Path, tmp_path: Path
) -> None:
    source = Source(uri=str(short_film), shown=short_film.name, name="truck")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    bad = Source(uri=str(broken), shown=broken.name, name="broken")
    here, there = tmp_path / "here", tmp_path / "there"
    run(source, load(overrides=WHOLE, uri=source.uri), here, SilentListener())
    wanted = [(bad, tmp_path / "bad"), (source, there)]
    refused, ended = together(cluster, wanted, *WHOLE, preset=None)
    assert isinstance(refused, SourceError)
    assert "broken.mp4" in str(refused)
    assert not (tmp_path / "bad").exists()
    assert isinstance(ended, RunResult)
    assert ended.exit_code == 0
    assert made_of(there, "borrowed") == made_of(here, "borrowed")
    # Large arrays are read where they lie, in Ray's shared memory: no stage has a copy.
    found = json.loads((there / "borrowed.json").read_text())
    assert {"Frames.images", "Motion.flow", "Views.images", "DepthMaps.depth"} <= set(found)
    assert set(found.values()) == {"SubBuffer"}


def test_python_runs_on_the_cluster_and_hears_of_it(
    cluster: Cluster, short_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def joins(*words: Any, **named: Any) -> AbstractContextManager[Cluster]:
        asked.append((words, named))
        return nullcontext(cluster)

    # The cluster of this file in place of one that ends with the run.
    monkeypatch.setattr("pipeline.cluster.runner.joined", joins)
    monkeypatch.setattr("pipeline.cluster.runner.Scheduler", Recorded)
    heard = StageEnds()
    good, bad = pipeline.run_all(
        [short_film, tmp_path / "nowhere.mp4"],
        preset="understand",
        sample={"model": "fps", "fps": 5},
        **{step: {"model": "none"} for step in ("flow", "action", "track", "report")},
        export={"events": False, "storyboard": False, "flow_video": False},
        out=tmp_path / "runs",
        runner="cluster",
        share=0.5,
        listener=heard,
    )
    assert isinstance(bad, SourceError)
    assert isinstance(good, pipeline.Run)
    assert good.exit_code == 0
    assert good.folder == tmp_path / "runs" / "truck"
    assert good.frames.num_rows == 10
    assert heard.states == dict.fromkeys(("decode/pyav", "sample/fps", "export/frames"), "made")
    assert asked[0][1]["share"] == 0.5


def test_workers_die_and_nothing_else_happens(cluster: Cluster, tmp_path: Path) -> None:
    """Crashes, a hang, a clip that always kills, and a stream-scoped stage that is replaced."""
    source = film(tmp_path, frames=29, size=(160, 90))
    accidents = {"4": "segfault", "8": "exit", "12": "kill", "16": "hang", "20": "always exit"}
    dataflow = (
        "flow.model=accident",
        f"flow.log={tmp_path}",
        "run.attempts=2",
        "run.deadline_s=1.5",
    )
    action = ("action.model=accident", f"action.log={tmp_path}")
    ended = together(
        cluster,
        [(source, tmp_path / "out")],
        *dataflow,
        *action,
        f"flow.accidents={json.dumps(accidents)}",
        "action.once=22",
    )[0]
    assert isinstance(ended, RunResult)
    deaths = Recorded.last.deaths
    assert 1 + 4 + 2 <= deaths <= 1 + 4 + 3
    expected = local(
        source, tmp_path / "here", *dataflow, *action, 'flow.accidents={"20": "always raise"}'
    )
    made = made_of(tmp_path / "out")
    ours, theirs = (rows.pop("flow/accident") for rows in (made, expected))
    assert made == expected
    assert ours[:2] == theirs[:2]
    (lost,) = ended.losses
    assert lost[0] == theirs[2][0][0] == "clip film/20-22"
    assert lost[1].startswith("it ended its worker 2 times, the last time so: its process ended")
    row = json.loads((tmp_path / "out" / "errors.jsonl").read_text())
    assert (row["stage"], row["what"]) == ("flow/accident", "clip film/20-22")
    # The pictures of the views are those of the keyframes: not stored a second time.
    (keyframes,) = Recorded.last.made["keyframe/scripted", "finish"]
    (views,) = Recorded.last.made["pose/scripted", "process"]
    assert views["Views.images"] == keyframes["Keyframes.images"]


def test_a_film_larger_than_the_object_store(cluster: Cluster, tmp_path: Path) -> None:
    source = film(tmp_path, frames=121, size=(320, 180))
    words = ("run.budget_mb=24", "keyframe.model=none", "sample.clip_frames=5")
    ended = together(cluster, [(source, tmp_path / "out")], *words)[0]
    assert isinstance(ended, RunResult)
    # Flow and confidence are four times the bytes of the frames.
    assert STORE_BYTES < 121 * 320 * 180 * 3 * 5
    assert Recorded.last.budget.peak_bytes <= 24_000_000
    assert made_of(tmp_path / "out") == local(source, tmp_path / "here", *words)


def test_a_killed_driver_is_resumed(cluster: Cluster, tmp_path: Path) -> None:
    """Killed, then interrupted as by Ctrl-C, then finished: hardly a clip is gone through twice."""
    import ray

    source = film(tmp_path, frames=61)
    words = ["flow.model=accident", f"flow.log={tmp_path}", f"export.clips.log={tmp_path}"]
    words += ["flow.seconds=0.05"]
    out, log = tmp_path / "out", tmp_path / "clips.log"
    address = ray.get_runtime_context().gcs_address
    for number, how in ((8, signal.SIGKILL), (16, signal.SIGINT)):
        driver = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "run", source.uri, "--out", str(out)]
            + ["--config", str(SCRIPTED), "--runner", "cluster", "--address", address]
            + ["--resume"] * (how == signal.SIGINT)
            + words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda n=number: len(tasks(log)) >= n, "it stands still")
            driver.send_signal(how)
            told, words_said = driver.communicate(timeout=30)
        finally:
            driver.kill()
        assert driver.returncode == (-how if how == signal.SIGKILL else 130), words_said
        assert "Traceback" not in words_said
        assert told == ""
    ended = together(cluster, [(source, out)], *words, resume=True)[0]
    assert isinstance(ended, RunResult)
    expected = local(source, tmp_path / "here", *words[:1], *words[3:])
    made = made_of(out)
    assert made == expected
    # Two calls of a worker may be under way at one time; a clip that has gone through flow alone
    # went with the driver's object store.
    workers = 4
    for name in ("clips.log", "flow.log"):
        found = tasks(tmp_path / name)
        assert len(found) - len(set(found)) <= 2 * workers


def test_a_machine_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    """With its workers goes what they made: it is made again, and the result is the same."""
    import ray
    from ray._private import worker
    from ray.cluster_utils import Cluster as Nodes
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Away(Cluster):
        """The decoder and the pools are on the second machine, as long as there is one."""

        def away(self, pool: WorkerPool) -> bool:
            return pool.kind in ("source", "shared") and bool(nodes.worker_nodes)

        def claim(self, pool: WorkerPool) -> ResourceClaim:
            return ResourceClaim() if self.away(pool) else super().claim(pool)

        def actor_options(self, pool: WorkerPool) -> dict[str, Any]:
            if not self.away(pool):
                return super().actor_options(pool)
            strategy = NodeAffinitySchedulingStrategy(second.node_id, soft=False)
            return {"scheduling_strategy": strategy}

    nodes: Any = Nodes()
    internals: Any = worker
    nodes.head_node = internals._global_node
    nodes.redis_address = ray.get_runtime_context().gcs_address
    second = nodes.add_node(num_cpus=2, object_store_memory=STORE_BYTES, wait=False)
    wait_until(lambda: len([n for n in ray.nodes() if n["Alive"]]) == 2, "it does not come up")
    source = film(tmp_path, frames=61, size=(320, 180))
    words = ("keyframe.model=none", "flow.model=accident", "flow.seconds=0.1")

    def goes(scheduler: Recorded, event: WorkerEvent) -> None:
        if len(scheduler.made.get(("flow/accident", "process"), ())) == 8 and nodes.worker_nodes:
            nodes.remove_node(second, allow_graceful=False)

    try:
        both = Away("two", 1.0, own=False)
        assert both.nodes == 2
        (ended,) = together(both, [(source, tmp_path / "out")], *words, hook=goes)
        both.idle_actors.trim(0)
    finally:
        if nodes.worker_nodes:
            nodes.remove_node(second, allow_graceful=False)
    assert isinstance(ended, RunResult)
    assert Recorded.last.deaths >= 2
    assert Recorded.last.made["sample/scripted", "redecode"]
    assert made_of(tmp_path / "out") == local(source, tmp_path / "here", *words)


def test_the_next_run_takes_the_processes_that_rest(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    source = film(tmp_path, frames=9)
    pids: list[set[int]] = []
    for name in ("first", "second"):
        (ended,) = together(cluster, [(source, tmp_path / name)])
        assert isinstance(ended, RunResult)
        pids.append(set(Recorded.last.pids.values()))
        wait_until(lambda: sum(map(living, pids[-1])) == 4, "other than twice the cores rest")
        assert ray.available_resources().get("CPU") == 2.0
    assert len(pids[1] & pids[0]) == 4
    assert made_of(tmp_path / "second") == made_of(tmp_path / "first")

    class Looked(StageActor):
        """A worker that fills a stage with memory which only the collector of cycles finds."""

        def fill(self) -> None:
            (stage,) = self._host._stages.values()
            stage.__dict__ |= {"itself": stage, "much": bytes(range(256)) * (200 << 12)}

        def resident_mb(self) -> int:
            return psutil.Process().memory_info().rss >> 20

    remote: Any = ray.remote
    actor = remote(num_cpus=0)(Looked).remote(LogSettings.inherited())
    spec = StageSpec(name="flow", step="flow", model="dis", options={}, key="key", slots=2)
    context = Context(threads=1)
    resident: list[int] = []
    for _ in range(2):
        ray.get(actor.open.remote("job:1", (spec,), context, None, {}))
        ray.get(actor.fill.remote())
        assert ray.get(actor.reset.remote())
        resident.append(ray.get(actor.resident_mb.remote()))
    ray.kill(actor)
    assert max(resident) < 250, "what the stage held is not given back"


ASKED = """
import os, signal, time
from pipeline.telemetry.listener import SilentListener
from pipeline.cluster.connection import joined

signal.signal(signal.SIGTERM, lambda *_: print("heard"))
with joined(cores=1, store_bytes=80_000_000):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
print("went on")
"""


def test_a_signal_to_end_is_not_rays() -> None:
    """Ray catches SIGTERM and ends the process: a camera would be lost, daemons would stay."""
    words = [sys.executable, "-c", ASKED]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout.split()) == (0, ["heard", "went", "on"]), ended.stderr


def test_a_signal_that_nobody_asked_for_interrupts() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with own_signals() as withdraw:
            withdraw()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (
            "The actor died because its node has died. Node Id: 12",
            "the machine that it ran on was lost",
        ),
        ("Worker exit detail: exit code: 3", "its process ended with code 3"),
        (
            "(1) killed by the OOM killer (3) crashed due to SIGSEGV",
            "its process ended unexpectedly",
        ),
    ],
)
def test_the_end_of_a_worker_in_a_few_words(page: str, told: str) -> None:
    assert death_reason(page).startswith(told)
