"""Rounds of a benchmark: every way once a round, in turn forwards and backwards; their ratios.

A ratio is taken inside a round, between neighbours in time, so that a machine that gets slower or
faster meanwhile spoils neither side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

__all__ = ["Spread", "alternate", "ratio"]

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
