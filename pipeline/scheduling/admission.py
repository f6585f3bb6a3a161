"""Who may begin a clip, or make the end of its stream: bytes are bounded here and nowhere else.

A clip is admitted only when the object store has room for all that will be made of it, so that
everything behind the decoder can always go on. How much that is, is learnt from the clips that
are through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pipeline.contract.messages import Actions, Tracks
from pipeline.scheduling.dataflow import Call
from pipeline.scheduling.object_store_budget import Budget
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.worker_manager import Workforce

__all__ = ["Admission"]

FIRST_GUESS = 6.0
"""Bytes that a clip holds with all that is made of it, over those of its frames: measured 5 with
flow and confidence; corrected by the first clip that is through."""

GROUP = 4
"""A head whose calls are light begins at least so many clips together, which then travel
together; asked for one by one, each in the place of one that is through, they would not."""


class Admission:
    """Asks the heads of all streams for clips, in turn, while there is room."""

    def __init__(self, workforce: Workforce, budget: Budget) -> None:
        self._workforce = workforce
        self._budget = budget
        self._round: deque[Stream] = deque()
        """Streams whose head may be asked, in turn."""
        self._counted = 0
        """Bytes that the clips of all streams will need."""
        self._gate: deque[tuple[Stream, Call]] = deque()
        """Ends of streams that wait for room."""
        self._ending: dict[int, int] = {}
        """Streams that hold whole-stream messages, by identity, and their bytes so far."""
        self._ending_most = 0

    def begin(self, stream: Stream) -> None:
        """Take a stream into the round."""
        self._round.append(stream)

    def leave(self, stream: Stream) -> None:
        """Take a stream out that has ended."""
        self._ending_most = max(self._ending_most, self._ending.pop(id(stream), 0))
        self.recount(stream)

    def recount(self, stream: Stream) -> None:
        """Take what a stream's clips need now; it may be able to use more of them."""
        committed = 0 if stream.ended else int(_pending(stream) * stream.footprint)
        self._counted += committed - stream.counted
        stream.counted = committed
        if stream.parked and not stream.ended:
            stream.parked = False
            self._round.append(stream)

    # Clips ------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Ask the heads for clips, in turn, while there is room for what becomes of them."""
        limit = self._workforce.limits.budget_bytes
        ending = sum(self._ending.values())
        refused = 0
        while self._round and refused < len(self._round):
            stream = self._round.popleft()
            flow = stream.flow
            if stream.ended or flow.total is not None or flow.head.over:
                continue
            committed = self._counted + ending
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
            while stream.lanes[0].light and not self._has_enough(stream, together=True):
                if self._counted + ending + stream.footprint > limit:
                    break
                self._ask(stream)

    def _ask(self, stream: Stream) -> None:
        flow = stream.flow
        stream.asked += 1
        self.recount(stream)
        place = flow.produced + stream.asked
        self._workforce.call(stream, Call(flow, flow.head, "next", place=place))

    def guess(self, stream: Stream, frames_bytes: int) -> None:
        """Take how large the frames of a new clip are."""
        if not stream.known:
            stream.footprint = max(stream.footprint, FIRST_GUESS * frames_bytes)
        stream.owned[stream.flow.produced] = frames_bytes

    def own(self, stream: Stream, call: Call, new_bytes: int) -> None:
        """Take how many bytes a call has added to its clip or to the end of its stream."""
        if call.parcel is not None and call.parcel.number in stream.owned:
            stream.owned[call.parcel.number] += new_bytes
        elif id(stream) in self._ending:
            self._ending[id(stream)] += new_bytes

    def learn(self, stream: Stream) -> None:
        """Learn what a clip holds from those that are through."""
        through = [number for number in stream.owned if number not in stream.flow.open]
        for number in through:
            owned = stream.owned.pop(number)
            stream.footprint = max(stream.footprint if stream.known else 0.0, owned)
            stream.known = True

    def _has_enough(self, stream: Stream, *, together: bool = False) -> bool:
        """Whether a stream has as many clips under way as it can use."""
        pending = _pending(stream)
        if stream.lanes[0].light and not together:
            return stream.asked > 0 or pending > self._most_open(stream) - GROUP
        return (
            stream.asked >= stream.lanes[0].depth
            or (not stream.footprint and pending > 0)
            or pending >= self._most_open(stream)
            or not (stream.asked or _is_up(stream))
        )

    def _most_open(self, stream: Stream) -> int:
        """Return how many clips of a stream may be under way: a few more than can be worked on."""
        lanes = {id(lane): lane for lane in stream.lanes.values()}.values()
        workers = sum(max(1, len(lane.workers)) for lane in lanes if lane.kind != "head")
        return self._workforce.limits.backlog + 2 * max(2, min(workers, 64))

    # The ends of streams ----------------------------------------------------------------------

    def pass_gate(self, stream: Stream, call: Call) -> None:
        """Hand a call out, or let it wait until there is room for the end of its stream."""
        # Events are small; what a reconstruction begins with may fill the store.
        large = call.verb == "finish" and set(call.node.job.link.ports.makes) - {Actions, Tracks}
        if large and self._may_not_end(stream):
            self._gate.append((stream, call))
            return
        self._workforce.call(stream, call)

    def open_gate(self) -> None:
        """Let the ends of streams pass for which there is room now."""
        for _ in range(len(self._gate)):
            stream, call = self._gate.popleft()
            if stream.ended:
                continue
            if self._may_not_end(stream):
                self._gate.appendleft((stream, call))
                return
            self._workforce.call(stream, call)

    def take_back(self, wanted: Callable[[Call], bool]) -> None:
        """Drop the calls at the gate of which this is true."""
        self._gate = deque(entry for entry in self._gate if not wanted(entry[1]))

    def _may_not_end(self, stream: Stream) -> bool:
        """Whether what the end of a stream makes must wait for room in the object store."""
        if id(stream) in self._ending or not self._ending:
            self._ending.setdefault(id(stream), 0)
            return False
        limit = self._workforce.limits.budget_bytes
        needed = self._ending_most or limit
        if self._budget.used_bytes + needed <= limit:
            self._ending[id(stream)] = 0
            return False
        return True


def _pending(stream: Stream) -> int:
    return stream.flow.window + stream.asked


def _is_up(stream: Stream) -> bool:
    """Whether a camera's first clips would be taken at once; a file waits for nobody."""
    if stream.flow.produced:
        return True
    lanes = [stream.lanes[n.index] for n in stream.flow.nodes if n.waits_for_clips]
    return not stream.flow.live or all(
        any(worker.state == "ready" for worker in lane.workers) for lane in lanes
    )
