"""Deaths of workers: who is to blame, what runs again, and where stages with memory go on.

- A worker that dies makes suspects of all calls it held. Each runs again alone with a worker;
  only a death while alone counts against a call, and after `attempts` of these the clip is given
  up: it costs itself only, and its reason stands in the run's errors.
- A call that passes its deadline ends its worker; the rest is as above.
- The worker of a stream-scoped stage is replaced by one that goes on from the last snapshot, or
  from the beginning of the stream, whose clips are then made again.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from pipeline.scheduling.admission import Admission
from pipeline.scheduling.backend import Failure, Result
from pipeline.scheduling.dataflow import Call, Node
from pipeline.scheduling.pools import Lane, Worker
from pipeline.scheduling.stage_failures import Failures, take_back
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.worker_manager import Workforce

__all__ = ["Deaths"]

STARTS = 5
"""Workers of a lane that may fail to come up one after the other."""
STARTING_S = 300.0
"""A worker that is not up after this does not come up: weights may have to be loaded."""
REST_S = 2.0
"""How long a lane waits for memory."""
STARVED_MORE = 3
"""Memory may run out through no fault of the clip: so many more attempts."""

log = logging.getLogger(__name__)


class Deaths:
    """Finds a way on after a worker has gone."""

    def __init__(self, workforce: Workforce, admission: Admission, failures: Failures) -> None:
        self.count = 0
        self._workforce = workforce
        self._admission = admission
        self._failures = failures

    def died(
        self, worker: Worker, why: str, *, starved: bool = False, untouched: bool = False
    ) -> None:
        """Deal with the death of a worker.

        Args:
            worker: It is gone already.
            why: For people.
            starved: The machine ran out of memory.
            untouched: It was gone before it began its first call.
        """
        lane, calls = worker.lane, list(worker.calls)
        began = worker.state == "ready"
        alone = worker.alone and not untouched
        self._workforce.part(worker)
        self._workforce.touch_all(lane)
        self._workforce.wake(lane)
        self.count += 1
        lane.failures += 1
        log.warning("a worker of %s is gone: %s", lane.name, why)
        if starved:
            lane.rest_until = self._workforce.backend.now() + REST_S
            lane.most = max(1, len(lane.workers))
        if not began:
            lane.starts_failed += 1
            if lane.starts_failed >= STARTS:
                self._cannot_start(lane, why)
            return
        if lane.flow is not None and lane.kind != "head":
            self._fold_died(lane, calls, why, alone=alone, starved=starved)
            return
        for place, call in enumerate(calls):
            stream = self._workforce.stream_of(call.flow)
            if stream.ended:
                continue
            if call.verb == "next":
                stream.asked -= 1
                if place == 0 and not untouched:
                    self._next_died(stream, why, starved=starved)
                continue
            if self._is_poison(call, alone=alone, starved=starved):
                self._failures.cost(stream, call, _poisonous(call, why))
            elif call.node.over and call.verb == "process":
                stream.flow.completed(call, {})
            else:
                lane.suspects.append(call)

    def _is_poison(self, call: Call, *, alone: bool, starved: bool) -> bool:
        """Count a death against a call; say whether these are too many."""
        call.starved += starved
        call.kills += alone and not starved
        return max(call.kills, call.starved - STARVED_MORE) >= self._workforce.limits.attempts

    def _next_died(self, stream: Stream, why: str, *, starved: bool) -> None:
        """The decoder died on its way to the next clip."""
        head, place = stream.flow.head, stream.flow.produced
        if head.stuck_at is None or head.stuck_at.place != place:
            head.stuck_at = Call(stream.flow, head, "next", place=place)
        if self._is_poison(head.stuck_at, alone=True, starved=starved):
            self._failures.head_failed(stream, Failure(kind="WorkerDied", text=why))

    def _fold_died(
        self, lane: Lane, calls: list[Call], why: str, *, alone: bool, starved: bool
    ) -> None:
        """Send the stages of a lost worker back to their snapshots."""
        flow = lane.flow
        assert flow is not None
        stream = self._workforce.stream_of(flow)
        if stream.ended:
            return
        lane.careful = max([lane.careful, *(call.place for call in calls)])
        ran = calls[0] if calls else None
        nodes = self._send_back(stream, lane, calls[1:])
        if ran is not None and ran.verb in ("keep", "load", "report"):
            if self._is_poison(ran, alone=alone, starved=starved):
                self._failures.cost(stream, ran, _poisonous(ran, why))
            else:
                self._workforce.call(stream, ran)
        elif ran is not None:
            node = ran.node
            if node.stuck_at is None or node.stuck_at.place != ran.place:
                # Without what it was given: that would stay in the object store.
                node.stuck_at = replace(ran, arguments={})
            if self._is_poison(node.stuck_at, alone=alone, starved=starved):
                self._failures.cost(stream, ran, _poisonous(node.stuck_at, why))
        for node in nodes:
            flow.advance(node)

    def _send_back(
        self, stream: Stream, lane: Lane, calls: list[Call], also: Node | None = None
    ) -> list[Node]:
        """Send the stages of a stream's lane back; what else its worker had to do waits again."""
        flow = stream.flow
        mine = [n for n in flow.nodes if stream.lanes[n.index] is lane and n.runs]
        nodes = [n for n in mine if not n.settled or n is also]
        take_back(self._admission, lane, nodes)
        for call in calls:
            if call.verb in ("keep", "load", "report"):
                self._workforce.call(stream, call)
        for node in nodes:
            flow.rewind(node, node.saved)
        return nodes

    def restart(self, node: Node) -> None:
        """Replace a stream-scoped stage's worker by one that goes on from the last snapshot."""
        stream = next(s for s in self._workforce.streams if node in s.flow.nodes)
        lane = stream.lanes[node.index]
        if node.settled:
            # Its snapshots were removed when it was through.
            node.saved = node.held = 0
        calls: list[Call] = []
        for worker in list(lane.workers):
            calls += worker.calls
            self._workforce.kill(worker)
        for sent_back in self._send_back(stream, lane, calls, also=node):
            stream.flow.advance(sent_back)

    def opened(self, stream: Stream, lane: Lane, result: Result) -> None:
        """Take where the stages of a stream's new worker stand."""
        places: dict[str, Any] = result.extra or {}
        for node in stream.flow.nodes:
            if stream.lanes.get(node.index) is not lane or node.name not in places:
                continue
            if node.kind == "fold" and places[node.name] != node.held and not node.settled:
                # The snapshot was damaged or never there: the stage begins anew.
                take_back(self._admission, lane, [node])
                node.held = places[node.name]
                stream.flow.rewind(node, node.held)
                stream.flow.advance(node)

    def _cannot_start(self, lane: Lane, why: str) -> None:
        for stream in self._workforce.streams:
            for node in stream.flow.nodes:
                if not stream.ended and stream.lanes.get(node.index) is lane and node.runs:
                    text = f"no worker of it comes up: {why}"
                    self._failures.fail(stream, node, None, Failure(kind="WorkerDied", text=text))
        lane.starts_failed = 0
        for call in lane.take_back(lambda call: call.verb != "next"):
            stream = self._workforce.stream_of(call.flow)
            if not stream.ended:
                self._failures.cost(stream, call, f"no worker of it comes up: {why}")

    def watch_deadlines(self) -> None:
        """End the workers that have been at one call for too long."""
        now = self._workforce.backend.now()
        for lane in list(self._workforce.lanes):
            for worker in list(lane.workers):
                if worker.state == "starting" and now - worker.started > STARTING_S:
                    self._workforce.backend.kill(worker)
                    self.died(worker, f"it was not up after {STARTING_S:g} s", starved=False)
                    continue
                limit = lane.deadline_of(worker.calls[0]) if worker.calls else None
                if limit is not None and now - worker.since > limit:
                    self._workforce.backend.kill(worker)
                    why = f"{lane.name} gave no sign of life for {limit:g} s"
                    self.died(worker, f"{why} and was ended", starved=False)


def _poisonous(call: Call, why: str) -> str:
    times = max(call.kills, call.starved)
    return f"it ended its worker {times} times, the last time so: {why}"
