"""Machines of the simulator: cores shared in time, a network card, and room for workers.

A machine is a processor-sharing queue: calls that keep more cores busy than there are all slow
down alike. Its clock of service makes every event cost O(log n), however many calls run.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.scheduling import ResourceClaim

__all__ = ["Machine", "MachineSpec", "Stored"]


@dataclass(frozen=True)
class MachineSpec:
    """Machines of one kind."""

    count: int
    cpus: float
    gpus: float = 0.0
    memory_bytes: float = math.inf
    """Memory that workers may claim on each machine."""


@dataclass(eq=False)
class Stored:
    """Stands for an object in the store: its size, and the machines that hold it."""

    nbytes: int
    places: set[int]


@dataclass(order=True)
class _Task:
    due: float
    """Service, in seconds of the task's own width, at which it ends."""
    order: int
    what: tuple[Any, Any] = field(compare=False)
    width: float = field(compare=False)
    seconds: float = field(compare=False)


class Machine:
    """One machine; times are those of the simulation, s."""

    def __init__(
        self,
        number: int,
        shape: MachineSpec,
        *,
        network_bytes_s: float,
        free: float = 1.0,
        contention: float = 1.0,
    ) -> None:
        """Start idle.

        Args:
            number: Its place among the machines.
            shape: Cores and GPUs.
            network_bytes_s: What goes in, and what goes out, each.
            free: Share of the cores that other programs leave over.
            contention: Factor on the duration of a task where all cores are busy.
        """
        self.number = number
        self.cpus = shape.cpus * free
        self.gpus = shape.gpus
        self.free_cpus = shape.cpus
        """Not claimed by workers."""
        self.free_gpus = shape.gpus
        self.free_memory_bytes = shape.memory_bytes
        self.busy_s = 0.0
        """Core-seconds of work done."""
        self.into_bytes = self.out_bytes = 0
        """What has crossed its network card."""
        self.version = 0
        """Changes with every event: an older reckoning of the next one is void."""
        self._contention = contention
        self._bytes_s = network_bytes_s
        self._in_free = self._out_free = 0.0
        self._service = 0.0
        self._at = 0.0
        self._demand = 0.0
        self._tasks: list[_Task] = []
        self._order = 0

    @property
    def running(self) -> int:
        """Calls that run."""
        return len(self._tasks)

    def has_room(self, claim: ResourceClaim) -> bool:
        """Whether a worker with this claim fits."""
        return (
            self.free_cpus >= claim.cpus - 1e-9
            and self.free_gpus >= claim.gpus
            and self.free_memory_bytes >= claim.memory_bytes
        )

    def claim(self, claim: ResourceClaim) -> None:
        """Take a worker's claim off what is free."""
        self.free_cpus -= claim.cpus
        self.free_gpus -= claim.gpus
        self.free_memory_bytes -= claim.memory_bytes

    def give_back(self, claim: ResourceClaim) -> None:
        """Add a worker's claim to what is free."""
        self.free_cpus += claim.cpus
        self.free_gpus += claim.gpus
        self.free_memory_bytes += claim.memory_bytes

    def begin(self, now: float, seconds: float, width: float, what: tuple[Any, Any]) -> None:
        """Let a call run: so many core-seconds, on at most `width` cores at once."""
        self._go_to(now)
        width = min(width, self.cpus)
        self._order += 1
        due = self._service + seconds / width
        heapq.heappush(self._tasks, _Task(due, self._order, what, width, seconds))
        self._demand += width
        self.version += 1

    def next_s(self) -> float | None:
        """Return when the next call ends if nothing else happens."""
        if not self._tasks:
            return None
        return self._at + max(0.0, self._tasks[0].due - self._service) / self._rate()

    def take(self, now: float) -> tuple[Any, Any]:
        """Take off the call that ends now."""
        self._go_to(now)
        task = heapq.heappop(self._tasks)
        self._demand = self._demand - task.width if self._tasks else 0.0
        self.busy_s += task.seconds
        self.version += 1
        return task.what

    def remove(self, now: float, owner: Any) -> None:
        """Take off the call of a worker that was ended: `what` begins with its owner."""
        self._go_to(now)
        self._tasks = [task for task in self._tasks if task.what[0] is not owner]
        heapq.heapify(self._tasks)
        self._demand = sum(task.width for task in self._tasks)
        self.version += 1

    def fetch(self, now: float, stored: Stored, holders: list[Machine]) -> float:
        """Return when an object of one of other machines, the least busy, has arrived here."""
        source = min(holders, key=lambda machine: machine._out_free)
        seconds = stored.nbytes / self._bytes_s
        # Many transfers share a card: none keeps the other end of the wire from serving others.
        self._in_free = max(now, self._in_free) + seconds
        source._out_free = max(now, source._out_free) + seconds
        self.into_bytes += stored.nbytes
        source.out_bytes += stored.nbytes
        stored.places.add(self.number)
        return max(self._in_free, source._out_free)

    def _rate(self) -> float:
        """Return the service that a call gets, for every second and core it could use."""
        rate = min(1.0, self.cpus / self._demand) if self._demand else 1.0
        if self._contention > 1 and self.cpus > 1:
            # Caches and memory are shared: from one busy core to all, evenly.
            used = min(self._demand, self.cpus)
            rate /= 1 + (self._contention - 1) * max(0.0, used - 1) / (self.cpus - 1)
        return rate

    def _go_to(self, now: float) -> None:
        if now > self._at:
            self._service += (now - self._at) * (self._rate() if self._tasks else 0.0)
            self._at = now
