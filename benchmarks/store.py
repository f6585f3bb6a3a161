"""Memory of a run on Ray: ten times the input, with a sink that keeps up and one that is slow.

    python -m benchmarks.store [--repeats 7] [--batches 60]

A chain of three stages that hand 1080p pictures on (one frame a clip) runs with so many clips and
with ten times as many, on a cluster of this machine; with `slow` the last stage takes 20 ms a
clip, so that everything before it would pile up. Ten times a second the primary copies in the
object store and what the workers hold beside it (resident, without the shared pages) are added
up; a round's figure is its peak. Bars: ten times the input at most 1.10 times the peak of each,
and nothing spilled.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks import on_ray
from benchmarks.rounds import Spread, alternate, ratio

BAR = 1.10
EVERY_S = 0.1
SLOW_S = 0.02


@dataclass
class Peak:
    """Most that was seen, bytes."""

    store: int = 0
    workers: int = 0
    spilled: bool = False


def look(peak: Peak) -> None:
    """Look at the object store and the workers once."""
    from ray._private import internal_api

    said = internal_api.memory_summary(stats_only=True)
    found = re.search(r"Plasma memory usage (\d+) MiB", said)
    assert found is not None, said
    peak.store = max(peak.store, int(found[1]) << 20)
    peak.spilled |= "Spilled" in said
    held = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if "StageActor" in " ".join(process.cmdline()[:1]):
                memory = process.memory_info()
                held += memory.rss - memory.shared
        except psutil.Error:
            continue
    peak.workers = max(peak.workers, held)


@contextmanager
def watched() -> Generator[Peak]:
    """Watch the store and the workers, inside."""
    peak, stopped = Peak(), threading.Event()

    def watch() -> None:
        while not stopped.wait(EVERY_S):
            look(peak)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stopped.set()
        thread.join()
        look(peak)


def peak_of(batches: int, slow: bool, found: Any) -> Peak:
    """Run the chain; return its peak."""
    chain = on_ray.choices(1, batches, 3, sleep_s=SLOW_S if slow else 0)
    with watched() as peak:
        times = on_ray.run_streams([on_ray.synthetic()], chain, found)
    assert len(times.done) == batches
    assert peak.store
    assert peak.workers
    return peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, default=150)
    options = parser.parse_args()
    fine = True
    print("| sink | store MB, x 1 | x 10 | ratio | workers MB, x 1 | x 10 | ratio | spilled |")
    print("|---|---|---|---|---|---|---|---|")
    with on_ray.cluster() as found:
        peak_of(options.batches, False, found)
        for slow in (False, True):
            ways = {
                factor: lambda n=factor * options.batches, s=slow: peak_of(n, s, found)
                for factor in (1, 10)
            }
            named = {str(factor): way for factor, way in ways.items()}
            rounds: dict[str, list[Peak]] = alternate(named, options.repeats)
            row = ["slow" if slow else "keeps up"]
            for part in ("store", "workers"):
                once = [float(getattr(peak, part)) for peak in rounds["1"]]
                ten = [float(getattr(peak, part)) for peak in rounds["10"]]
                more = ratio(ten, once)
                row += [str(Spread(tuple(b / 1e6 for b in each))) for each in (once, ten)]
                row.append(str(more))
                fine &= more.middle <= BAR
            spilled = any(peak.spilled for peaks in rounds.values() for peak in peaks)
            fine &= not spilled
            print("| " + " | ".join([*row, "yes" if spilled else "no"]) + " |", flush=True)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
