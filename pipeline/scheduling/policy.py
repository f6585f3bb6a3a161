"""Tunable constants of scheduling, and what a worker claims of a machine.

The Ray runner and the simulator share both, so that `reel3d plan` plans for what Ray does.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.scheduling.pools import WorkerPool

__all__ = [
    "IDLE_ACTORS",
    "IDLE_ACTOR_S",
    "STORE_SHARE",
    "ResourceClaim",
    "claim_scale",
    "may_idle",
    "resource_claim",
]

STORE_SHARE = 0.3
"""Share of the object store for the clips in flight: Ray needs room for what it moves, other runs
for their clips, and nothing should ever be spilled."""
SIDE_BY_SIDE = 8
"""Number of runs that must find room beside one another: on small machines the claims of workers
are scaled down to that, and the workers share the cores in time."""
POOLS_A_RUN = 6
"""Upper bound of the shared pools of one run."""
SMALLEST_CPUS = 0.01
"""Smallest CPU claim of a worker."""

IDLE_ACTORS = 8
"""Upper bound of the processes that wait for other stages."""
IDLE_ACTOR_S = 30.0
"""A process that no stage has taken for this long is ended."""


@dataclass(frozen=True, kw_only=True)
class ResourceClaim:
    """What a worker holds of its machine while it lives."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: int = 0

    @property
    def empty(self) -> bool:
        """Whether it holds nothing, so that its process may wait for other stages."""
        return not (self.cpus or self.gpus or self.memory_bytes)


def claim_scale(cluster_cpus: float) -> float:
    """Return the factor on the CPUs that workers claim in a cluster of this size."""
    return min(1.0, cluster_cpus / (SIDE_BY_SIDE * POOLS_A_RUN))


def resource_claim(
    pool: WorkerPool, *, cluster_cpus: float, largest_cpus: float, exclusive: bool
) -> ResourceClaim:
    """Return what a worker of a pool claims.

    Args:
        pool: Its pool; workers of a single stream claim nothing.
        cluster_cpus: CPUs of all machines.
        largest_cpus: CPUs of the machine that has most: a worker must fit on one.
        exclusive: Whether the run has the machines to itself. The scheduler's own count of cores
            is enough then; other runs would not see it.
    """
    if pool.kind != "shared":
        return ResourceClaim()
    wanted = pool.resources
    cpus = 0.0
    if not exclusive:
        scaled = min(wanted.cpus * claim_scale(cluster_cpus), largest_cpus or 1.0)
        cpus = max(SMALLEST_CPUS, round(scaled, 2))
    return ResourceClaim(cpus=cpus, gpus=wanted.gpus, memory_bytes=wanted.memory_bytes)


def may_idle(pool: WorkerPool, claim: ResourceClaim) -> bool:
    """Whether the process of a worker may wait for other stages once its own have closed.

    A camera's decoder runs in a process of another kind, which can be asked to end.
    """
    return not pool.is_camera and claim.empty
