"""Nouns of the scheduler: streams, work items, the state of a stage of a stream, and tasks.

A `WorkItem` is a clip, or what a stateful stage made at the end of the stream, together with all
messages that are made of it. A `Task` is one request for a worker. `StageState` is one stage of one
stream, and passes through these states:

    state       holds while                                         what may happen next
    ----------  --------------------------------------------------  -------------------------------
    standing    `not runs`: the plan took it from an earlier run    finalized at the beginning
    waiting     `runs` and not `opened`: no task yet                working; stopped; finished
    working     `opened`: tasks for work items are queued or run    finishing; stopped; restarted
                                                                    from a snapshot after a death
    finishing   `finishing`: its `finish` is queued or runs         finished; restarted
    stopped     `stopped`: failed or not made, takes no more items  finished
    finished    `finished`, or every item processed (clip stages)   finalized; restarted where its
                                                                    messages were lost
    finalized   `finalized`: its end is recorded in the ledger      processing again, for messages
                                                                    that were lost since
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.contract import Loss
from pipeline.storage import PlannedStage
from pipeline.worker import ClipMetadata, MessageRef

__all__ = [
    "FINISH",
    "Outputs",
    "StageKind",
    "StageState",
    "StreamInfo",
    "Task",
    "TaskKind",
    "WorkItem",
]

FINISH = 1 << 40
"""Work items made by `finish` are numbered from here, by the index of their stage in the chain."""

StageKind = Literal["source", "clip", "stateful", "whole_stream"]
"""`source`: decoder and sampler together. `clip`: any worker takes any clip. `stateful`: one worker
takes all items of a stream in order. `whole_stream`: stateless, but reads what only the end of a
stream makes."""

TaskKind = Literal["next_clip", "redecode", "process", "finish", "persist", "load", "report"]

Outputs = dict[type, MessageRef | None]
"""What a stage made of a work item, by type; None stands for a message that was released or
lost."""


@dataclass(frozen=True)
class StreamInfo:
    """Identity of a stream."""

    number: int
    """Unique within a scheduler."""
    name: str
    priority: int = 0
    """Tasks of streams with a higher one go first."""
    live: bool = False
    """Whether the source is a camera: its clips cannot be decoded again."""


@dataclass(eq=False)
class WorkItem:
    """A clip or the end of a stream, and all that is made of it."""

    number: int
    name: str
    done: int = 0
    """Bit mask of the stages that have processed or skipped it."""
    queued: int = 0
    """Bit mask of the stages with a task for it that is queued or runs."""
    recompute: int = 0
    """Bit mask of the stages that have processed it and must make their output again."""
    outputs: dict[int, Outputs] = field(default_factory=dict[int, Outputs])
    """Stage index to what the stage made."""
    metadata: ClipMetadata | None = None
    """Clips: what the decoder needs to make the frames again."""
    losses: dict[tuple[int, TaskKind], int] = field(default_factory=dict[tuple[int, TaskKind], int])
    """Stage index and kind of task to how many times in a row its arguments were lost."""


@dataclass(eq=False)
class StageState:
    """One stage of one stream; fields marked [stateful] concern stages with memory only."""

    index: int
    planned: PlannedStage
    kind: StageKind
    feeders: int = 0
    """Bit mask of the stages that make what it reads."""
    consumers: list[StageState] = field(default_factory=list["StageState"])
    """Stages that read what it makes."""
    ancestors: int = 0
    """Bit mask of the feeders and their feeders."""
    stopped: bool = False
    """Whether it failed or was not made: it takes no more items."""
    opened: bool = False
    """Whether it got a task."""
    processed: int = 0
    """Number of items that it has processed or skipped."""
    sent: int = 0
    """[stateful] Place of the next item to take."""
    restart_place: int = 0
    """[stateful] Place from which a new worker can continue."""
    snapshot: int = 0
    """[stateful] Number of the snapshot of its state at `restart_place`; 0 for the initial state.
    Smaller than `restart_place` where it skipped the items between."""
    skipped: set[int] = field(default_factory=set[int])
    """[stateful] Places from `restart_place` on that it skipped."""
    poison: set[int] = field(default_factory=set[int])
    """[stateful] Places that are given up because they end its worker."""
    forgetful: bool = False
    """[stateful] Whether it gives no snapshots."""
    out: int = 0
    """[stateful] Number of tasks that are queued or run."""
    next_sequence: int = 0
    """[stateful] Sequence number of the next task for its worker."""
    finishing: bool = False
    """[stateful] Whether a `finish` task is queued or runs."""
    finished: bool = False
    """[stateful] Whether `finish` returned, or is not needed."""
    persisting: int = 0
    """Number of messages that are being written for `--resume`."""
    finalized: bool = False
    """Whether its end is recorded in the ledger."""
    persisted: list[str] = field(default_factory=list[str])
    """Files of the messages that were written for `--resume`."""
    lost: list[Loss] = field(default_factory=list[Loss])
    """Parts of its work that the runner gave up."""
    stuck_at: Task | None = None
    """The task at which its worker died last; it counts how often."""

    @property
    def bit(self) -> int:
        """Bit of this stage in the masks of a work item."""
        return 1 << self.index

    @property
    def runs(self) -> bool:
        """Whether it works in this run; else its results are those of an earlier one."""
        return self.planned.action == "run"

    @property
    def waits_for_clips(self) -> bool:
        """Whether it will take clips as they come."""
        return self.kind in ("clip", "stateful") and self.runs and not self.stopped

    @property
    def name(self) -> str:
        """Step and model, such as `flow/dis`."""
        return self.planned.name


@dataclass(eq=False)
class Task:
    """One request for a worker."""

    stream: StreamInfo
    stage: StageState
    kind: TaskKind
    item: WorkItem | None = None
    arguments: dict[str, MessageRef] = field(default_factory=dict[str, MessageRef])
    """Parameter name to message."""
    place: int = 0
    """Position of the item in the stream's row of items."""
    sequence: int = 0
    """Stateful stages: number of tasks that its worker got before; a gap shows a lost task."""
    kills: int = 0
    """Number of workers that died of it while it ran alone."""
    out_of_memory: int = 0
    """Number of workers that ran out of memory with it."""
    manifest: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Tasks of kind `report`: what the report shows."""
    safe: int = 0
    """Clip up to which all work is on disk, when the task was sent."""
    serial: int = 0
    """Position in the order of submission."""

    @property
    def where(self) -> str:
        """Name of the clip or part of the stream, for people."""
        return self.item.name if self.item is not None else self.stream.name
