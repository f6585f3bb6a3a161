"""Actors whose stages have closed: the stages of the next stream move in.

A process of its own, with all that the stages import, costs more than a second of CPU time, which
is as much as a short film takes in some of them. An actor rests only where it claims no part of
the cluster, and not for long.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

__all__ = ["Spares"]

MOST = 8
REST_S = 10.0
"""An actor that nobody wants for this long is ended."""


@dataclass(frozen=True)
class _Spare:
    actor: Any
    threads: int
    since: float
    closed: Future[bool]
    """Whether its stages have closed and it may take others; they may be sent before that."""


class Spares:
    """Actors that rest."""

    def __init__(self) -> None:
        self._resting: list[_Spare] = []
        self._open = True

    def put(self, actor: Any, threads: int) -> None:
        """Have an actor close its stages, and rest."""
        if not self._open or len(self._resting) >= MOST:
            actor.leave.remote()
            return
        closed = actor.rest.remote().future()
        self._resting.append(_Spare(actor, threads, time.monotonic(), closed))

    def take(self, threads: int) -> Any:
        """Return an actor for stages of so many threads, or None."""
        self.sweep()
        for place, spare in enumerate(self._resting):
            if spare.threads == threads:
                return self._resting.pop(place).actor
        return None

    def sweep(self) -> None:
        """End those that have rested long enough, or are not fit to rest."""
        now = time.monotonic()
        for spare in list(self._resting):
            done = spare.closed.done()
            dead = done and spare.closed.exception() is not None
            if dead or now - spare.since > REST_S or (done and not spare.closed.result()):
                self._resting.remove(spare)
                if not dead:
                    spare.actor.leave.remote()

    def close(self) -> None:
        """End all that rest, and from now on all that are put."""
        self._open = False
        for spare in self._resting:
            spare.actor.leave.remote()
        self._resting.clear()
