"""A stream graph whose messages may be lost: what is missing is made again.

What a work item holds is released when no stage needs it any more, or is lost with a machine. A
stage that needs it again asks for it: the clip is decoded again from its metadata, the stages
between run again, and a stateful stage goes back to a snapshot.
"""

from __future__ import annotations

from pipeline.contract import Actions, Tracks
from pipeline.scheduling.stream_graph import Release, Restart, StreamGraph, forget_missing
from pipeline.scheduling.tasks import FINISH, Outputs, StageState, Task, WorkItem

__all__ = ["Dataflow"]


class Dataflow(StreamGraph):
    """The work items and stages of one stream, and how lost messages are recovered."""

    def lost(self, task: Task) -> None:
        """Have lost arguments of a task made again."""
        assert task.item is not None
        item = task.item
        item.queued &= ~task.stage.bit
        gone = set(map(id, task.arguments.values()))
        for outputs in item.outputs.values():
            for kind, packed in outputs.items():
                if packed is not None and packed.refs and id(packed) in gone:
                    self.decisions.append(Release(packed))
                    outputs[kind] = None
        self.retry(task)

    def lost_before_persisted(self, task: Task) -> None:
        """Have a message made again that was lost before it was persisted."""
        assert task.item is not None
        held = task.item.outputs[task.stage.index]
        for kind, packed in held.items():
            if packed is not None:
                self.decisions.append(Release(packed))
                held[kind] = None
        self._recompute(task.stage, task.item)

    def retry(self, task: Task) -> None:
        """Offer the work of a task that came to nothing again."""
        assert task.item is not None
        task.item.queued &= ~task.stage.bit
        if task.item.recompute & task.stage.bit:
            self._recompute(task.stage, task.item)
        elif task.stage.kind == "stateful":
            # Tasks after it may have run already: it goes back, so that the order is kept.
            self.decisions.append(Restart(self.info, task.stage))
        else:
            self._offer(task.stage, task.item)

    def rewind(self, stage: StageState, place: int) -> None:
        """Rewind a stateful stage: its new worker's state ends before `place`."""
        if self.info.live:
            # Processed clips are not kept: it continues with the oldest clip there is.
            place = max(place, min(self.open, default=self.produced))
        self.withdraw(stage)
        stage.restart_place = place
        stage.skipped.clear()
        stage.out = stage.next_sequence = 0
        for position in range(place, stage.sent):
            item = self._at(stage, position)
            if item is not None:
                item.queued &= ~stage.bit
                if item.done & stage.bit:
                    item.done &= ~stage.bit
                    stage.processed -= 1
                    if item.number < FINISH:
                        self.open.add(item.number)
        stage.sent = min(place, stage.sent)
        stage.finishing = stage.finished = False
        if place < self.fast_forwarded:
            # What others made of those clips in an earlier process is not known: they restart.
            for maker in self.stages:
                unknown = maker.kind == "stateful" and maker.runs and stage.feeders & maker.bit
                if unknown and maker.restart_place:
                    maker.restart_place = maker.snapshot = 0
                    self.decisions.append(Restart(self.info, maker))

    def _recompute(self, stage: StageState, item: WorkItem) -> None:
        if item.queued & stage.bit:
            return
        begun = bool(item.recompute & stage.bit)
        item.recompute |= stage.bit
        if stage.kind == "source":
            self._queue(stage, item, {}, item.number, "redecode")
        elif item.number >= FINISH and self._is_persisted(stage, item):
            self._queue(stage, item, {}, item.number, "load")
        elif stage.kind == "stateful":
            # It goes back to its last snapshot, or to the beginning where that is too late.
            if item.number < FINISH:
                stage.restart_place = stage.snapshot = 0
            if not begun:
                self.decisions.append(Restart(self.info, stage))
        else:
            taken = self._taken(stage, item)
            if taken is None:
                # Its inputs are lost for good, and so is its output.
                self.completed(Task(self.info, stage, "process", item), {})
                return
            arguments = self._gather(taken, item)
            if arguments is not None:
                self._queue(stage, item, arguments, item.number)

    def _recomputed(self, stage: StageState, item: WorkItem, outputs: Outputs) -> None:
        held = item.outputs.setdefault(stage.index, {})
        self._fill(held, outputs)
        forget_missing(held)
        self._retry_recompute(item)
        self._offer_all(item)
        self._release_unneeded(item)

    def _is_persisted(self, stage: StageState, item: WorkItem) -> bool:
        """Whether what a stage made of the end of the stream can be read from the run folder."""
        names = stage.planned.entry.kept if stage.planned.entry else stage.persisted
        # Events are persisted joined over the whole stream: that is not what `finish` made.
        alike = not stage.runs or not {Actions, Tracks} & set(item.outputs.get(stage.index, {}))
        return bool(names) and not stage.persisting and alike

    def _retry_recompute(self, item: WorkItem) -> None:
        """Continue the stages that waited for an input to be made again."""
        for stage in self.stages:
            if item.recompute & stage.bit:
                self._recompute(stage, item)
