"""From costs over time to segments: fixed-lag Viterbi, then no segment too short to mean much."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Decoder", "Run", "Step"]

Array = npt.NDArray[Any]

LONGEST_S = 1.0
"""A step counts at most this long: one pair across a gap must not outvote its neighbours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A stretch of time and the cost of calling it each of the states."""

    start_ns: int
    end_ns: int
    costs: Array
    """float64 [S] a second, 0..1 or a little more."""
    trust: float = 1.0
    """How much of the image the costs rest on, 0..1."""

    @property
    def seconds(self) -> float:
        """How long the step counts."""
        return min((self.end_ns - self.start_ns) / 1e9, LONGEST_S)


@dataclass(kw_only=True, slots=True)
class Run:
    """Consecutive steps of one state."""

    state: int
    start_ns: int
    end_ns: int
    evidence: float = 0.0
    """Seconds times trust times the margin over the next best state."""
    seconds: float = 0.0

    @property
    def score(self) -> float:
        """Mean margin over the next best state in 0..1; 0.5 a second of margin is certain."""
        return float(np.clip(2 * self.evidence / max(self.seconds, 1e-9), 0, 1))


@dataclass(kw_only=True, slots=True)
class Decoder:
    """Turns steps into runs, at most `lag_ns` plus `shortest_ns` after they happened.

    The best path pays each step's cost times its seconds and `switch_s` for each change of state.
    A state is settled `lag_ns` after it: paths that disagree with it are then dropped.
    """

    switch_s: float
    lag_ns: int
    shortest_ns: int
    _steps: list[Step] = field(default_factory=list[Step])
    _from: list[Array] = field(default_factory=list[Array])
    _total: Array | None = None
    _held: Run | None = None
    """The last run that is long enough; it may still grow over a short one after it."""
    _fresh: Run | None = None
    """The run after it, not yet long enough to stand by itself."""

    def push(self, step: Step) -> list[Run]:
        """Take the next step and return the runs that have become final."""
        cost = step.costs * step.seconds
        if self._total is None:
            self._total, came = cost.copy(), np.arange(len(cost))
        else:
            best = int(np.argmin(self._total))
            stay = self._total <= self._total[best] + self.switch_s
            came = np.where(stay, np.arange(len(cost)), best)
            self._total = np.where(stay, self._total, self._total[best] + self.switch_s) + cost
            self._total -= self._total.min()
        self._steps.append(step)
        self._from.append(came)
        final: list[Run] = []
        while self._steps and step.end_ns - self._steps[0].end_ns >= self.lag_ns:
            final += self._settle_first()
        return final

    def flush(self) -> list[Run]:
        """Settle everything: the stretch of time ends here."""
        final: list[Run] = []
        if self._steps:
            states = self._path()
            for step, state in zip(self._steps, states, strict=True):
                final += self._take(step, state)
        if self._held and self._fresh:
            self._absorb()
        final += [run for run in (self._held or self._fresh,) if run]
        self._steps, self._from, self._total = [], [], None
        self._held = self._fresh = None
        return final

    def _path(self) -> list[int]:
        assert self._total is not None
        state, states = int(np.argmin(self._total)), []
        for came in reversed(self._from):
            states.append(state)
            state = int(came[state])
        return states[::-1]

    def _settle_first(self) -> list[Run]:
        assert self._total is not None
        state = self._path()[0]
        step = self._steps.pop(0)
        self._from.pop(0)
        # Drop the paths that did not pass through the settled state.
        origin = np.arange(len(self._total))
        for came in reversed(self._from):
            origin = came[origin]
        self._total = np.where(origin == state, self._total, np.inf)
        return self._take(step, state)

    def _take(self, step: Step, state: int) -> list[Run]:
        others = np.delete(step.costs, state)
        margin = float(others.min() - step.costs[state]) * step.trust
        piece = Run(
            state=state,
            start_ns=step.start_ns,
            end_ns=step.end_ns,
            evidence=margin * step.seconds,
            seconds=step.seconds,
        )
        if self._fresh is not None and self._fresh.state == state:
            _extend(self._fresh, piece)
        elif self._fresh is not None and self._held is None:
            # Too short and nothing before it: what follows takes its time.
            piece.start_ns = self._fresh.start_ns
            self._fresh = piece
        else:
            if self._fresh is not None:
                self._absorb()
            if self._held is not None and self._held.state == state:
                _extend(self._held, piece)
                return []
            self._fresh = piece
        if self._fresh.end_ns - self._fresh.start_ns < self.shortest_ns:
            return []
        final = [self._held] if self._held is not None else []
        self._held, self._fresh = self._fresh, None
        return final

    def _absorb(self) -> None:
        assert self._held is not None
        assert self._fresh is not None
        self._held.end_ns = self._fresh.end_ns
        self._held.seconds += self._fresh.seconds
        self._fresh = None


def _extend(run: Run, piece: Run) -> None:
    run.end_ns = piece.end_ns
    run.evidence += piece.evidence
    run.seconds += piece.seconds
