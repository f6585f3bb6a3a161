"""Pool of idle actors, reused by later stages and runs.

A process with all that the stages import costs a second of CPU time to start, which is as much as a
short video takes in some stages. An actor idles only where it claims no part of the cluster, and
not for long; some wait for the next run of this driver.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pipeline.scheduling import IDLE_ACTOR_S, IDLE_ACTORS

__all__ = ["IdleActorPool"]
STOP_GRACE_S = 10.0
"""An actor that has not exited this long after the run is killed."""


@dataclass(frozen=True)
class _IdleActor:
    actor: Any
    since: float
    closed: Future[bool]
    """Resolves to whether its stages have closed and it may take others; these may be sent
    before."""


class IdleActorPool:
    """Idle actors of one driver."""

    def __init__(self) -> None:
        self._idle: list[_IdleActor] = []
        self._stopping: dict[Any, Any] = {}
        """Reference that resolves when an actor exits, to the actor: Ray may forget an actor whose
        handle is dropped at once, and it would stay for ever."""

    def add(self, actor: Any) -> None:
        """Have an actor close its stages, and keep it for later."""
        if len(self._idle) >= IDLE_ACTORS:
            self.stop(actor)
            return
        closed = actor.reset.remote().future()
        self._idle.append(_IdleActor(actor, time.monotonic(), closed))

    def take(self) -> Any:
        """Return the actor that has been idle longest, or None."""
        self.sweep()
        return self._idle.pop(0).actor if self._idle else None

    def sweep(self) -> None:
        """Stop actors that have been idle for too long, or whose memory does not come back."""
        now = time.monotonic()
        for idle in list(self._idle):
            done = idle.closed.done()
            dead = done and idle.closed.exception() is not None
            if dead or now - idle.since > IDLE_ACTOR_S or (done and not idle.closed.result()):
                self._idle.remove(idle)
                if not dead:
                    self.stop(idle.actor)

    def trim(self, most: int) -> None:
        """Stop all idle actors but the last `most`; wait until those that stop have exited."""
        surplus = self._idle[: max(0, len(self._idle) - most)]
        del self._idle[: len(surplus)]
        for idle in surplus:
            self.stop(idle.actor)
        self._wait_for_exit()

    def stop(self, actor: Any) -> None:
        """Have an actor close its stages and exit."""
        if len(self._stopping) >= IDLE_ACTORS:
            self._collect(0.0)
        self._stopping[actor.shut_down.remote()] = actor

    def _wait_for_exit(self) -> None:
        """Wait for stopping actors; kill any that exceed the grace period."""
        self._collect(STOP_GRACE_S)
        import ray

        for actor in self._stopping.values():
            ray.kill(actor, no_restart=True)
        self._stopping.clear()

    def _collect(self, timeout_s: float) -> None:
        import ray

        left = list(self._stopping)
        if left:
            exited, _ = ray.wait(left, num_returns=len(left), timeout=timeout_s, fetch_local=False)
            for answer in exited:
                del self._stopping[answer]
