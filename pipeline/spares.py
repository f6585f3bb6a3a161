"""Actors whose stages have closed: the stages of the next stream move in.

A process of its own, with all that the stages import, costs more than a second of CPU time, which
is as much as a short film takes in some of them. An actor rests only where it claims no part of
the cluster, and not for long.
"""

from __future__ import annotations

import queue
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


class Spares:
    """Actors that rest."""

    def __init__(self) -> None:
        self._closing: queue.SimpleQueue[tuple[_Spare, Future[Any]]] = queue.SimpleQueue()
        """Actors whose stages have closed lately, or failed to."""
        self._resting: list[_Spare] = []
        self._open = True

    def put(self, actor: Any, threads: int) -> None:
        """Have an actor close its stages; it rests when it has, or else ends."""
        if not self._open:
            actor.leave.remote()
            return
        spare = _Spare(actor, threads, time.monotonic())
        answer = actor.rest.remote()
        answer.future().add_done_callback(lambda future: self._closing.put((spare, future)))

    def take(self, threads: int) -> Any:
        """Return an actor for stages of so many threads, or None."""
        self.sweep()
        for place, spare in enumerate(self._resting):
            if spare.threads == threads:
                return self._resting.pop(place).actor
        return None

    def sweep(self) -> None:
        """Take those that have closed, and end those that have rested long enough."""
        while not self._closing.empty():
            spare, future = self._closing.get()
            if future.exception() is not None:
                continue
            if future.result() and self._open and len(self._resting) < MOST:
                self._resting.append(spare)
            else:
                spare.actor.leave.remote()
        now = time.monotonic()
        for spare in [s for s in self._resting if now - s.since > REST_S]:
            self._resting.remove(spare)
            spare.actor.leave.remote()

    def close(self) -> None:
        """End all that rest, and from now on all that are put."""
        self._open = False
        for spare in self._resting:
            spare.actor.leave.remote()
        self._resting.clear()
