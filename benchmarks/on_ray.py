"""What the benchmarks of the Ray runner share: its own cluster, a run of a stream, their times.

The stages are real ones, found by name in `benchmarks/stages_for_ray`, and a run goes the way of
`reel3d run --runner cluster`: journal, snapshots, quota, manifest and all.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.chain import Choice
from pipeline.config import RunConfig, RunOptions
from pipeline.contract import Source
from pipeline.lifecycle import RunResult
from pipeline.telemetry import SilentListener
from tests.support.paths import ROOT

__all__ = ["RELAYS", "Times", "choices", "choose", "cluster", "run_streams", "synthetic"]

STAGES = Path(__file__).parent / "stages_for_ray"
RELAYS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def _stages_path() -> None:
    """Let this process and the workers find the stages of the benchmarks."""
    folders = [str(STAGES), str(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    if str(STAGES) not in sys.path:
        sys.path.insert(0, str(STAGES))
    import stages

    for package in [stages, *(m for name, m in sys.modules.items() if name.startswith("stages."))]:
        inner = STAGES / package.__name__.replace(".", "/")
        paths: Any = getattr(package, "__path__", None)
        if paths is not None and inner.is_dir() and str(inner) not in paths:
            paths.append(str(inner))


_stages_path()


@dataclass(frozen=True)
class Times:
    """When the batches were through, s on this machine's clock, and the whole run's time."""

    done: list[float]
    """Rising."""
    whole_s: float
    results: tuple[RunResult, ...] = ()

    @property
    def steady_s(self) -> float:
        """Seconds a batch once the first quarter is through: all workers are up by then."""
        first = len(self.done) // 4
        return (self.done[-1] - self.done[first]) / (len(self.done) - 1 - first)


@contextmanager
def cluster(store_bytes: int | None = None) -> Generator[Any]:
    """Start a Ray cluster of our own, the way the runner does."""
    from pipeline.cluster.connection import joined

    with joined(store_bytes=store_bytes) as found:
        yield found


def choose(step: str, model: str, **options: Any) -> Choice:
    """Return a stage of a run."""
    from pipeline.contract.stage import options_of

    return Choice(step, model, options_of(step, model)(**options))


def choices(
    frames: int, batches: int, relays: int = len(RELAYS), *, check: bool = False, sleep_s: float = 0
) -> tuple[Choice, ...]:
    """Return a chain of relays; the last one checks, or sleeps."""
    names = RELAYS[:relays]
    relay = [choose("relay", name) for name in names[:-1]]
    relay.append(choose("relay", names[-1], check=check, sleep_s=sleep_s))
    head = choose("decode", "synthetic", frames=frames, batches=batches)
    return (head, choose("sample", "batches"), *relay)


def synthetic() -> Source:
    """Return the source of `decode/synthetic`, which reads nothing."""
    return Source(uri="synthetic", shown="synthetic", name="batches")


def run_streams(
    sources: list[Source],
    stages: tuple[Choice, ...],
    found: Any,
    *,
    budget_mb: int | None = None,
    timed: str = "",
) -> Times:
    """Run streams through the chain on a cluster; say when each clip had passed a stage.

    Args:
        sources: One a stream.
        stages: Of the chain, in order.
        found: The cluster.
        budget_mb: As `run.budget_mb`.
        timed: Stage that keeps no memory; the last one by default.
    """
    from pipeline.cluster import runner
    from pipeline.lifecycle import prepare
    from pipeline.storage import ClipRecord, Journal

    done: list[float] = []
    last = timed or stages[-1].name

    class Timed(Journal):
        """The journal, and the time of every line that says that a clip is through."""

        def processed(self, processed: ClipRecord) -> None:
            super().processed(processed)
            if processed.stage == last:
                done.append(time.perf_counter())

    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="reel3d-benchmark-"))
    untimed, runner.Journal = runner.Journal, Timed
    try:
        options = RunOptions(budget_mb=budget_mb)
        config = RunConfig("benchmark", options, stages)
        runs = [prepare(source, config, folder / source.name) for source in sources]
        ends = runner.run_all(runs, [SilentListener() for _ in runs], found)
        for end in ends:
            if not isinstance(end, RunResult):
                raise end
            assert not end.losses, end.losses
        whole_s = time.perf_counter() - began
        return Times(done, whole_s, tuple(end for end in ends if isinstance(end, RunResult)))
    finally:
        runner.Journal = untimed
        shutil.rmtree(folder, ignore_errors=True)
