"""One stream on its way through the chain: which stage may take which work item next.

A stream is a row of work items: one for every clip, and one for what each stateful stage makes when
the stream ends (`finish`). Every stage either processes a work item or skips it because none of its
inputs are present. It may do so once the stages that feed it have done so; a stateful stage takes
the items in order. That is the order of the local runner, so the results are the same.

There is no clock, no Ray and no thread here, and nothing calls back: a method changes the state and
appends what follows from it to `decisions`, which the scheduler carries out.
`pipeline.scheduling.dataflow` adds what happens when something is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.chain import HEAD, STREAM_LEVEL
from pipeline.contract import Frames, Source
from pipeline.scheduling.tasks import (
    FINISH,
    Outputs,
    StageKind,
    StageState,
    StreamInfo,
    Task,
    TaskKind,
    WorkItem,
)
from pipeline.storage import PlannedStage
from pipeline.worker import ClipMetadata, MessageRef

__all__ = ["Decision", "Ready", "Release", "Restart", "Skipped", "StreamGraph"]

AHEAD = 2
"""Lost inputs that are made again for a stateful stage before it can take them."""


@dataclass(frozen=True)
class Ready:
    """A task may be sent."""

    task: Task


@dataclass(frozen=True)
class Release:
    """No stage of the stream needs a message any more."""

    message: MessageRef


@dataclass(frozen=True)
class Restart:
    """A stateful stage needs a new worker, which continues from its last snapshot."""

    stream: StreamInfo
    stage: StageState


@dataclass(frozen=True)
class Skipped:
    """A stage skips a clip."""

    stream: StreamInfo
    stage: StageState
    item: WorkItem


Decision = Ready | Release | Restart | Skipped


class StreamGraph(ABC):
    """The work items and stages of one stream."""

    def __init__(
        self,
        planned_stages: list[PlannedStage],
        source: Source,
        info: StreamInfo,
        decisions: deque[Decision],
    ) -> None:
        """Wire the stages of one stream.

        Args:
            planned_stages: What the plan says, decode and sample first.
            source: Where the clips come from.
            info: Identity of the stream.
            decisions: Receives what is to be done, in order; several streams may share it.
        """
        self.source = source
        self.info = info
        self.decisions = decisions
        # Decode and sample are one stage here; the sampler names the clips.
        self.decode = planned_stages[0]
        self.stages = [StageState(i, p, _kind(p)) for i, p in enumerate(planned_stages[1:])]
        self.work_items: dict[int, WorkItem] = {}
        """Number to work item; those of a camera are removed once every stage has processed
        them."""
        self.produced = 0
        """Number of clips that the source has made."""
        self.fast_forwarded = 0
        """Number of clips that an earlier process has taken through every stage."""
        self.total: int | None = None
        """Number of clips of the stream, once known."""
        self.end_reported = False
        """Whether the run has been informed that every stage has ended."""
        self.open: set[int] = set()
        """Clips that some stage has neither processed nor skipped."""
        self._all = (1 << len(self.stages)) - 1
        makers: dict[type, list[StageState]] = {}
        for stage in self.stages:
            for read in stage.planned.link.ports.reads:
                for maker in makers.get(read, ()):
                    stage.feeders |= maker.bit
                    stage.ancestors |= maker.bit | maker.ancestors
                    if stage not in maker.consumers:
                        maker.consumers.append(stage)
            for made in stage.planned.link.ports.makes:
                makers.setdefault(made, []).append(stage)
        self.origins = [
            stage
            for stage in self.stages
            if stage.kind == "stateful" and stage.planned.link.ports.makes
        ]
        """Stages whose `finish` makes a work item."""

    @property
    def source_stage(self) -> StageState:
        """Decode and sample."""
        return self.stages[0]

    @property
    def window(self) -> int:
        """Number of clips in flight."""
        return len(self.open)

    @property
    def finished(self) -> bool:
        """Whether every stage has ended."""
        return all(stage.finalized for stage in self.stages)

    # What the scheduler reports -----------------------------------------------------------------

    def begin(self) -> None:
        """Begin: offer what needs no clip."""
        for origin in self.origins:
            if not origin.runs:
                self._end_of(origin)
        for stage in self.stages:
            if not stage.runs:
                stage.finalized = stage.finished = True
        if not self.source_stage.runs:
            self.total = 0
        elif self.total is not None:
            self.source_stage.finished = self.source_stage.opened = True
        for item in list(self.work_items.values()):
            self._offer_all(item)
        self._advance_all()

    def add_clip(self, outputs: Outputs, metadata: ClipMetadata) -> WorkItem:
        """Add the next clip that the source has made."""
        item = WorkItem(self.produced, metadata.name, metadata=metadata)
        item.done = self._not_running()
        self.work_items[item.number] = item
        self.open.add(item.number)
        self.produced += 1
        self.source_stage.processed += 1
        self.source_stage.opened = True
        item.done |= self.source_stage.bit
        item.outputs[0] = outputs
        self._offer_all(item)
        return item

    def fast_forward(
        self,
        metadata: ClipMetadata,
        lost: set[str],
        snapshots: dict[str, int] | None = None,
        restarted: set[str] | None = None,
    ) -> None:
        """Add a clip that an earlier process has taken through every stage, before `begin`.

        Args:
            metadata: What the source needs to make the clip again.
            lost: Stages that made nothing of it.
            snapshots: Stateful stages that continue from a snapshot, and its number.
            restarted: Stateful stages that process their stream again from the beginning.
        """
        back = [stage for stage in self.stages if stage.name in (restarted or ())]
        done = self._all & ~sum(stage.bit for stage in back)
        item = WorkItem(self.produced, metadata.name, done=done, metadata=metadata)
        item.outputs[0] = {Frames: None}
        for stage in self.stages:
            if stage.kind == "clip":
                made = () if stage.name in lost else stage.planned.link.ports.makes
                item.outputs[stage.index] = {kind: None for kind in made}
            stage.processed += stage not in back
        self.work_items[item.number] = item
        if back:
            self.open.add(item.number)
        self.produced += 1
        self.fast_forwarded = self.produced
        self.source_stage.opened = True
        for stage in self.stages:
            if stage.kind == "stateful" and stage not in back:
                stage.restart_place = stage.sent = self.produced
                stage.snapshot = (snapshots or {}).get(stage.name, 0)
                stage.opened = stage.snapshot > 0

    def end(self) -> None:
        """Take note that the source has made its last clip."""
        self.total = self.produced
        self.source_stage.finished = True
        self._advance_all()

    def completed(self, task: Task, outputs: Outputs) -> None:
        """Take what a task made."""
        stage, item = task.stage, task.item
        if task.kind == "finish":
            if stage.stopped or not stage.finishing:
                self._drop(outputs)
                return
            stage.finished, stage.finishing = True, False
            self._finish_item(stage, outputs)
            return
        assert item is not None
        item.losses.pop((stage.index, task.kind), None)
        item.queued &= ~stage.bit
        recompute = bool(item.recompute & stage.bit)
        item.recompute &= ~stage.bit
        if recompute and item.done & stage.bit:
            self._recomputed(stage, item, outputs)
            return
        if stage.kind == "stateful":
            stage.out -= 1
        self._complete_item(stage, item, outputs)

    def give_up(self, stage: StageState) -> None:
        """Stop a stage: it takes nothing more, and what it made before stays."""
        stage.stopped = True
        self.withdraw(stage)
        for item in list(self.work_items.values()):
            if not item.done & stage.bit:
                item.queued &= ~stage.bit
        if stage.kind == "stateful":
            # Processed clips of a camera are not kept.
            stage.sent = min(self.open, default=self.produced) if self.info.live else 0
            stage.finishing = False
            self._advance(stage)
        else:
            for item in list(self.work_items.values()):
                self._offer(stage, item)

    def withdraw(self, stage: StageState) -> None:
        """Withdraw the tasks of a stage that are ready and have not been handed out."""
        kept = [
            decision
            for decision in self.decisions
            if not (
                isinstance(decision, Ready)
                and decision.task.stage is stage
                and decision.task.kind in ("process", "finish")
            )
        ]
        self.decisions.clear()
        self.decisions.extend(kept)

    def persisted(self, item: WorkItem) -> None:
        """Take note that a message has been written to the run folder."""
        self._release_unneeded(item)

    def snapshot_saved(self, stage: StageState, place: int) -> None:
        """Take note that a snapshot of a stateful stage, taken after `place`, is on disk."""
        stage.restart_place = stage.snapshot = place + 1
        self._skip_idle(stage)

    def advance(self, stage: StageState) -> None:
        """Offer the next items to a stateful stage."""
        self._advance(stage)

    # Questions ----------------------------------------------------------------------------------

    def origin_of(self, stage: StageState) -> StageState | None:
        """Return the stage whose `finish` makes the work item that `stage` contributes to."""
        if stage in self.origins:
            return stage
        before = [origin for origin in self.origins if stage.ancestors & origin.bit]
        return before[-1] if before else None

    @property
    def safe(self) -> int:
        """The clip up to which all work is on disk.

        A later process can continue from there, so the snapshots taken there must stay.
        """
        folds = [n for n in self.stages if n.kind == "stateful" and n.runs and not n.stopped]
        saved = (n.restart_place for n in folds if not (n.finalized or n.forgetful))
        return min(self.produced, min(self.open, default=self.produced), *saved)

    def is_through(self, stage: StageState) -> bool:
        """Return whether a stage has processed everything and all it made is persisted."""
        if self.total is None or stage.persisting:
            return False
        ends = (self.work_items.get(FINISH + origin.index) for origin in self.origins)
        if any(item is not None and item.recompute & stage.bit for item in ends):
            return False  # lost before it was persisted
        if stage.kind in ("source", "stateful"):
            return stage.finished
        return stage.processed >= self._expected(stage)

    # Recomputation ------------------------------------------------------------------------------

    @abstractmethod
    def _recompute(self, stage: StageState, item: WorkItem) -> None:
        """Have a stage make its output of an item again, since it was released or lost."""

    @abstractmethod
    def _recomputed(self, stage: StageState, item: WorkItem, outputs: Outputs) -> None:
        """Take what a stage made again of an item that it had processed before."""

    @abstractmethod
    def _retry_recompute(self, item: WorkItem) -> None:
        """Continue with the stages that wait for an input that has just been made again."""

    # The rules ----------------------------------------------------------------------------------

    def _not_running(self) -> int:
        return sum(stage.bit for stage in self.stages if not stage.runs)

    def _expected(self, stage: StageState) -> int:
        """Return the number of items that a stage processes or skips in all."""
        return (self.total or 0) + sum(origin.index < stage.index for origin in self.origins)

    def _end_of(self, origin: StageState) -> WorkItem:
        """Make the work item of an end, with what earlier runs have persisted of it."""
        item = WorkItem(FINISH + origin.index, f"{self.source.name}: {origin.name}")
        item.done = self._not_running() | ((origin.bit << 1) - 1)
        for stage in self.stages:
            if stage.planned.action == "replay" and self.origin_of(stage) is origin:
                item.outputs[stage.index] = {kind: None for kind in _kept_types(stage)}
        self.work_items[item.number] = item
        return item

    def _complete_item(self, stage: StageState, item: WorkItem, outputs: Outputs) -> None:
        if item.done & stage.bit:
            self._drop(outputs)
            return
        item.done |= stage.bit
        stage.processed += 1
        held = item.outputs.get(stage.index)
        if held:
            # It went back and made the same again: what is still there is as good.
            for kind in outputs:
                held.setdefault(kind, None)
            self._fill(held, outputs)
            if stage.stopped:
                forget_missing(held)
        else:
            item.outputs[stage.index] = outputs
        for consumer in stage.consumers:
            self._offer(consumer, item)
        self._release_unneeded(item)
        if stage.kind == "stateful":
            self._advance(stage)

    def _drop(self, outputs: Outputs) -> None:
        for packed in outputs.values():
            if packed is not None:
                self.decisions.append(Release(packed))

    def _fill(self, held: Outputs, outputs: Outputs) -> None:
        """Fill gaps with what was made again; release the rest."""
        for kind, packed in outputs.items():
            if packed is None:
                continue
            if kind in held and held[kind] is None:
                held[kind] = packed
            else:
                self.decisions.append(Release(packed))

    def _finish_item(self, origin: StageState, outputs: Outputs) -> None:
        if origin not in self.origins:
            self._drop(outputs)
            return
        item = self.work_items.get(FINISH + origin.index) or self._end_of(origin)
        held = item.outputs.get(origin.index)
        if held is None:
            item.outputs[origin.index] = outputs
        else:
            # `finish` was called again, since its messages were lost.
            self._fill(held, outputs)
            if item.recompute & origin.bit:
                forget_missing(held)
        item.recompute &= ~origin.bit
        self._retry_recompute(item)
        self._offer_all(item)
        self._advance_all()
        self._release_unneeded(item)

    def _offer_all(self, item: WorkItem) -> None:
        for stage in self.stages[1:]:
            self._offer(stage, item)

    def _offer(self, stage: StageState, item: WorkItem) -> None:
        """Offer a work item to a stage, if the stage can process or skip it now."""
        if not stage.runs or stage.bit & (item.done | item.queued):
            return
        if stage.kind == "stateful":
            self._advance(stage)
            return
        if stage.feeders & ~item.done:
            return
        taken = None if stage.stopped else self._taken(stage, item)
        if taken is None:
            if not stage.stopped:
                self._report_skipped(stage, item)
            self._complete_item(stage, item, {})
            return
        arguments = self._gather(taken, item)
        if arguments is not None:
            self._queue(stage, item, arguments, item.number)

    def _advance_all(self) -> None:
        for stage in self.stages:
            if stage.kind == "stateful" and stage.runs:
                self._advance(stage)

    def _advance(self, stage: StageState) -> None:
        """Have a stateful stage process or skip as many items in a row as it can."""
        while not stage.finished and not stage.finishing:
            item = self._at(stage, stage.sent)
            if item is None:
                if self.info.live and stage.sent < self.produced:
                    stage.sent += 1  # processed, and not kept
                    continue
                if self.total is None or stage.sent < self.total:
                    return
                if stage.sent < self.total + len(self.stages):
                    origin = self.stages[stage.sent - self.total]
                    if origin in self.origins and origin.index < stage.index:
                        return  # not finished yet
                    stage.sent += 1
                    continue
                self._finish(stage)
                return
            if stage.bit & item.done:
                stage.sent += 1
                continue
            if stage.bit & item.queued:
                return
            if stage.feeders & ~item.done:
                return
            place = stage.sent
            given_up = stage.stopped or place in stage.poison
            taken = None if given_up else self._taken(stage, item)
            if taken is None:
                stage.sent += 1
                stage.skipped.add(place)
                self._skip_idle(stage)
                if not given_up:
                    self._report_skipped(stage, item)
                self._complete_item(stage, item, {})
                continue
            gone = any(item.outputs[index][kind] is None for index, kind in taken.values())
            if gone and stage.out >= AHEAD:
                return  # made again once the stage can take it soon
            arguments = self._gather(taken, item)
            if arguments is None:
                return
            stage.sent += 1
            self._queue(stage, item, arguments, place)

    def _skip_idle(self, stage: StageState) -> None:
        """Move the restart place over skipped items: they leave the state as it was."""
        while stage.restart_place in stage.skipped:
            stage.skipped.discard(stage.restart_place)
            stage.restart_place += 1

    def _report_skipped(self, stage: StageState, item: WorkItem) -> None:
        if item.number < FINISH:
            self.decisions.append(Skipped(self.info, stage, item))

    def _finish(self, stage: StageState) -> None:
        if stage.processed < self._expected(stage):
            return
        if stage.stopped or not stage.opened:
            stage.finished = True
            self._finish_item(stage, {})
            return
        stage.finishing = True
        self.decisions.append(
            Ready(Task(self.info, stage, "finish", place=stage.sent, sequence=stage.next_sequence))
        )
        stage.next_sequence += 1

    def _at(self, stage: StageState, place: int) -> WorkItem | None:
        """Return the work item at a place of the row that `stage` takes, or None."""
        if self.total is None or place < self.total:
            return self.work_items.get(place)
        index = place - self.total
        if index >= stage.index:
            return None
        return self.work_items.get(FINISH + index)

    def _taken(self, stage: StageState, item: WorkItem) -> dict[str, tuple[int, type]] | None:
        """Return what a stage reads of an item: parameter to (stage index, type); or None."""
        there: dict[type, tuple[int, type]] = {}
        for index in sorted(item.outputs):
            if index < stage.index:
                there.update({kind: (index, kind) for kind in item.outputs[index]})
        return stage.planned.link.ports.take(there)

    def _gather(
        self, taken: dict[str, tuple[int, type]], item: WorkItem
    ) -> dict[str, MessageRef] | None:
        """Return the messages; None, after having missing ones made again."""
        arguments: dict[str, MessageRef] = {}
        for name, (index, kind) in taken.items():
            packed = item.outputs[index][kind]
            if packed is None:
                self._recompute(self.stages[index], item)
            else:
                arguments[name] = packed
        return arguments if len(arguments) == len(taken) else None

    def _queue(
        self,
        stage: StageState,
        item: WorkItem,
        arguments: dict[str, MessageRef],
        place: int,
        kind: TaskKind = "process",
    ) -> None:
        item.queued |= stage.bit
        task = Task(self.info, stage, kind, item, arguments, place)
        if kind == "process":
            stage.opened = True
            if stage.kind == "stateful":
                task.sequence = stage.next_sequence
                stage.next_sequence += 1
                stage.out += 1
        self.decisions.append(Ready(task))

    def _release_unneeded(self, item: WorkItem) -> None:
        """Release the messages that no stage needs any more."""
        for stage in self._holders(item):
            outputs = item.outputs[stage.index]
            if item.recompute & stage.bit:
                continue
            for kind, packed in outputs.items():
                # A message without objects costs nothing, and a rewound stage may need it.
                if packed is not None and packed.refs:
                    self.decisions.append(Release(packed))
                    outputs[kind] = None
        if item.done == self._all and not item.recompute:
            self.open.discard(item.number)
            if self.info.live and item.number < FINISH:
                self.work_items.pop(item.number, None)

    def _holders(self, item: WorkItem) -> Iterator[StageState]:
        for index in list(item.outputs):
            stage = self.stages[index]
            waiting = any(not item.done & c.bit or item.recompute & c.bit for c in stage.consumers)
            if not waiting and not (stage.persisting and item.number >= FINISH):
                yield stage


def forget_missing(outputs: Outputs) -> None:
    """Drop what cannot be made again: to the other stages it is as if it had never been."""
    for kind in [kind for kind, message in outputs.items() if message is None]:
        del outputs[kind]


def _kind(planned: PlannedStage) -> StageKind:
    if planned.link.step in HEAD:
        return "source"
    if planned.link.stage.scope == "stream":
        return "stateful"
    return "clip" if Frames in planned.link.ports.reads else "whole_stream"


def _kept_names(stage: StageState) -> list[str]:
    return list(stage.planned.entry.kept) if stage.planned.entry else []


def _kept_types(stage: StageState) -> list[type]:
    """`pose.colmap.Views.0123.npz` names a `Views`."""
    names = {made.__name__: made for made in STREAM_LEVEL}
    return [names[file.split(".")[-3]] for file in _kept_names(stage)]
