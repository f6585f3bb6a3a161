"""Input and counters of a simulation: streams, machines, and what has happened."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from pipeline.capacity.machines import MachineSpec

__all__ = ["ClusterSpec", "Counters", "Sums", "Workload"]

Sums = defaultdict[str, float]
"""Seconds or counts by name."""


def _sums() -> Sums:
    return defaultdict(float)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The streams: all of one kind."""

    streams: int
    width: int
    height: int
    fps: float
    seconds: float | None
    """Duration of each file; None for cameras."""

    @property
    def megapixels(self) -> float:
        """Size of one frame of the source."""
        return self.width * self.height / 1e6

    def delivered_megapixels(self, max_side: int) -> float:
        """Return the size of a frame behind the decoder."""
        return self.megapixels * min(1.0, max_side / max(self.width, self.height)) ** 2


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """The machines and what lies between them."""

    shape: MachineSpec
    store_bytes: float
    """Object store of one machine."""
    network_bytes_s: float
    """What one machine can take in, and give out, each."""
    free: float = 1.0
    """Share of the cores that other programs leave over."""
    shared_folder: bool = True
    """Whether all machines see sources and run folders; else decoders stay with the driver."""

    @property
    def cpus(self) -> float:
        """Total CPUs across all machines."""
        return self.shape.count * self.shape.cpus

    @property
    def gpus(self) -> float:
        """Total GPUs across all machines."""
        return self.shape.count * self.shape.gpus


@dataclass(eq=False, kw_only=True)
class Counters:
    """What has happened so far; two of them are subtracted to look at a stretch of time."""

    at_s: float = 0.0
    busy_s: Sums = field(default_factory=_sums)
    """Pool to the seconds in which its workers ran a task."""
    worker_s: Sums = field(default_factory=_sums)
    """Pool to the seconds in which its workers existed."""
    cpu_s: Sums = field(default_factory=_sums)
    """Stage to core-seconds."""
    gpu_s: Sums = field(default_factory=_sums)
    """Stage to GPU-seconds."""
    tasks: Sums = field(default_factory=_sums)
    """Pool to tasks done."""
    cores_s: float = 0.0
    """Core-seconds of everything, start-up included, that machines have done."""
    driver_s: float = 0.0
    into_bytes: list[int] = field(default_factory=list[int])
    """Bytes received by the network card of each machine."""
    out_bytes: list[int] = field(default_factory=list[int])
    """Bytes sent by the network card of each machine."""
    dropped_s: float = 0.0
    """Total seconds that cameras lost."""
    filmed_s: float = 0.0

    def copy(self) -> Counters:
        """Return a copy that stays as it is while this one counts on."""
        return self.since(Counters())

    def since(self, before: Counters) -> Counters:
        """Return what has happened between then and now."""
        return Counters(
            at_s=self.at_s - before.at_s,
            busy_s=_less(self.busy_s, before.busy_s),
            worker_s=_less(self.worker_s, before.worker_s),
            cpu_s=_less(self.cpu_s, before.cpu_s),
            gpu_s=_less(self.gpu_s, before.gpu_s),
            tasks=_less(self.tasks, before.tasks),
            cores_s=self.cores_s - before.cores_s,
            driver_s=self.driver_s - before.driver_s,
            into_bytes=_apart(self.into_bytes, before.into_bytes),
            out_bytes=_apart(self.out_bytes, before.out_bytes),
            dropped_s=self.dropped_s - before.dropped_s,
            filmed_s=self.filmed_s - before.filmed_s,
        )


def _less(now: Sums, before: Sums) -> Sums:
    left = _sums()
    for name, value in now.items():
        left[name] = value - before.get(name, 0.0)
    return left


def _apart(now: list[int], before: list[int]) -> list[int]:
    return [a - b for a, b in zip(now, before or [0] * len(now), strict=True)]
