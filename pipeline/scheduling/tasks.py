"""What goes through a chain: parcels, the stages of one stream, and the calls between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline.contract.events import Loss
from pipeline.storage.plan import Job
from pipeline.worker.serialization import Packed

if TYPE_CHECKING:
    from pipeline.scheduling.dataflow import Flow

__all__ = ["FINISH", "Call", "Kind", "Node", "Outputs", "Parcel", "Verb"]

FINISH = 1 << 40
"""Parcels of `finish` are numbered from here, by the place of their stage in the chain."""

Kind = Literal["head", "clip", "fold", "whole"]
"""`head`: decode and sample together. `clip`: any worker takes any clip. `fold`: stream-scoped, in
order. `whole`: no memory either, but reads what only the end of a stream makes."""
Verb = Literal["next", "remake", "process", "finish", "keep", "load", "report"]

Outputs = dict[type, Packed | None]
"""What a stage made of a parcel; None stands for what was let go or lost."""


@dataclass(eq=False)
class Parcel:
    """A clip, or what a stage made at the end of the stream, and all that is made of it."""

    number: int
    name: str
    done: int = 0
    """Bit k: stage k has dealt with it."""
    queued: int = 0
    """Bit k: a call of stage k waits or runs."""
    again: int = 0
    """Bit k: stage k has dealt with it, but what it made is being made again."""
    outputs: dict[int, Outputs] = field(default_factory=dict[int, Outputs])
    remembered: Any = None
    """What the head needs to make the clip's frames again."""
    losses: dict[tuple[int, Verb], int] = field(default_factory=dict[tuple[int, Verb], int])
    """Place of a stage and what it does: how often in a row what it needs for that was lost."""


@dataclass(eq=False)
class Node:
    """One stage of one stream."""

    index: int
    job: Job
    kind: Kind
    feeders: int = 0
    """Bits of the stages that make what it reads."""
    consumers: list[Node] = field(default_factory=list["Node"])
    ancestors: int = 0
    over: bool = False
    """It takes no more: failed, or not made."""
    opened: bool = False
    """It was called at least once."""
    dealt: int = 0
    """How many parcels it has dealt with."""
    sent: int = 0
    """Fold: place in the row of the next parcel to take."""
    saved: int = 0
    """Fold: place from which a new worker can go on."""
    held: int = 0
    """Fold: number of the snapshot that stands for its state there; 0 for the state at the
    beginning. It is less than `saved` where the stage had no business with what lies between."""
    passed: set[int] = field(default_factory=set[int])
    """Fold: places from `saved` on with which it had no business."""
    poison: set[int] = field(default_factory=set[int])
    """Fold: places that are given up, since they end its worker."""
    forgetful: bool = False
    """Fold: it gives no snapshots."""
    out: int = 0
    """Fold: calls that wait or run."""
    turns: int = 0
    """Fold: calls that its worker gets in all."""
    finishing: bool = False
    """Fold: `finish` is being called."""
    finished: bool = False
    """Fold: `finish` was called, or need not be."""
    keeping: int = 0
    """Messages that are still being written down for `--resume`."""
    settled: bool = False
    kept: list[str] = field(default_factory=list[str])
    """Files of the messages that were written down for `--resume`."""
    lost: list[Loss] = field(default_factory=list[Loss])
    """What the runner itself gave up of its work."""
    stuck_at: Call | None = None
    """The call at which its worker died last: it counts how often."""

    @property
    def bit(self) -> int:
        """Its place in the masks of a parcel."""
        return 1 << self.index

    @property
    def runs(self) -> bool:
        """Whether it works in this run; else its work stands from an earlier one."""
        return self.job.action == "run"

    @property
    def waits_for_clips(self) -> bool:
        """Whether it will take clips as they come."""
        return self.kind in ("clip", "fold") and self.runs and not self.over

    @property
    def name(self) -> str:
        """`flow/dis`."""
        return self.job.name


@dataclass(eq=False)
class Call:
    """One call of a stage that may go to a worker."""

    flow: Flow
    node: Node
    verb: Verb
    parcel: Parcel | None = None
    arguments: dict[str, Packed] = field(default_factory=dict[str, Packed])
    place: int = 0
    """Fold: place of the parcel in the row."""
    turn: int = 0
    """Fold: how many calls its worker got before: one that failed to arrive leaves a gap."""
    kills: int = 0
    """How many workers died of it while it was alone with them."""
    starved: int = 0
    """How many were ended for lack of memory."""
    message: Any = None
    """What a call of the run itself brings along."""
    order: int = 0

    @property
    def where(self) -> str:
        """Name the clip or part, for people."""
        return self.parcel.name if self.parcel is not None else self.flow.source.name
