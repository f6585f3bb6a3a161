"""Rounds of a benchmark: every way once a round, in turn forwards and backwards; their ratios.

A ratio is taken inside a round, between neighbors in time, so that a machine that gets slower or
faster meanwhile spoils neither side.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

__all__ = ["ALONE", "Spread", "against_loop", "alternate", "ratio", "side_by_side"]

ALONE = "--alone"
"""First word to a benchmark that shall do one pass by itself, and print what it took."""

Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Spread:
    """Figures of the rounds."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        """Their median."""
        return median(self.values)

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({min(self.values):.3g}-{max(self.values):.3g})"


def alternate(
    ways: dict[str, Callable[[], Figure]],
    repeats: int,
    tell: Callable[[int, str, Figure], None] | None = None,
) -> dict[str, list[Figure]]:
    """Call every way once a round; every second round goes backwards."""
    figures: dict[str, list[Figure]] = {name: [] for name in ways}
    for number in range(repeats):
        for name in ways if number % 2 == 0 else reversed(ways):
            figures[name].append(ways[name]())
            if tell is not None:
                tell(number, name, figures[name][-1])
    return figures


def ratio(above: Iterable[float], below: Iterable[float]) -> Spread:
    """Divide the figures of the same rounds."""
    return Spread(tuple(a / b for a, b in zip(above, below, strict=True)))


def side_by_side(module: str, given: Iterable[Iterable[object]]) -> list[str]:
    """Have a benchmark do passes in processes of their own at one time; return what they print.

    Args:
        module: Of the benchmark.
        given: The words that follow `--alone`, for each pass.
    """
    passes = [
        subprocess.Popen(
            [sys.executable, "-m", module, ALONE, *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for words in given
    ]
    told = [one.communicate()[0] for one in passes]
    assert not any(one.returncode for one in passes), f"a pass of {module} failed"
    return told


def against_loop(
    ours: Callable[[], Any],
    loop: Callable[[], Any],
    *,
    repeats: int,
    count: int,
    what: str,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Time ours against a library's plain loop, tell both and return how many times faster it is.

    Args:
        ours: Does the work.
        loop: Does the same.
        repeats: Rounds.
        count: Of how many things; seconds are told for one.
        what: What was done, as told above the figures.
        clock: Seconds: those of the wall, or CPU time.
    """

    def seconds(call: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            began = clock()
            call()
            return (clock() - began) / count

        return run

    rounds = alternate({"ours": seconds(ours), "loop": seconds(loop)}, repeats)
    faster = ratio(rounds["loop"], rounds["ours"])
    each = {name: Spread(tuple(values)) for name, values in rounds.items()}
    print(what)
    print(f"ours {each['ours']}, loop {each['loop']}; {faster} times as fast", flush=True)
    return faster.middle
