"""Training schedule: every milestone is a fraction of the budget, so that any budget works."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Budget", "Schedule"]

PATIENCE = ((0.05, 1.5), (0.25, 1.0))
"""Pairs (share of the time, factor): after the share, the clock decides if it leads the steps by
more than the factor. Early steps are cheap, so a training that is late then only gets later."""


@dataclass
class Budget:
    """Training budget: steps limited by seconds, or seconds alone."""

    steps: int | None
    seconds: float
    clock: Callable[[], float] = time.perf_counter
    first_step: int = 0
    """First step of this round; further rounds start where growth is nearly over."""
    begin: float = 0.0
    """Share of the schedule at which this round begins."""
    by_time: bool = False
    """Whether the clock, not the steps, determines the progress of this round."""
    cut_short: bool = False
    """Whether the clock has ended a round before its steps were done."""
    _began: float = field(init=False)
    _round_s: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds used."""
        return self.clock() - self._began

    def progress(self, step: int) -> float:
        """Return the share of the schedule reached after `step` steps, 0 to 1."""
        left = self.seconds - self._round_s
        by_time = (self.elapsed_s - self._round_s) / left if left > 0 else 1.0
        if self.steps is None:
            return self._share(by_time)
        by_steps = (step - self.first_step) / self.steps if self.steps else 1.0
        # The clock decides only if the steps will not be done in time, since results that depend
        # on a clock are not reproducible.
        self.by_time |= any(by_time > max(by_steps * lead, after) for after, lead in PATIENCE)
        share = max(by_steps, by_time) if self.by_time else by_steps
        self.cut_short |= share >= 1 and by_steps < 1
        return self._share(share)

    def start(self) -> None:
        """Start the clock."""
        self._began = self.clock()

    def _share(self, of_round: float) -> float:
        return min(self.begin + (1 - self.begin) * of_round, 1.0)

    def extend(self, step: int, begin: float) -> None:
        """Begin another round with twice the steps."""
        self.steps = None if self.steps is None else 2 * self.steps
        self.first_step, self.begin = step, begin
        self._round_s = self.elapsed_s
        self.by_time = False

    def state(self) -> list[Any]:
        """Return the state of the budget, for `restore`."""
        flags = [self.by_time, self.cut_short]
        return [self.steps, self.first_step, self.begin, self._round_s, self.elapsed_s, *flags]

    def restore(self, state: list[Any]) -> None:
        """Restore what `state` returned."""
        self.steps, self.first_step, self.begin, self._round_s = state[:4]
        self._began = self.clock() - state[4]
        self.by_time, self.cut_short = state[5:]


@dataclass(frozen=True)
class Schedule:
    """Settings of the training as functions of the share of the budget."""

    degree: int
    half_until: float = 0.25
    """Share up to which images have half resolution: a quarter of the cost, coarse to fine."""
    grow_from: float = 0.04
    grow_until: float = 0.6
    refinements: int = 24
    settle_from: float = 0.7
    """Share from which all learning rates decay."""

    def halvings(self, p: float) -> int:
        """Return how many times the images' sides are halved."""
        return 1 if p < self.half_until else 0

    def harmonics(self, p: float) -> int:
        """Return the degree of the spherical harmonics in use."""
        return min(self.degree, int(10 * p))

    def refinement(self, p: float) -> int:
        """Return the number of refinements due so far."""
        share = (p - self.grow_from) / (self.grow_until - self.grow_from)
        return math.floor(min(max(share, 0.0), 1.0) * self.refinements)

    def planned(self, p: float, first: int, last: int) -> int:
        """Return the planned number of Gaussians, from `first` to `last`, fast then slow."""
        share = (p - self.grow_from) / (self.grow_until - self.grow_from)
        share = min(max(share, 0.0), 1.0)
        return round(first + (last - first) * (1 - (1 - share) ** 2))

    def rate(self, p: float) -> float:
        """Return the factor on all learning rates except that of the means."""
        late = max(p - self.settle_from, 0.0) / (1 - self.settle_from)
        return 0.1**late

    def rate_of_means(self, p: float) -> float:
        """Return the factor on the means' learning rate: 3DGS's decay to a hundredth."""
        return 0.01**p
