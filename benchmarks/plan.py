"""`reel3d plan` against the real runner on this machine: throughput and time, predicted and true.

    python -m benchmarks.plan [films:WxH ...]    # 1:640x360 4:640x360 4:320x180 2:1280x720

For each configuration: films are made up and really run (own cluster, preset understand, no
report). Before and after that the stages' costs are measured on one of them, and the runner is
simulated with both, since CPU seconds depend on what else a machine does. Printed, as predicted /
true: clips a second in steady state (between the first and the last fifth of the clips), and
seconds from the first worker's start to the last film's end. Beside them what the defaults of
`RuntimeCosts` stand for: CPU seconds of everything, calls, and the driver's own time. Cores that
other programs took meanwhile are taken off the simulated machine, and told.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from pipeline.capacity import ClusterSpec, Costs, MachineSpec, Workload
from pipeline.capacity.calibration import make_film, measure
from pipeline.capacity.simulator import Simulation
from pipeline.chain import wire
from pipeline.cluster.connection import joined
from pipeline.cluster.ray_backend import RayBackend
from pipeline.cluster.runner import run_all
from pipeline.config import load
from pipeline.contract import Source
from pipeline.lifecycle import prepare
from pipeline.scheduling import STORE_SHARE
from pipeline.telemetry import Meter

CORES = len(os.sched_getaffinity(0))
SECONDS = 30.0
FPS = 30.0
DEFAULT = ("1:640x360", "4:640x360", "4:320x180", "2:1280x720")
OPTIONS = ("report.model=none",)


class ProgressListener:
    """Notes when clips come out of the decoder."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def began(self, stage: str) -> None:
        """Nothing is noted."""

    def reached(self, seconds: float, total_s: float | None) -> None:
        """Note a clip."""
        self.seen.append(time.monotonic())

    def progress(self, stage: str, done: float, total: float, note: str) -> None:
        """Nothing is noted."""

    def ended(self, stage: str, state: str, meter: Meter) -> None:
        """Nothing is noted."""


class Tree:
    """CPU time of this process and all below it, and of all others."""

    def __init__(self) -> None:
        self.own: dict[int, float] = {}
        self.names: dict[int, str] = {}
        self.first = self._look()
        self.before = dict(self.own)
        self.driver = time.process_time()
        self.seen: list[tuple[float, float, float]] = []
        """When somebody looked, and the CPU seconds of this tree and of the machine by then."""
        self.look()

    def _machine(self) -> float:
        times = psutil.cpu_times()
        return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice

    def _look(self) -> float:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                spent = process.cpu_times()
                self.own[process.pid] = spent.user + spent.system
                self.names[process.pid] = _kind(process)
            except psutil.Error:
                continue
        return sum(self.own.values())

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """Return how many processes of each kind there were, and their CPU seconds."""
        kinds: dict[str, tuple[int, float]] = {}
        for pid, seconds in self.own.items():
            count, total = kinds.get(self.names.get(pid, "ended"), (0, 0.0))
            kinds[self.names.get(pid, "ended")] = (
                count + 1,
                total + seconds - self.before.get(pid, 0.0),
            )
        return kinds

    def look(self, *_: Any) -> None:
        """Take the processes that there are now."""
        self.seen.append((time.monotonic(), self._look() - self.first, self._machine()))

    def spent(self) -> tuple[float, float]:
        """Return CPU seconds of this tree, and of the driver in it."""
        self.look()
        return self.seen[-1][1], time.process_time() - self.driver

    def free(self, since: float, until: float) -> float:
        """Return the cores that other programs left over between two times."""
        first = max((row for row in self.seen if row[0] <= since), default=self.seen[0])
        last = min((row for row in self.seen if row[0] >= until), default=self.seen[-1])
        others = last[2] - first[2] - (last[1] - first[1])
        return min(CORES, max(0.1 * CORES, CORES - others / max(last[0] - first[0], 1e-9)))


def _kind(process: psutil.Process) -> str:
    """Return what a process of Ray is: `ray::IDLE`, the worker of a lane, or a part of Ray."""
    words = process.cmdline()
    if process.pid == os.getpid():
        return "driver"
    name = Path(words[0].split()[0]).name if words else process.name()
    if name.startswith("python"):
        name = next((Path(word).name for word in words[1:] if word.endswith(".py")), name)
    return name


class Calls:
    """Counts the calls that the driver sends, and the workers that it starts."""

    def __init__(self) -> None:
        self.sent = self.started = 0
        send, start = RayBackend.send, RayBackend.start

        def counted(backend: Any, worker: Any, task: Any) -> None:
            self.sent += 1
            send(backend, worker, task)

        def prepared(backend: Any, worker: Any, places: Any) -> None:
            self.started += 1
            start(backend, worker, places)

        RayBackend.send, RayBackend.start = counted, prepared  # type: ignore[method-assign]


def steady(times: list[float]) -> float:
    """Return clips a second between the first and the last fifth of them."""
    times = sorted(times)
    low, high = len(times) // 5, len(times) - 1 - len(times) // 5
    return (high - low) / max(times[high] - times[low], 1e-9)


def films(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Make the films: copies of one, since the scheduler never looks inside."""
    first = folder / "film0.mp4"
    make_film(first, width=width, height=height, fps=FPS, seconds=SECONDS)
    paths = [first]
    for number in range(1, count):
        path = folder / f"film{number}.mp4"
        path.write_bytes(first.read_bytes())
        paths.append(path)
    return paths


def real(paths: list[Path], out: Path, tasks: Calls) -> dict[str, Any]:
    """Run the real thing."""
    runs = []
    for path in paths:
        source = Source(uri=str(path), shown=path.name, name=path.stem)
        config = load(preset="understand", overrides=OPTIONS, uri=str(path))
        runs.append(prepare(source, config, out / path.stem))
    watches = [ProgressListener() for _ in runs]
    tasks.sent = tasks.started = 0
    with joined(None) as cluster:
        tree = Tree()
        began, thread = time.monotonic(), time.thread_time()
        ends = run_all(runs, watches, cluster, on_status=tree.look)
        wall_s = time.monotonic() - began
        own, driver = tree.spent()
        thread = time.thread_time() - thread
        budget = float(cluster.budget_bytes)
    assert all(getattr(end, "exit_code", None) == 0 for end in ends), ends
    for run in runs:
        run.folder.close()
    times = sorted(at for watch in watches for at in watch.seen)
    middle = times[len(times) // 5], times[len(times) - 1 - len(times) // 5]
    return {
        "wall_s": wall_s,
        "rate": steady(times),
        "calls": tasks.sent,
        "starts": tasks.started,
        "kinds": tree.by_kind(),
        "own_s": own,
        "driver_s": driver,
        "thread_s": thread,
        "free": tree.free(began, began + wall_s),
        "free_steady": tree.free(*middle),
        "budget": budget,
    }


def simulated(
    costs: Costs, count: int, width: int, height: int, true: dict[str, Any], free: float
) -> Simulation:
    """Simulate the same, with so many of the cores left over by other programs."""
    config = load(preset="understand", overrides=OPTIONS, uri="film.mp4")
    requested = Workload(streams=count, width=width, height=height, fps=FPS, seconds=SECONDS)
    site = ClusterSpec(
        shape=MachineSpec(1, CORES),
        store_bytes=true["budget"] / STORE_SHARE,
        network_bytes_s=1e9,
        free=free / CORES,
    )
    simulation = Simulation(wire(config.choices), config.run, requested, site, costs)
    simulation.run()
    return simulation


def compare(count: int, width: int, height: int, tasks: Calls, folder: Path) -> None:
    """Measure, run, measure again, simulate with both, and print a row."""
    paths = films(folder, count, width, height)
    small, short = folder / "small.mp4", folder / "short.mp4"
    make_film(small, width=width // 4 * 2, height=height // 4 * 2, fps=FPS, seconds=6)
    make_film(short, width=width, height=height, fps=FPS, seconds=12)
    config = load(preset="understand", overrides=OPTIONS, uri=str(small))
    costs = [measure(config, short, small, alone=count == 1)]
    true = real(paths, folder / "runs", tasks)
    costs.append(measure(config, short, small, alone=count == 1))
    requested = (count, width, height, true)
    whole = [simulated(one, *requested, true["free"]) for one in costs]
    middle = [simulated(one, *requested, true["free_steady"]) for one in costs]
    skipped = whole[0].look()
    cpu_s = fmean(one.look().cores_s + one.look().driver_s for one in whole)
    seconds = fmean(one.now() for one in whole)
    rate = fmean(steady(one.made_at) for one in middle)
    print(
        f"{count:>5}  {width}x{height:<5} {rate:>6.2f} {true['rate']:.2f}"
        f" {rate / true['rate']:.2f}    {seconds:>6.1f} {true['wall_s']:.1f}"
        f" {seconds / true['wall_s']:.2f}    cores free {true['free']:.2f}"
        f" ({true['free_steady']:.2f} in between), CPU s {cpu_s:.1f}"
        f" {true['own_s']:.1f}, calls {sum(skipped.tasks.values()):.0f} {true['calls']}, driver s"
        f" {skipped.driver_s:.2f} {true['thread_s']:.2f} (all threads {true['driver_s']:.2f}),"
        f" workers {true['starts']}",
        flush=True,
    )
    told = {name: round(value, 1) for name, value in skipped.cpu_s.items()}
    kinds = {kind: (count, round(cpu_s, 1)) for kind, (count, cpu_s) in true["kinds"].items()}
    print("   CPU s of stages, predicted:", told, "of processes:", kinds, flush=True)


def main() -> None:
    """Compare every configuration."""
    print("films  size     clips/s: predicted true ratio   seconds: predicted true ratio   ...")
    tasks = Calls()
    for word in sys.argv[1:] or DEFAULT:
        count, _, size = word.partition(":")
        width, height = (int(side) for side in size.split("x"))
        with tempfile.TemporaryDirectory(prefix="reel3d-bp-") as name:
            compare(int(count), width, height, tasks, Path(name))


if __name__ == "__main__":
    main()
