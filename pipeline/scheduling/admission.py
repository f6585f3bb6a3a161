"""Admission control by bytes: which stream may begin a clip, or make the end of its stream.

A clip is admitted only when the object store has room for all that will be made of it, so that
everything after the decoder can always proceed. How much that is, is measured by the clips that
every stage has processed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pipeline.contract import Actions, Tracks
from pipeline.scheduling.dataflow import Task
from pipeline.scheduling.object_store_budget import ObjectStoreBudget
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.worker_manager import WorkerManager

__all__ = ["Admission"]

FIRST_GUESS = 6.0
"""Bytes that a clip holds with all that is made of it, over those of its frames: measured 5 with
flow and confidence; corrected by the first clip that every stage has processed."""

GROUP = 4
"""A source whose tasks are light is asked for at least this many clips at a time, which then
travel together; asked for one by one, each in place of one that has ended, they would not."""


class Admission:
    """Asks the sources of all streams for clips, in turn, while there is room."""

    def __init__(self, workers: WorkerManager, budget: ObjectStoreBudget) -> None:
        self._workers = workers
        self._budget = budget
        self._round: deque[Stream] = deque()
        """Streams whose source may be asked for clips, in turn."""
        self._committed = 0
        """Bytes that the clips in flight of all streams will need."""
        self._gate: deque[tuple[Stream, Task]] = deque()
        """Ends of streams that wait for room."""
        self._ending: dict[int, int] = {}
        """Number of each stream that holds whole-stream messages, to their bytes so far."""
        self._ending_most = 0

    def begin(self, stream: Stream) -> None:
        """Add a stream to the round."""
        self._round.append(stream)

    def leave(self, stream: Stream) -> None:
        """Remove a stream that has ended."""
        self._ending_most = max(self._ending_most, self._ending.pop(stream.number, 0))
        self.recount(stream)

    def recount(self, stream: Stream) -> None:
        """Update the bytes that a stream's clips need; it may be able to use more clips."""
        committed = 0 if stream.ended else int(_pending(stream) * stream.footprint)
        self._committed += committed - stream.committed
        stream.committed = committed
        if stream.parked and not stream.ended:
            stream.parked = False
            self._round.append(stream)

    # Clips ------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Ask the sources for clips, in turn, while there is room for what is made of them."""
        limit = self._workers.limits.budget_bytes
        ending = sum(self._ending.values())
        refused = 0
        while self._round and refused < len(self._round):
            stream = self._round.popleft()
            dataflow = stream.dataflow
            if stream.ended or dataflow.total is not None or dataflow.source_stage.stopped:
                continue
            committed = self._committed + ending
            if committed and committed + stream.footprint > limit:
                # The quicker question first: where room is short it is asked of all at every step.
                self._round.append(stream)
                refused += 1
                continue
            if self._has_enough(stream):
                stream.parked = True
                continue
            self._round.append(stream)
            refused = 0
            self._ask(stream)
            while stream.pools[0].light and not self._has_enough(stream, together=True):
                if self._committed + ending + stream.footprint > limit:
                    break
                self._ask(stream)

    def _ask(self, stream: Stream) -> None:
        dataflow = stream.dataflow
        stream.requested += 1
        self.recount(stream)
        place = dataflow.produced + stream.requested
        self._workers.submit(
            stream, Task(dataflow.info, dataflow.source_stage, "next_clip", place=place)
        )

    def guess(self, stream: Stream, frames_bytes: int) -> None:
        """Estimate the footprint of a clip from the size of its frames."""
        if not stream.known:
            stream.footprint = max(stream.footprint, FIRST_GUESS * frames_bytes)
        stream.owned[stream.dataflow.produced] = frames_bytes

    def own(self, stream: Stream, task: Task, new_bytes: int) -> None:
        """Account for the bytes that a task has added to its clip or to the end of its stream."""
        if task.item is not None and task.item.number in stream.owned:
            stream.owned[task.item.number] += new_bytes
        elif stream.number in self._ending:
            self._ending[stream.number] += new_bytes

    def learn(self, stream: Stream) -> None:
        """Measure the footprint of a clip by those that every stage has processed."""
        through = [number for number in stream.owned if number not in stream.dataflow.open]
        for number in through:
            owned = stream.owned.pop(number)
            stream.footprint = max(stream.footprint if stream.known else 0.0, owned)
            stream.known = True

    def _has_enough(self, stream: Stream, *, together: bool = False) -> bool:
        """Whether a stream has as many clips in flight as it can use."""
        pending = _pending(stream)
        if stream.pools[0].light and not together:
            return stream.requested > 0 or pending > self._most_open(stream) - GROUP
        return (
            stream.requested >= stream.pools[0].depth
            or (not stream.footprint and pending > 0)
            or pending >= self._most_open(stream)
            or not (stream.requested or _is_up(stream))
        )

    def _most_open(self, stream: Stream) -> int:
        """Return the bound of a stream's clips in flight: a few more than its workers can hold."""
        pools = dict.fromkeys(stream.pools.values())
        workers = sum(max(1, len(pool.workers)) for pool in pools if pool.kind != "source")
        return self._workers.limits.backlog + 2 * max(2, min(workers, 64))

    # The ends of streams ----------------------------------------------------------------------

    def pass_gate(self, stream: Stream, task: Task) -> None:
        """Submit a task, or let it wait until there is room for the end of its stream."""
        # Events are small; what a reconstruction begins with may fill the store.
        large = task.kind == "finish" and set(task.stage.planned.link.ports.makes) - {
            Actions,
            Tracks,
        }
        if large and self._may_not_end(stream):
            self._gate.append((stream, task))
            return
        self._workers.submit(stream, task)

    def open_gate(self) -> None:
        """Submit the waiting ends of streams for which there is room now."""
        for _ in range(len(self._gate)):
            stream, task = self._gate.popleft()
            if stream.ended:
                continue
            if self._may_not_end(stream):
                self._gate.appendleft((stream, task))
                return
            self._workers.submit(stream, task)

    def withdraw(self, wanted: Callable[[Task], bool]) -> None:
        """Remove the tasks at the gate for which `wanted` is true."""
        self._gate = deque(entry for entry in self._gate if not wanted(entry[1]))

    def _may_not_end(self, stream: Stream) -> bool:
        """Whether what the end of a stream makes must wait for room in the object store."""
        if stream.number in self._ending or not self._ending:
            self._ending.setdefault(stream.number, 0)
            return False
        limit = self._workers.limits.budget_bytes
        needed = self._ending_most or limit
        if self._budget.used_bytes + needed <= limit:
            self._ending[stream.number] = 0
            return False
        return True


def _pending(stream: Stream) -> int:
    return stream.dataflow.window + stream.requested


def _is_up(stream: Stream) -> bool:
    """Whether the first clips of a camera would be taken at once; a file need not wait."""
    if stream.dataflow.produced:
        return True
    pools = [stream.pools[n.index] for n in stream.dataflow.stages if n.waits_for_clips]
    return not stream.dataflow.info.live or all(
        any(worker.state == "ready" for worker in pool.workers) for pool in pools
    )
