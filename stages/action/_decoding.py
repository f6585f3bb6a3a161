"""From costs over time to segments: fixed-lag Viterbi, then no segment too short to mean much."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Decoder", "StateRun", "Step"]

Array = npt.NDArray[Any]

LONGEST_S = 1.0
"""A step counts at most this long: one pair across a gap must not outvote its neighbors."""


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
class StateRun:
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
    A state is settled `lag_ns` after it; later ones are chosen given that.
    """

    switch_s: float
    lag_ns: int
    shortest_ns: int
    _steps: list[Step] = field(default_factory=list[Step])
    """What is not settled yet."""
    _final_state: int | None = None
    """The state before them."""
    _pending: StateRun | None = None
    """The last run that is long enough; it may still grow over a short one after it."""
    _fresh: StateRun | None = None
    """The run after it, not yet long enough to stand by itself."""

    def push(self, step: Step) -> list[StateRun]:
        """Take the next step and return the runs that have become final."""
        self._steps.append(step)
        final: list[StateRun] = []
        while self._steps and step.end_ns - self._steps[0].end_ns >= self.lag_ns:
            self._final_state = self._path()[0]
            final += self._take(self._steps.pop(0), self._final_state)
        return final

    def flush(self) -> list[StateRun]:
        """Settle everything: the stretch of time ends here."""
        final: list[StateRun] = []
        for step, state in zip(self._steps, self._path(), strict=True):
            final += self._take(step, state)
        if self._pending and self._fresh:
            self._absorb()
        final += [run for run in (self._pending or self._fresh,) if run]
        self._steps, self._final_state = [], None
        self._pending = self._fresh = None
        return final

    def snapshot(self) -> dict[str, Any]:
        """Return what is open as plain data."""
        steps = self._steps
        return {
            "times_ns": np.array([(s.start_ns, s.end_ns) for s in steps], np.int64).reshape(-1, 2),
            "costs": np.array([s.costs for s in steps], np.float64),
            "trust": [float(s.trust) for s in steps],
            "settled": self._final_state,
            "held": self._pending and asdict(self._pending),
            "fresh": self._fresh and asdict(self._fresh),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._steps = [
            Step(start_ns=start, end_ns=end, costs=costs, trust=trust)
            for (start, end), costs, trust in zip(
                state["times_ns"].tolist(), state["costs"], state["trust"], strict=True
            )
        ]
        self._final_state = state["settled"]
        self._pending = state["held"] and StateRun(**state["held"])
        self._fresh = state["fresh"] and StateRun(**state["fresh"])

    def _path(self) -> list[int]:
        """Return the best states of the open steps, given the settled one (Viterbi)."""
        total: Array | None = None
        came_from: list[Array] = []
        for step in self._steps:
            states = np.arange(len(step.costs))
            if total is None:
                total = np.zeros(len(states))
                if self._final_state is not None:
                    total[states != self._final_state] = self.switch_s
            best = int(np.argmin(total))
            came_from.append(np.where(total <= total[best] + self.switch_s, states, best))
            total = np.minimum(total, total[best] + self.switch_s) + step.costs * step.seconds
        if total is None:
            return []
        path = [int(np.argmin(total))]
        for came in reversed(came_from[1:]):
            path.append(int(came[path[-1]]))
        return path[::-1]

    def _take(self, step: Step, state: int) -> list[StateRun]:
        others = np.delete(step.costs, state)
        margin = float(others.min() - step.costs[state]) * step.trust
        piece = StateRun(
            state=state,
            start_ns=step.start_ns,
            end_ns=step.end_ns,
            evidence=margin * step.seconds,
            seconds=step.seconds,
        )
        if self._fresh is not None and self._fresh.state == state:
            _extend(self._fresh, piece)
        elif self._fresh is not None and self._pending is None:
            # Too short and nothing before it: what follows takes its time.
            piece.start_ns = self._fresh.start_ns
            self._fresh = piece
        else:
            if self._fresh is not None:
                self._absorb()
            if self._pending is not None and self._pending.state == state:
                _extend(self._pending, piece)
                return []
            self._fresh = piece
        if self._fresh.end_ns - self._fresh.start_ns < self.shortest_ns:
            return []
        final = [self._pending] if self._pending is not None else []
        self._pending, self._fresh = self._fresh, None
        return final

    def _absorb(self) -> None:
        assert self._pending is not None
        assert self._fresh is not None
        self._pending.end_ns = self._fresh.end_ns
        self._pending.seconds += self._fresh.seconds
        self._fresh = None


def _extend(run: StateRun, piece: StateRun) -> None:
    run.end_ns = piece.end_ns
    run.evidence += piece.evidence
    run.seconds += piece.seconds
