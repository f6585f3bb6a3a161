"""Eight stages that do nothing: what the Ray runner itself costs, against plain Ray and Ray Data.

    python -m benchmarks.chain [--repeats 7] [--batches 200] [--frames 1 8] [--without-data]

Batches of 1080p pictures go from a producer through eight stages, each an actor of its own, on one
cluster of this machine:

- `ours`: the runner of `reel3d run --runner cluster`, the stages are `Stage` classes, with
  journal, retries, byte budget and all;
- `references`: actors by hand, which pass references on: calls leave in the same order as ours
  (downstream first, two in flight an actor), and there is nothing else;
- `arrays`: actors by hand that return what they get, the chain of a batch submitted at once;
- `data`: Ray Data, `map_batches` with an actor a stage (needs pandas).

The checksums of all batches that come out of each are compared first. Then the four run in turn.
Steady state is the time a batch after the first quarter; whole is everything, start of the workers
included. Bars, in steady state: 1.0 of `arrays`, 0.85 of `references`, 1.5 of `data`.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import version

from benchmarks import on_ray
from benchmarks.plain_chains import Sums, arrays, data, references
from benchmarks.rounds import Spread, alternate, ratio

BARS = {"arrays": 1.0, "references": 0.85, "data": 1.5}
CHECKED = 12
"""Batches of the run that compares the outputs."""


def ours(frames: int, batches: int, check: bool, found: object) -> tuple[on_ray.Times, Sums]:
    """Run the chain with reel3d's own runner."""
    stages = on_ray.choices(frames, batches, check=check)
    times = on_ray.run_streams([on_ray.synthetic()], stages, found)
    metrics = times.results[0].manifest["stages"][-1]["metrics"]
    sums = {int(name.partition("_")[2]): int(value) for name, value in metrics.items()}
    return times, sums


def measure(frames: int, options: argparse.Namespace, found: object) -> bool:
    """Compare the outputs, run the rounds, print the table; say whether all bars are reached."""
    peers = {"references": references, "arrays": arrays}
    if not options.without_data:
        peers["data"] = data
    ways: dict[str, Callable[[int, bool], tuple[on_ray.Times, Sums]]] = {
        "ours": lambda batches, check: ours(frames, batches, check, found)
    }
    for name, peer in peers.items():
        ways[name] = functools.partial(peer, frames)
    sums = {name: way(CHECKED, True)[1] for name, way in ways.items()}
    assert len(sums["ours"]) == CHECKED
    for name in peers:
        assert sums[name] == sums["ours"], f"{name} brings other pixels out than ours"

    def tell(number: int, name: str, times: on_ray.Times) -> None:
        steady, whole = 1000 * times.steady_s, times.whole_s
        print(f"  {number} {name:<11}{steady:7.2f} ms {whole:6.1f} s", file=sys.stderr, flush=True)

    rounds = alternate(
        {
            name: lambda way=way: way(options.batches, False)[0]  # pyright: ignore
            for name, way in ways.items()
        },
        options.repeats,
        tell,
    )
    print(
        f"{frames} x 1080p a batch, {options.batches} batches, 8 stages, {options.repeats} rounds"
    )
    print("| | steady ms a batch | whole s | ours faster, steady | whole | bar |")
    print("|---|---|---|---|---|---|")
    fine = True
    for name, times in rounds.items():
        steady = Spread(tuple(1000 * t.steady_s for t in times))
        whole = Spread(tuple(t.whole_s for t in times))
        row = [name, str(steady), str(whole), "", "", ""]
        if name != "ours":
            mine = rounds["ours"]
            faster = ratio((t.steady_s for t in times), (t.steady_s for t in mine))
            in_all = ratio((t.whole_s for t in times), (t.whole_s for t in mine))
            row[3:] = str(faster), str(in_all), str(BARS[name])
            fine &= faster.middle >= BARS[name]
        print("| " + " | ".join(row) + " |", flush=True)
    return fine


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--without-data", action="store_true", help="leave Ray Data out")
    options = parser.parse_args()
    print(f"Ray {version('ray')}")
    if not options.without_data and importlib.util.find_spec("pandas") is None:
        print("Ray Data is left out: it needs pandas, which is not installed")
        options.without_data = True
    with on_ray.cluster() as found:
        fine = [measure(frames, options, found) for frames in options.frames]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
