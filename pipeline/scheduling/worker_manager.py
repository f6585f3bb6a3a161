"""The workers of all lanes: which call goes to which, who is started and who is given back."""

from __future__ import annotations

from pipeline.scheduling.backend import Backend, Limits
from pipeline.scheduling.dataflow import Call, Flow
from pipeline.scheduling.pools import IDLE_S, Lane, Worker
from pipeline.scheduling.streams import Stream

__all__ = ["Workforce"]


class Workforce:
    """Hands the calls of all streams to workers."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.backend = backend
        self.limits = limits
        self.lanes: list[Lane] = []
        self.streams: list[Stream] = []
        """All that were ever added."""
        self.at_work: list[Stream] = []
        """Those that have begun and not ended."""
        self.work = 0.0
        """Seconds of work that wait or run, in all lanes, at the last look."""
        self._by_flow: dict[int, Stream] = {}
        self._orders = 0
        self._workers = 0
        self._awake: dict[Lane, int] = {}
        """Lanes that may have calls to hand out, and their places in turn."""
        self._ranks: dict[Lane, int] = {}
        self._lanes_seen = 0
        self._touched: dict[int, Stream] = {}

    # Streams and their lanes ------------------------------------------------------------------

    def add(self, stream: Stream) -> None:
        """Take the lanes of a stream."""
        self.streams.append(stream)
        self._by_flow[id(stream.flow)] = stream
        for lane in stream.all_lanes:
            lane.users += 1
            if lane not in self.lanes:
                self.lanes.append(lane)
                self._ranks[lane] = self._lanes_seen = self._lanes_seen + 1

    def leave(self, stream: Stream) -> None:
        """Drop what waits for a stream that has ended, and the lanes that nobody else needs."""
        for lane in stream.all_lanes:
            lane.users -= 1
            lane.forget(stream.flow)
            if lane.users == 0:
                for worker in list(lane.workers):
                    self._dismiss(worker)
                self.lanes.remove(lane)
                self._awake.pop(lane, None)
                del self._ranks[lane]

    def stream_of(self, flow: Flow) -> Stream:
        """Return the stream of a flow."""
        return self._by_flow[id(flow)]

    def touch(self, stream: Stream) -> None:
        """Note that something has happened to a stream in this step."""
        self._touched[id(stream)] = stream

    def touch_all(self, lane: Lane) -> None:
        """Note that something has happened to all streams of a lane."""
        for stream in [self.stream_of(lane.flow)] if lane.flow is not None else self.at_work:
            self.touch(stream)

    def touched(self) -> list[Stream]:
        """Return the streams to which something has happened since this was asked last."""
        touched, self._touched = list(self._touched.values()), {}
        return touched

    # Calls ------------------------------------------------------------------------------------

    def call(self, stream: Stream, call: Call) -> None:
        """Let a call wait for a worker."""
        self._orders += 1
        call.order = self._orders
        if call.verb in ("keep", "load", "report"):
            lane = stream.sinks
        else:
            lane = stream.lanes[call.node.index]
        lane.push(call)
        self.wake(lane)

    def wake(self, lane: Lane) -> None:
        """Note that a lane may have something to hand out."""
        if lane in self._ranks:
            self._awake[lane] = self._ranks[lane]

    def hand_out(self) -> None:
        """Hand out the calls that wait, and start and give back workers."""
        now = self.backend.now()
        # Late stages first: what they end makes room.
        for lane in sorted(self._awake, key=self._awake.__getitem__, reverse=True):
            if lane.backlog:
                self._serve(lane, now)
            else:
                del self._awake[lane]

    def look(self) -> None:
        """Measure how much work there is, and give back workers that have none."""
        self.work = sum(lane.pending_s for lane in self.lanes)
        now = self.backend.now()
        for lane in self.lanes:
            if lane.kind == "pool":
                self._shrink(lane, now)

    def _serve(self, lane: Lane, now: float) -> None:
        for worker in lane.workers:
            worker.sealed = worker.sealed and bool(worker.calls)
        while (given := lane.next_call()) is not None:
            self._send(*given, now)
        for worker in lane.workers:
            worker.sealed = lane.light and bool(worker.calls)
        wanted = lane.wanted(self.limits.cores, self.limits.gpus, self.work)
        if lane.backlog and now >= lane.rest_until:
            for _ in range(wanted - len(lane.workers)):
                self.start(lane)

    def _send(self, worker: Worker, call: Call, alone: bool, now: float) -> None:
        if not worker.calls:
            worker.since = now
        worker.calls.append(call)
        worker.alone = alone
        stream = self.stream_of(call.flow)
        if call.verb not in ("keep", "load", "remake"):
            stream.hooks.sent(call.node)
        self.backend.send(worker, call)
        self._warm(stream, call)

    def _warm(self, stream: Stream, call: Call) -> None:
        """Start the first worker of what comes after a long call, so that it is up by then."""
        if call.verb == "finish" or call.node.kind == "whole":
            for node in call.node.consumers:
                lane = stream.lanes[node.index]
                if node.kind == "whole" and node.runs and not lane.workers:
                    self.start(lane)

    # Workers ----------------------------------------------------------------------------------

    def start(self, lane: Lane) -> None:
        """Start one more worker of a lane."""
        now = self.backend.now()
        self._workers += 1
        worker = Worker(self._workers, lane, since=now, started=now)
        lane.workers.append(worker)
        lane.done_s = 0.0
        places: dict[str, int] = {}
        if lane.flow is not None:
            flow = lane.flow
            places = {node.name: node.held for node in flow.nodes if node.kind == "fold"}
            places[flow.head.name] = flow.produced if flow.total is None else -1
        self.backend.start(worker, places)

    def part(self, worker: Worker) -> None:
        """Take a worker off its lane: it is gone, or goes."""
        worker.state = "gone"
        worker.lane.busy_s += worker.busy_s
        worker.calls.clear()
        worker.lane.workers.remove(worker)

    def stop(self, worker: Worker) -> None:
        """Let a worker close its stages and go."""
        self.part(worker)
        self.backend.stop(worker)

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        self.part(worker)
        self.backend.kill(worker)

    def send_home(self, stream: Stream, lane: Lane) -> None:
        """End the worker of a stream's stage that is through."""
        mine = [n for n in stream.flow.nodes if stream.lanes[n.index] is lane]
        if lane.kind in ("head", "fold") and all(node.settled for node in mine):
            for worker in list(lane.workers):
                if _has_done(worker):
                    self.stop(worker)

    def close(self, *, at_once: bool) -> None:
        """End every worker; `at_once` does not let the stages close, as a crash would."""
        for lane in self.lanes:
            for worker in lane.workers:
                (self.backend.kill if at_once else self.backend.stop)(worker)
            lane.workers = []

    def _dismiss(self, worker: Worker) -> None:
        """End a worker; one that is busy would first end its call."""
        ready = worker.state == "ready" and _has_done(worker)
        (self.stop if ready else self.kill)(worker)

    def _shrink(self, lane: Lane, now: float) -> None:
        """Give back workers that are idle, or more than this run may have now."""
        most = lane.bound(self.limits.cores, self.limits.gpus)
        for worker in sorted(lane.workers, key=lambda w: -len(w.calls))[most:]:
            worker.leaving = True
        for worker in list(lane.workers):
            if worker.leaving and not worker.calls and worker.state == "ready":
                self.stop(worker)
        idle = [w for w in lane.workers if w.state == "ready" and not w.calls]
        if lane.backlog or not idle:
            return
        expects = self._expects(lane)
        for worker in idle:
            # One stays for what may come; where nothing will, its process is free for others.
            long = now - worker.since > IDLE_S
            if not expects or (long and len(lane.workers) > 1):
                self.stop(worker)

    def _expects(self, lane: Lane) -> bool:
        """Whether a stream at work may still bring calls to a pool soon."""
        return any(
            stream.lanes.get(node.index) is lane
            and not node.settled
            and (node.kind == "clip" or stream.flow.total is not None)
            for stream in self.streams
            if not stream.ended
            for node in stream.flow.nodes
        )


def _has_done(worker: Worker) -> bool:
    """Whether a worker has no more to do; a head at its end answers what is left at once."""
    flow = worker.lane.flow
    at_end = worker.lane.kind == "head" and flow is not None and flow.total is not None
    return not worker.calls or (at_end and all(call.verb == "next" for call in worker.calls))
