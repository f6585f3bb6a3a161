"""A stream in the scheduler: its dataflow, the pools its tasks go to, and what its clips cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.scheduling.backend import StreamHooks
from pipeline.scheduling.dataflow import Dataflow
from pipeline.scheduling.pools import WorkerPool

__all__ = ["Stream"]


@dataclass(eq=False)
class Stream:
    """What the scheduler knows of one stream."""

    dataflow: Dataflow
    hooks: StreamHooks
    pools: dict[int, WorkerPool]
    """Stage index to the pool of its tasks."""
    sink_pool: WorkerPool
    """Pool of the exporters and the report."""
    requested: int = 0
    """Number of `next_clip` tasks that are queued or run."""
    footprint: float = 0.0
    """Upper bound of the bytes that a clip holds with all that is made of it; 0 while unknown."""
    owned: dict[int, int] = field(default_factory=dict[int, int])
    """Clip number to the bytes that were stored for it."""
    known: bool = False
    """Whether a clip has passed every stage, so that `footprint` is measured."""
    committed: int = 0
    """Bytes that admission counts for the stream's clips in flight."""
    parked: bool = False
    """Whether it has as many clips in flight as it can use, and is not in the round."""
    ended: bool = False
    end: str = ""
    """`made` or `failed`, once it has ended."""

    @property
    def number(self) -> int:
        """Number of the stream in its scheduler."""
        return self.dataflow.info.number

    @property
    def all_pools(self) -> list[WorkerPool]:
        """Its pools, each once."""
        return list(dict.fromkeys((*self.pools.values(), self.sink_pool)))
