"""Actors whose stages have closed: the stages of the next stream, or of the next run, move in.

A process of its own, with all that the stages import, costs a second of CPU time, which is as much
as a short film takes in some of them. An actor rests only where it claims no part of the cluster,
and not for long; some wait for the next run of this driver.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pipeline.scheduling.policy import MOST, REST_S

__all__ = ["Spares"]
LEAVING_S = 10.0
"""An actor that has not closed its stages and ended so long after the run is ended by force."""


@dataclass(frozen=True)
class _Spare:
    actor: Any
    since: float
    closed: Future[bool]
    """Whether its stages have closed and it may take others; they may be sent before that."""


class Spares:
    """Actors that rest."""

    def __init__(self) -> None:
        self._resting: list[_Spare] = []
        self._leaving: dict[Any, Any] = {}
        """Answer that will tell of its end to an actor: Ray may forget one whose handle is dropped
        at once, and it would stay for ever."""

    def put(self, actor: Any) -> None:
        """Have an actor close its stages, and rest."""
        if len(self._resting) >= MOST:
            self.dismiss(actor)
            return
        closed = actor.rest.remote().future()
        self._resting.append(_Spare(actor, time.monotonic(), closed))

    def take(self) -> Any:
        """Return the actor that has rested longest, or None."""
        self.sweep()
        return self._resting.pop(0).actor if self._resting else None

    def sweep(self) -> None:
        """End those that have rested long enough, or are not fit to rest."""
        now = time.monotonic()
        for spare in list(self._resting):
            done = spare.closed.done()
            dead = done and spare.closed.exception() is not None
            if dead or now - spare.since > REST_S or (done and not spare.closed.result()):
                self._resting.remove(spare)
                if not dead:
                    self.dismiss(spare.actor)

    def trim(self, most: int) -> None:
        """End those that rest, but for the last `most`; wait until all that end are gone."""
        leaving = self._resting[: max(0, len(self._resting) - most)]
        del self._resting[: len(leaving)]
        for spare in leaving:
            self.dismiss(spare.actor)
        self._see_off()

    def dismiss(self, actor: Any) -> None:
        """Have an actor close its stages and end."""
        if len(self._leaving) >= MOST:
            self._part(0.0)
        self._leaving[actor.leave.remote()] = actor

    def _see_off(self) -> None:
        """Wait for those that end; end by force those that do not."""
        self._part(LEAVING_S)
        import ray

        for actor in self._leaving.values():
            ray.kill(actor, no_restart=True)
        self._leaving.clear()

    def _part(self, timeout_s: float) -> None:
        import ray

        left = list(self._leaving)
        if left:
            gone, _ = ray.wait(left, num_returns=len(left), timeout=timeout_s, fetch_local=False)
            for answer in gone:
                del self._leaving[answer]
