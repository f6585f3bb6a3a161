"""A stream at work: its flow, the lanes its calls go to, and what its clips cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.scheduling.backend import StreamHooks
from pipeline.scheduling.dataflow import Flow
from pipeline.scheduling.pools import Lane

__all__ = ["Stream"]


@dataclass(eq=False)
class Stream:
    """What the scheduler knows of one stream."""

    flow: Flow
    hooks: StreamHooks
    lanes: dict[int, Lane]
    """Node index to where its calls go."""
    sinks: Lane
    asked: int = 0
    """Calls of the head for a new clip that are out."""
    footprint: float = 0.0
    """Bytes that a clip holds at most with all that is made of it; 0 while unknown."""
    owned: dict[int, int] = field(default_factory=dict[int, int])
    """Clip number to the bytes that were stored for it."""
    known: bool = False
    """Whether a clip is through, so that the footprint is measured."""
    counted: int = 0
    """Bytes that it is counted with among those committed."""
    parked: bool = False
    """It has as many clips under way as it can use: it is not in the round."""
    ended: bool = False
    end: str = ""
    """`made` or `failed`, once it has ended."""

    @property
    def all_lanes(self) -> list[Lane]:
        """Its lanes, each once."""
        return list({id(lane): lane for lane in (*self.lanes.values(), self.sinks)}.values())
