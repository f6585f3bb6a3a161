"""Everything that can die does, again and again: what is lost, what is done twice, what it costs.

On an own Ray of this machine, with a source of 100 small clips that are all different, and stages
that do little (tests/misbehaving), since what is measured is the runner:

- `workers`: 50 times in one run a worker that is up is killed (SIGKILL, by its process id);
- `drivers`: 20 times the command itself is killed and started again with --resume;
- `poison`: one clip of 100 ends every worker that touches it;
- `pace`: a worker killed every 30 s against none, in time.

    python -m benchmarks.chaos [workers] [drivers] [poison] [pace]
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cluster.connection import Cluster, joined
from pipeline.config import load
from pipeline.contract import Source
from pipeline.lifecycle import RunResult, run
from pipeline.scheduling import WorkerEvent
from pipeline.telemetry import SilentListener
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

CLIPS = 100
KILLS = 50
DRIVERS = 20
PACE_S = 30.0
STORE_BYTES = 150_000_000
FRAMES = 2 * CLIPS + 1
"""The sampler makes clips of three frames that share one."""


def main() -> int:
    """Run what is asked for and print a line for each figure."""
    parts = {"workers": _workers, "drivers": _drivers, "poison": _poison, "pace": _pace}
    wanted = [parts[name] for name in sys.argv[1:] or parts]
    with tempfile.TemporaryDirectory(prefix="chaos", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with misbehaving(), joined(cores=2, store_bytes=STORE_BYTES) as cluster:
            checks = [part(cluster, folder) for part in wanted]
    print("all as it should be" if all(checks) else "NOT AS IT SHOULD BE")
    return 0 if all(checks) else 1


def _workers(cluster: Cluster, folder: Path) -> bool:
    source = film(folder, frames=FRAMES)
    words = ("flow.model=accident", f"flow.log={folder}", "flow.seconds=0.4", "run.attempts=10")
    killer = _Killer(KILLS, every_s=0.5)
    began = time.monotonic()
    (ended,) = together(cluster, [(source, folder / "workers")], *words, hook=killer)
    seconds = time.monotonic() - began
    tasks = _calls(folder / "flow.log")
    clean = _clean(source, folder / "clean", *words[:1])
    assert isinstance(ended, RunResult)
    same = _differences(folder / "workers", clean)
    print(f"workers: {killer.kills} killed in {seconds:.0f} s ({dict(killer.struck)})")
    print(f"  clips lost: {len(ended.losses)} of {CLIPS}; what differs from a clean run: {same}")
    print(f"  flow called for {len(tasks)} clips {sum(tasks.values())} times")
    return killer.kills >= KILLS and not ended.losses and not same and _given_back(cluster)


def _drivers(cluster: Cluster, folder: Path) -> bool:
    import ray

    source = film(folder, frames=FRAMES)
    log = folder / "drivers-log"
    log.mkdir()
    words = ["flow.model=accident", f"flow.log={log}", "flow.seconds=0.05"]
    words += [f"export.clips.log={log}"]
    out, address = folder / "drivers", ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "pipeline.cli", "run", source.uri, "--out", str(out)]
    command += ["--config", str(SCRIPTED), "--runner", "cluster", "--address", address, "--quiet"]
    twice: list[int] = []
    workers: list[int] = []
    code = 0
    for number in range(DRIVERS + 1):
        before = {name: _calls(log / name) for name in ("flow.log", "clips.log")}
        done = sum(before["clips.log"].values())
        driver = subprocess.Popen(
            [*command, *["--resume"] * bool(number), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if number < DRIVERS:
            _await(lambda d=done: sum(_calls(log / "clips.log").values()) >= d + 3)
            workers.append(_actors())
            driver.kill()
        _, said = driver.communicate()
        code = driver.returncode
        if number == DRIVERS and code:
            print(said)
        if number:
            recompute = 0
            for name, known in before.items():
                now = _calls(log / name)
                recompute += sum(now[clip] - count for clip, count in known.items())
            twice.append(recompute)
    clean = _clean(source, folder / "clean-drivers", *words[:1])
    same = _differences(out, clean)
    tasks = _calls(log / "flow.log")
    print(f"drivers: {DRIVERS} killed and resumed, the last one ended with {code}")
    print(f"  clips lost: {CLIPS - len(tasks)}; what differs from a clean run: {same}")
    worst = max(twice)
    print(f"  calls of flow and exporter done again after a kill: at most {worst}, {twice}")
    print(f"  workers under way at the kills: {min(workers)} to {max(workers)}")
    bound = all(recompute <= at_work for recompute, at_work in zip(twice, workers, strict=True))
    print(f"  at most one for each worker: {bound}")
    return not code and not same and bound and _given_back(cluster)


def _poison(cluster: Cluster, folder: Path) -> bool:
    source = film(folder, frames=FRAMES)
    words = ("flow.model=accident", f"flow.log={folder}")
    at = (CLIPS // 2) * 2
    (ended,) = together(
        cluster,
        [(source, folder / "poison")],
        *words,
        f'flow.accidents={{"{at}": "always segfault"}}',
    )
    assert isinstance(ended, RunResult)
    clean = _clean(
        source, folder / "clean-poison", *words, f'flow.accidents={{"{at}": "always raise"}}'
    )
    same = [row for row in _differences(folder / "poison", clean) if row != "flow/accident"]
    print(f"poison: {Recorded.last.deaths} workers died; lost: {ended.losses}")
    print(f"  what differs from a run without that clip: {same}")
    named = [what for what, _ in ended.losses]
    return named == [f"clip film/{at}-{at + 2}"] and not same and _given_back(cluster)


def _pace(cluster: Cluster, folder: Path) -> bool:
    """Long enough for three kills."""
    source = film(folder, frames=FRAMES)
    words = ("flow.model=accident", f"flow.log={folder}", "flow.seconds=2", "run.attempts=10")
    seconds: list[float] = []
    for number, killer in enumerate((None, _Killer(100, every_s=PACE_S))):
        began = time.monotonic()
        (ended,) = together(cluster, [(source, folder / f"pace{number}")], *words, hook=killer)
        seconds.append(time.monotonic() - began)
        assert isinstance(ended, RunResult)
        assert not ended.losses
        if killer is not None:
            ratio = seconds[1] / seconds[0]
            print(f"pace: {seconds[0]:.0f} s without kills, {seconds[1]:.0f} s with {killer.kills}")
            print(f"  {ratio:.2f} times as long (bar 1.2); {dict(killer.struck)}")
            return ratio <= 1.2 and _given_back(cluster)
    return False


class _Killer:
    """Kills a random worker that is up every so often, as the run goes on."""

    def __init__(self, most: int, *, every_s: float) -> None:
        self.kills = 0
        self.struck: Counter[str] = Counter()
        self._most, self._every_s = most, every_s
        self._next = time.monotonic() + every_s
        self._random = random.Random(0)

    def __call__(self, scheduler: Recorded, event: WorkerEvent) -> None:
        del event
        now = time.monotonic()
        at_work = [(w, pid) for w, pid in scheduler.at_work if living(pid)]
        if self.kills >= self._most or now < self._next or not at_work:
            return
        worker, pid = self._random.choice(at_work)
        os.kill(pid, signal.SIGKILL)
        self.kills += 1
        self.struck[worker.pool.name] += 1
        self._next = now + self._every_s


def _clean(source: Source, out: Path, *words: str) -> dict[str, Any]:
    run(source, load(file=SCRIPTED, overrides=words, uri=source.uri), out, SilentListener())
    return made_of(out)


def _differences(folder: Path, clean: dict[str, Any]) -> list[str]:
    made = made_of(folder)
    return [
        name for name in sorted(made.keys() | clean.keys()) if made.get(name) != clean.get(name)
    ]


def _calls(log: Path) -> Counter[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[0] for line in lines)


def _actors() -> int:
    """Count the workers that are up."""
    from ray._private import state

    actors: dict[str, Any] = state.actors()
    return sum(row["State"] == "ALIVE" for row in actors.values())


def _given_back(cluster: Cluster) -> bool:
    """Say whether cores, workers and objects are all given back, and nothing was spilled."""
    import ray

    cluster.idle_actors.trim(0)

    def back() -> bool:
        held = store_stats()
        free = ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
        return free and not held.object_store_bytes_used and not _actors()

    done = _await(back, 30, quiet=True)
    held = store_stats()
    print(f"  resources given back: {done}; bytes in the store: {held.object_store_bytes_used}, ")
    print(f"  spilled: {held.spilled_bytes_total}")
    return done and not held.spilled_bytes_total


def _await(happens: Callable[[], bool], most_s: float = 180, *, quiet: bool = False) -> bool:
    until = time.monotonic() + most_s
    while not happens():
        if time.monotonic() > until:
            assert quiet, "it stands still"
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    sys.exit(main())
