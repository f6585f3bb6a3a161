"""The runner's mind: takes what has happened, decides which worker does what next.

Streams (`pipeline.flowing`) say which calls may be made, lanes (`pipeline.lanes`) how many
workers there should be. Here the two meet, and failures are dealt with:

- A worker that dies makes suspects of all calls it held. Each runs again alone with a worker;
  only a death while alone counts against a call, and after `attempts` of these the clip is given
  up: it costs itself only, and its reason stands in the run's errors.
- A call that passes its deadline ends its worker; the rest is as above.
- The worker of a stream-scoped stage is replaced by one that goes on from the last snapshot, or
  from the beginning of the stream, whose clips are then made again.
- What was lost from the object store is made again by the stages that made it.

A clip is admitted only when the object store has room for all that will be made of it, so bytes
are bounded at the decoder and everything behind it can always go on.

It knows no Ray: a `Backend` starts workers and carries calls. The simulator is another one.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.backend import Backend, Failure, Happening, Limits, Result, StreamHooks
from pipeline.errors import NAMED, OutputError, Reel3dError
from pipeline.flowing import FINISH, Call, Flow, Node, Outputs, Parcel
from pipeline.lanes import DEPTH, IDLE_S, Budget, Lane, Worker
from pipeline.messages import Actions
from pipeline.packing import Packed
from pipeline.telemetry import Loss

__all__ = ["Backend", "Failure", "Happening", "Limits", "Result", "Scheduler", "StreamHooks"]

STARTS = 5
"""Workers of a lane that may fail to come up one after the other."""
STARTING_S = 300.0
"""A worker that is not up after this does not come up: weights may have to be loaded."""
REST_S = 2.0
"""How long a lane waits for memory."""
STARVED_MORE = 3
"""Memory may run out through no fault of the clip: so many more attempts."""
LOSSES = 8
"""How often what one clip holds may be lost before the run stops trying."""
FIRST_GUESS = 6.0
"""Bytes that a clip holds with all that is made of it, over those of its frames: measured 5 with
flow and confidence; corrected by the first clip that is through."""

LOOK_S = 0.1
"""How often all streams and lanes are looked over. Between two looks a step deals only with those
to which something has happened: a thousand streams would cost 10 ms a step otherwise."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Stream:
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


def _poisonous(call: Call, why: str) -> str:
    times = max(call.kills, call.starved)
    return f"it ended its worker {times} times, the last time so: {why}"


class Scheduler:
    """Runs the streams to their ends."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.backend = backend
        self.limits = limits
        self.budget = Budget(limits.budget_bytes)
        self.lanes: list[Lane] = []
        self.streams: list[_Stream] = []
        self.deaths = 0
        self.began = backend.now()
        self._orders = 0
        self._workers = 0
        self._queue: list[_Stream] = []
        """Streams that have not begun."""
        self._active: list[_Stream] = []
        """Streams that have begun and not ended."""
        self._round: deque[_Stream] = deque()
        """Streams whose head may be asked, in turn."""
        self._counted = 0
        """Bytes that the clips of all streams will need."""
        self._touched: dict[int, _Stream] = {}
        """Streams to which something has happened in this step, by identity."""
        self._awake: dict[Lane, int] = {}
        """Lanes that have calls to hand out or workers to give back, and their places in turn."""
        self._ranks: dict[Lane, int] = {}
        self._lanes_seen = 0
        self._work = 0.0
        """Seconds of work that wait or run, in all lanes, at the last look."""
        self._next_look = 0.0
        self._gate: deque[tuple[_Stream, Call]] = deque()
        """Ends of streams that wait for room."""
        self._ending: dict[int, int] = {}
        """Streams that hold whole-stream messages, by identity, and their bytes so far."""
        self._ending_most = 0
        self._by_flow: dict[int, _Stream] = {}

    # Streams ----------------------------------------------------------------------------------

    def new_flow(self, **arguments: Any) -> Flow:
        """Return a flow whose calls come here."""
        return Flow(
            ready=self._ready,
            let_go=self._let_go,
            restart=self._restart,
            passed=self._passed,
            **arguments,
        )

    def add(self, flow: Flow, hooks: StreamHooks, lanes: dict[int, Lane], sinks: Lane) -> None:
        """Take a stream; `lanes` says where the calls of each of its stages go."""
        stream = _Stream(flow, hooks, lanes, sinks)
        self.streams.append(stream)
        self._by_flow[id(flow)] = stream
        for lane in {id(lane): lane for lane in (*lanes.values(), sinks)}.values():
            lane.users += 1
            if lane not in self.lanes:
                self.lanes.append(lane)
                self._ranks[lane] = self._lanes_seen = self._lanes_seen + 1
        self._queue.append(stream)
        self._let_in()

    def _let_in(self) -> None:
        """Begin as many streams as may run at one time; cameras do not wait."""
        for stream in list(self._queue):
            at_work = sum(not (s.ended or s.flow.live) for s in self._active)
            if not stream.flow.live and at_work >= max(2, round(self.limits.cores)):
                continue
            self._queue.remove(stream)
            self._active.append(stream)
            self._round.append(stream)
            self._touched[id(stream)] = stream
            stream.flow.begin()
            if not stream.ended:
                self._prepare(stream)

    def _prepare(self, stream: _Stream) -> None:
        """Start the first worker of each stage that a clip meets, all at one time.

        A camera's decoder comes when they are up: nothing it shows need wait for them.
        """
        now = self.backend.now()
        for node in stream.flow.nodes:
            lane = stream.lanes[node.index]
            clips = stream.flow.total is None and node.kind != "whole"
            if clips and not lane.workers and not (lane.kind == "head" and stream.flow.live):
                self._start(lane, now)

    def divide(self, cores: float, gpus: float) -> None:
        """Take that this run's part of the cluster is another one now."""
        if (cores, gpus) != (self.limits.cores, self.limits.gpus):
            self.limits = replace(self.limits, cores=cores, gpus=gpus)

    def states(self) -> list[tuple[Flow, str]]:
        """Return every stream and whether it is `waiting`, `running`, `made` or `failed`."""
        rows: list[tuple[Flow, str]] = []
        for stream in self.streams:
            state = "running" if stream.flow.produced or stream.flow.total == 0 else "waiting"
            rows.append((stream.flow, stream.end or state))
        return rows

    @property
    def busy(self) -> bool:
        """Whether any stream is not through."""
        return any(not stream.ended for stream in self.streams)

    def step(self, timeout_s: float) -> None:
        """Hand out what can be, wait for what happens, and deal with it."""
        self._look()
        self._dispatch()
        for happening in self.backend.wait(timeout_s):
            self._take(happening)
        self._settle()
        self._let_in()

    def end_head(self, flow: Flow) -> None:
        """End a camera: what it has given becomes the whole stream."""
        for worker in self._by_flow[id(flow)].lanes[0].workers:
            self.backend.end(worker)

    def call(self, flow: Flow, call: Call) -> None:
        """Let a call of the run itself (the report) wait for the stream's sinks."""
        self._call(self._by_flow[id(flow)], call)

    def close(self, *, at_once: bool = False) -> None:
        """End every worker; `at_once` does not let the stages close, as a crash would."""
        for lane in self.lanes:
            for worker in lane.workers:
                (self.backend.kill if at_once else self.backend.stop)(worker)
            lane.workers = []

    # Calls ------------------------------------------------------------------------------------

    def _ready(self, call: Call) -> None:
        stream = self._by_flow[id(call.flow)]
        # Events are small; what a reconstruction begins with may fill the store.
        large = call.verb == "finish" and set(call.node.job.link.ports.makes) - {Actions}
        if large and self._may_not_end(stream):
            self._gate.append((stream, call))
            return
        self._call(stream, call)

    def _call(self, stream: _Stream, call: Call) -> None:
        self._orders += 1
        call.order = self._orders
        if call.verb in ("keep", "load", "report"):
            lane = stream.sinks
        else:
            lane = stream.lanes[call.node.index]
        lane.push(call)
        self._wake(lane)

    def _let_go(self, packed: Packed) -> None:
        self.budget.let_go(packed)

    def _passed(self, flow: Flow, node: Node, parcel: Parcel) -> None:
        self._by_flow[id(flow)].hooks.passed(node, parcel)

    def _may_not_end(self, stream: _Stream) -> bool:
        """Whether what the end of a stream makes must wait for room in the object store."""
        if id(stream) in self._ending or not self._ending:
            self._ending.setdefault(id(stream), 0)
            return False
        needed = self._ending_most or self.limits.budget_bytes
        if self.budget.used_bytes + needed <= self.limits.budget_bytes:
            self._ending[id(stream)] = 0
            return False
        return True

    def _open_gate(self) -> None:
        for _ in range(len(self._gate)):
            stream, call = self._gate.popleft()
            if stream.ended:
                continue
            if self._may_not_end(stream):
                self._gate.appendleft((stream, call))
                return
            self._call(stream, call)

    # Handing out ------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        now = self.backend.now()
        self._open_gate()
        self._admit()
        for lane in sorted(self._awake, key=self._awake.__getitem__, reverse=True):
            if lane.backlog or (lane.kind == "pool" and lane.workers):
                self._serve(lane, now, self._work)
            else:
                del self._awake[lane]

    def _wake(self, lane: Lane) -> None:
        if lane in self._ranks:
            self._awake[lane] = self._ranks[lane]

    def _touch(self, lane: Lane) -> None:
        """Note that something has happened to all streams of a lane."""
        for stream in [self._by_flow[id(lane.flow)]] if lane.flow is not None else self._active:
            self._touched[id(stream)] = stream

    def _look(self) -> None:
        """Look all streams and lanes over, now and then."""
        now = self.backend.now()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        self._watch_deadlines()
        self._work = sum(lane.pending_s for lane in self.lanes)
        for stream in self._active:
            # What it can use depends on the workers that the others have, too.
            self._recount(stream)

    def _recount(self, stream: _Stream) -> None:
        """Take what a stream's clips need now; it may be able to use more of them."""
        committed = 0 if stream.ended else self._committed(stream)
        self._counted += committed - stream.counted
        stream.counted = committed
        if stream.parked and not stream.ended:
            stream.parked = False
            self._round.append(stream)

    def _admit(self) -> None:
        """Ask the heads for clips, in turn, while there is room for what becomes of them."""
        ending = sum(self._ending.values())
        refused = 0
        while self._round and refused < len(self._round):
            stream = self._round.popleft()
            flow = stream.flow
            if stream.ended or flow.total is not None or flow.head.over:
                continue
            if self._has_enough(stream):
                stream.parked = True
                continue
            self._round.append(stream)
            committed = self._counted + ending
            if committed and committed + stream.footprint > self.limits.budget_bytes:
                refused += 1
                continue
            refused = 0
            stream.asked += 1
            self._recount(stream)
            self._call(stream, Call(flow, flow.head, "next", place=flow.produced + stream.asked))

    def _has_enough(self, stream: _Stream) -> bool:
        """Whether a stream has as many clips under way as it can use."""
        pending = stream.flow.window + stream.asked
        return (
            stream.asked >= DEPTH
            or (not stream.footprint and pending > 0)
            or pending >= self._most_open(stream)
            or not (stream.asked or self._is_up(stream))
        )

    def _is_up(self, stream: _Stream) -> bool:
        """Whether a camera's clips would be taken at once; a file waits for nobody."""
        lanes = [stream.lanes[n.index] for n in stream.flow.nodes if n.waits_for_clips]
        return not stream.flow.live or all(
            any(worker.state == "ready" for worker in lane.workers) for lane in lanes
        )

    def _committed(self, stream: _Stream) -> int:
        return int((stream.flow.window + stream.asked) * stream.footprint)

    def _most_open(self, stream: _Stream) -> int:
        """Return how many clips of a stream may be under way: a few more than can be worked on."""
        lanes = {id(lane): lane for lane in stream.lanes.values()}.values()
        workers = sum(max(1, len(lane.workers)) for lane in lanes if lane.kind != "head")
        return self.limits.backlog + 2 * max(2, min(workers, 64))

    def _serve(self, lane: Lane, now: float, work: float) -> None:
        while (given := lane.next_call()) is not None:
            self._send(*given, now)
        wanted = lane.wanted(self.limits.cores, self.limits.gpus, work)
        if lane.backlog and now >= lane.rest_until:
            for _ in range(wanted - len(lane.workers)):
                self._start(lane, now)
        if lane.kind == "pool":
            self._shrink(lane, now)

    def _shrink(self, lane: Lane, now: float) -> None:
        """Give back workers that are idle, or more than this run may have now."""
        most = lane.bound(self.limits.cores, self.limits.gpus)
        for worker in sorted(lane.workers, key=lambda w: -len(w.calls))[most:]:
            worker.leaving = True
        for worker in list(lane.workers):
            if worker.leaving and not worker.calls and worker.state == "ready":
                self._part(worker)
                self.backend.stop(worker)
        if not lane.backlog:
            for worker in list(lane.workers):
                idle = worker.state == "ready" and not worker.calls and now - worker.since > IDLE_S
                if idle and (len(lane.workers) > 1 or not self._expects(lane)):
                    self._part(worker)
                    self.backend.stop(worker)

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

    def _start(self, lane: Lane, now: float) -> None:
        self._workers += 1
        worker = Worker(self._workers, lane, since=now, started=now)
        lane.workers.append(worker)
        places: dict[str, int] = {}
        if lane.flow is not None:
            flow = lane.flow
            places = {node.name: node.held for node in flow.nodes if node.kind == "fold"}
            places[flow.head.name] = flow.produced if flow.total is None else -1
        self.backend.start(worker, places)

    def _send(self, worker: Worker, call: Call, alone: bool, now: float) -> None:
        if not worker.calls:
            worker.since = now
        worker.calls.append(call)
        worker.alone = alone
        stream = self._by_flow[id(call.flow)]
        if call.verb not in ("keep", "load", "remake"):
            stream.hooks.sent(call.node)
        self.backend.send(worker, call)
        self._warm(stream, call, now)

    def _warm(self, stream: _Stream, call: Call, now: float) -> None:
        """Start the first worker of what comes after a long call, so that it is up by then."""
        if call.verb == "finish" or call.node.kind == "whole":
            for node in call.node.consumers:
                lane = stream.lanes[node.index]
                if node.kind == "whole" and node.runs and not lane.workers:
                    self._start(lane, now)

    # What happens -----------------------------------------------------------------------------

    def _take(self, happening: Happening) -> None:
        worker, call = happening.worker, happening.call
        if worker.state == "gone":
            return
        if call is None:
            self._touch(worker.lane)
        if happening.died:
            self._died(
                worker, happening.died, starved=happening.starved, untouched=happening.untouched
            )
            return
        now = self.backend.now()
        if call is None:
            self._started(worker, happening.result, now)
            return
        worker.calls.remove(call)
        worker.busy_s += now - worker.since
        worker.since, worker.alone = now, False
        stream = self._by_flow[id(call.flow)]
        self._touched[id(stream)] = stream
        if stream.ended:
            return
        if happening.missing:
            self._missing(stream, call)
            return
        assert happening.result is not None
        worker.lane.took(happening.result.seconds)
        self._finished(stream, call, happening.result)

    def _started(self, worker: Worker, result: Result | None, now: float) -> None:
        assert result is not None
        lane = worker.lane
        if result.failure is None:
            worker.state, worker.since = "ready", now
            worker.node = str((result.extra or {}).get("node", ""))
            lane.starts_failed = 0
            if lane.flow is not None:
                self._opened(self._by_flow[id(lane.flow)], lane, result)
            return
        # The stage itself says that it cannot work: that is the answer for all who use it.
        self._part(worker)
        self.backend.stop(worker)
        for stream in self.streams:
            nodes = [n for n in stream.flow.nodes if stream.lanes.get(n.index) is lane]
            for node in [] if stream.ended else nodes:
                named = result.extra
                if lane.kind != "sinks" or named in (None, node.name):
                    self._fail(stream, node, None, result.failure)
        if lane.kind == "sinks":
            lane.specs = tuple(spec for spec in lane.specs if spec.name != result.extra)

    def _opened(self, stream: _Stream, lane: Lane, result: Result) -> None:
        """Take where the stages of a new worker stand."""
        places: dict[str, Any] = result.extra or {}
        stream.hooks.opened(places)
        for node in stream.flow.nodes:
            if stream.lanes.get(node.index) is not lane or node.name not in places:
                continue
            if node.kind == "fold" and places[node.name] != node.held and not node.settled:
                # The snapshot was damaged or never there: the stage begins anew.
                self._take_back(lane, [node])
                node.held = places[node.name]
                stream.flow.rewind(node, node.held)
                stream.flow.advance(node)
        self._events(stream, result)

    def _finished(self, stream: _Stream, call: Call, result: Result) -> None:
        flow, node = stream.flow, call.node
        outputs = dict(result.outputs)
        again = call.parcel is not None and bool(call.parcel.again & node.bit)
        self._events(stream, result, again=again)
        stream.hooks.answered(result)
        for packed in outputs.values():
            if packed is not None:
                new = self.budget.hold(packed)
                self._own(stream, call, new, again=again)
        if call.verb == "next":
            self._new_clip(stream, result, outputs)
        elif call.verb == "report":
            stream.hooks.reported(result)
        elif result.failure is not None:
            self._fail(stream, node, call, result.failure)
        elif call.verb == "keep":
            node.keeping -= 1
            node.kept += result.extra
            if call.parcel is not None:
                flow.kept(call.parcel)
        else:
            self._count(call, result, again=again)
            if result.saved:
                flow.stands(node, call.place)
            elif node.kind == "fold" and call.verb == "process":
                node.forgetful = True
            if node.kind == "fold" and call.verb == "finish":
                node.kept = result.extra or []
            if call.verb != "load":
                self._keep(stream, call, outputs)
            flow.completed(call, outputs)
            if call.parcel is not None and node.kind == "clip" and not again:
                stream.hooks.dealt(node, call.parcel, result.seconds, None)
            self._measure(stream)

    def _new_clip(self, stream: _Stream, result: Result, outputs: Outputs) -> None:
        flow = stream.flow
        stream.asked -= 1
        if result.failure is not None:
            self._head_failed(stream, result.failure)
        elif not outputs:
            if flow.total is None:
                if not flow.produced:
                    text = f"{flow.source.shown} holds no frame that can be decoded"
                    self._end(stream, NAMED["SourceError"](text))
                    return
                stream.hooks.total(flow.produced)
                flow.end()
        elif flow.total is not None:
            for packed in outputs.values():
                if packed is not None:
                    self.budget.let_go(packed)
        else:
            (packed,) = outputs.values()
            assert packed is not None
            if not stream.known:
                stream.footprint = max(stream.footprint, FIRST_GUESS * packed.nbytes)
            stream.owned[flow.produced] = packed.nbytes
            name, remembered = result.extra
            parcel = flow.add_clip(outputs, name, remembered)
            stream.hooks.clip(parcel, result)

    def _own(self, stream: _Stream, call: Call, new: int, *, again: bool) -> None:
        if call.verb == "next" or again:
            return
        if call.parcel is not None and call.parcel.number in stream.owned:
            stream.owned[call.parcel.number] += new
        elif id(stream) in self._ending:
            self._ending[id(stream)] += new

    def _measure(self, stream: _Stream) -> None:
        """Learn what a clip holds from those that are through."""
        through = [number for number in stream.owned if number not in stream.flow.open]
        for number in through:
            owned = stream.owned.pop(number)
            stream.footprint = max(stream.footprint if stream.known else 0.0, owned)
            stream.known = True

    def _count(self, call: Call, result: Result, *, again: bool) -> None:
        job = call.node.job
        if result.meters is None and call.verb == "process" and not again:
            job.meter.items += 1
            job.meter.seconds += result.seconds

    def _events(self, stream: _Stream, result: Result, *, again: bool = False) -> None:
        if result.meters:
            jobs = {node.name: node.job for node in stream.flow.nodes if not node.settled}
            if not stream.flow.head.settled:
                jobs[stream.flow.decode.name] = stream.flow.decode
            for name in jobs.keys() & result.meters.keys():
                jobs[name].meter = result.meters[name]
        # What is made again was told the first time.
        for name, event in () if again else result.events:
            stream.hooks.tell(name, event)

    def _keep(self, stream: _Stream, call: Call, outputs: Outputs) -> None:
        """Have what stands for the whole stream written down for `--resume`."""
        node, parcel = call.node, call.parcel
        if node.kind != "whole" or not node.job.link.keeps or parcel is None:
            return
        arguments = {kind.__name__: packed for kind, packed in outputs.items() if packed}
        if arguments:
            node.keeping += 1
            self._call(stream, Call(stream.flow, node, "keep", parcel, arguments))

    def _missing(self, stream: _Stream, call: Call) -> None:
        """Something was lost from the object store."""
        parcel = call.parcel
        if parcel is not None and parcel.losses >= LOSSES:
            why = f"what it needs of {call.where} was lost {LOSSES} times"
            self._cost(stream, call, why)
        elif call.verb == "keep":
            call.node.keeping -= 1
            stream.flow.lost_kept(call)
        else:
            stream.flow.lost(call)

    # Failures ---------------------------------------------------------------------------------

    def _fail(self, stream: _Stream, node: Node, call: Call | None, failure: Failure) -> None:
        """Deal with an exception as the local runner does."""
        known = NAMED.get(failure.kind)
        job = node.job
        if known is not None and issubclass(known, OutputError):
            self._end(stream, known(failure.text))
            return
        if call is not None and call.verb in ("remake", "load", "keep", "report"):
            self._fail_apart(stream, call, failure)
            return
        stream.lanes[node.index].failures += 1
        if call is not None and call.parcel is not None and call.parcel.again & node.bit:
            self._lose(stream, call, f"it could not be made again: {failure.text}", failure.detail)
            return
        if node.kind == "head":
            self._head_failed(stream, failure)
            return
        if known is None:
            why = f"a bug in {job.name}: {failure.kind}: {' '.join(failure.text.split())}"
            why += "; errors.jsonl holds the traceback"
            if call is not None and node.kind == "clip" and call.verb == "process":
                self._lose(stream, call, why, failure.detail)
                return
            self._give_up(stream, node, "failed", why, failure.detail)
        else:
            state = "not made" if failure.kind == "PartNotMade" else "failed"
            self._give_up(stream, node, state, failure.text)

    def _fail_apart(self, stream: _Stream, call: Call, failure: Failure) -> None:
        """Deal with what went wrong beside the work of the stages."""
        node, flow = call.node, stream.flow
        if call.verb == "report":
            stream.hooks.reported(Result(failure=failure))
        elif call.verb == "remake":
            flow.decode.flawed = True
            self._lose(stream, call, f"it could not be decoded again: {failure.text}")
        elif call.verb == "load":
            self._end(
                stream,
                OutputError(
                    f"what {node.name} kept of {flow.source.shown} in an earlier run cannot be read "
                    f"({failure.text}): remove .reel3d in the output folder and run again"
                ),
            )
        else:
            # The run has it; another one with --resume would have to make it again.
            node.keeping -= 1
            node.job.flawed = True
            log.warning("%s: not kept for --resume: %s", node.name, failure.text)
            if call.parcel is not None:
                flow.kept(call.parcel)

    def _cost(self, stream: _Stream, call: Call, why: str) -> None:
        """Take that a call cannot be made: it costs its clip, or the stage its stream."""
        again = call.parcel is not None and bool(call.parcel.again & call.node.bit)
        whole = call.node.kind == "whole" and not again
        if call.verb == "process" and not whole:
            self._lose(stream, call, why)
        else:
            self._fail(stream, call.node, call, Failure(kind="WorkerDied", text=why))

    def _lose(self, stream: _Stream, call: Call, why: str, detail: str = "") -> None:
        """Give up one clip of one stage."""
        node, parcel = call.node, call.parcel
        assert parcel is not None
        loss = Loss(what=f"clip {parcel.name}", why=why, detail=detail)
        again = bool(parcel.again & node.bit)
        if not node.over:
            node.job.flawed = True
            (node.job.meter.losses if node.settled else node.lost).append(loss)
            node.job.meter.items += node.kind == "clip" and not again
        if node.kind == "fold":
            node.poison.add(call.place)
        if node.kind in ("clip", "fold") and parcel.number < FINISH and not again:
            stream.hooks.dealt(node, parcel, 0.0, loss)
        stream.flow.completed(call, {})

    def _give_up(self, stream: _Stream, node: Node, state: str, why: str, detail: str = "") -> None:
        if node.over or node.settled:
            return
        job = node.job
        job.state, job.flawed = state, state == "failed"
        node.lost.append(Loss(what=job.makes_shown, why=why, detail=detail))
        self._take_back(stream.lanes[node.index], [node])
        stream.flow.give_up(node)

    def _head_failed(self, stream: _Stream, failure: Failure) -> None:
        flow = stream.flow
        known = NAMED.get(failure.kind)
        text = failure.text if known else f"{failure.kind}: {failure.text}"
        if not flow.produced:
            if known is None or failure.kind == "WorkerDied":
                text = f"{flow.source.shown} cannot be decoded: {text}"
                known = NAMED["SourceError"]
            self._end(stream, known(text))
            return
        if flow.total is not None:
            return
        why = f"the decoder failed there: {text}"
        flow.head.lost.append(Loss(what="the rest of the video", why=why))
        flow.head.job.flawed = flow.decode.flawed = True
        stream.hooks.total(flow.produced)
        flow.end()

    def _died(
        self, worker: Worker, why: str, *, starved: bool = False, untouched: bool = False
    ) -> None:
        lane, calls = worker.lane, list(worker.calls)
        began = worker.state == "ready"
        alone = worker.alone and not untouched
        self._part(worker)
        self._touch(lane)
        self._wake(lane)
        self.deaths += 1
        lane.failures += 1
        log.warning("a worker of %s is gone: %s", lane.name, why)
        if starved:
            lane.rest_until = self.backend.now() + REST_S
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
            stream = self._by_flow[id(call.flow)]
            if stream.ended:
                continue
            if call.verb == "next":
                stream.asked -= 1
                if place == 0 and not untouched:
                    self._next_died(stream, why, starved=starved)
                continue
            if self._is_poison(call, alone=alone, starved=starved):
                self._cost(stream, call, _poisonous(call, why))
            elif call.node.over and call.verb == "process":
                stream.flow.completed(call, {})
            else:
                lane.suspects.append(call)

    def _is_poison(self, call: Call, *, alone: bool, starved: bool) -> bool:
        """Count a death against a call; say whether these are too many."""
        call.starved += starved
        call.kills += alone and not starved
        return max(call.kills, call.starved - STARVED_MORE) >= self.limits.attempts

    def _next_died(self, stream: _Stream, why: str, *, starved: bool) -> None:
        """The decoder died on its way to the next clip."""
        head, place = stream.flow.head, stream.flow.produced
        if head.stuck_at is None or head.stuck_at.place != place:
            head.stuck_at = Call(stream.flow, head, "next", place=place)
        if self._is_poison(head.stuck_at, alone=True, starved=starved):
            self._head_failed(stream, Failure(kind="WorkerDied", text=why))

    def _fold_died(
        self, lane: Lane, calls: list[Call], why: str, *, alone: bool, starved: bool
    ) -> None:
        """Send the stages of a lost worker back to their snapshots."""
        flow = lane.flow
        assert flow is not None
        stream = self._by_flow[id(flow)]
        if stream.ended:
            return
        lane.careful = max([lane.careful, *(call.place for call in calls)])
        ran = calls[0] if calls else None
        nodes = self._send_back(stream, lane, calls[1:])
        if ran is not None and ran.verb in ("keep", "load", "report"):
            if self._is_poison(ran, alone=alone, starved=starved):
                self._cost(stream, ran, _poisonous(ran, why))
            else:
                self._call(stream, ran)
        elif ran is not None:
            node = ran.node
            if node.stuck_at is None or node.stuck_at.place != ran.place:
                node.stuck_at = ran
            if self._is_poison(node.stuck_at, alone=alone, starved=starved):
                self._cost(stream, ran, _poisonous(node.stuck_at, why))
        for node in nodes:
            flow.advance(node)

    def _send_back(
        self, stream: _Stream, lane: Lane, calls: list[Call], also: Node | None = None
    ) -> list[Node]:
        """Send the stages of a stream's lane back; what else its worker had to do waits again."""
        flow = stream.flow
        mine = [n for n in flow.nodes if stream.lanes[n.index] is lane and n.runs]
        nodes = [n for n in mine if not n.settled or n is also]
        self._take_back(lane, nodes)
        for call in calls:
            if call.verb in ("keep", "load", "report"):
                self._call(stream, call)
        for node in nodes:
            flow.rewind(node, node.saved)
        return nodes

    def _take_back(self, lane: Lane, nodes: list[Node]) -> None:
        """Drop the calls of stages that wait for a worker, or for room."""

        def theirs(call: Call) -> bool:
            return call.node in nodes and call.verb in ("process", "finish")

        lane.take_back(theirs)
        self._gate = deque(entry for entry in self._gate if not theirs(entry[1]))

    def _restart(self, node: Node) -> None:
        """Replace a stream-scoped stage's worker by one that goes on from the last snapshot."""
        stream = next(s for s in self.streams if node in s.flow.nodes)
        lane = stream.lanes[node.index]
        if node.settled:
            # Its snapshots were removed when it was through.
            node.saved = node.held = 0
        calls: list[Call] = []
        for worker in list(lane.workers):
            calls += worker.calls
            self._part(worker)
            self.backend.kill(worker)
        for sent_back in self._send_back(stream, lane, calls, also=node):
            stream.flow.advance(sent_back)

    def _cannot_start(self, lane: Lane, why: str) -> None:
        for stream in self.streams:
            for node in stream.flow.nodes:
                if not stream.ended and stream.lanes.get(node.index) is lane and node.runs:
                    text = f"no worker of it comes up: {why}"
                    self._fail(stream, node, None, Failure(kind="WorkerDied", text=text))
        lane.starts_failed = 0
        for call in lane.take_back(lambda call: call.verb != "next"):
            stream = self._by_flow[id(call.flow)]
            if not stream.ended:
                self._cost(stream, call, f"no worker of it comes up: {why}")

    def _watch_deadlines(self) -> None:
        now = self.backend.now()
        for lane in list(self.lanes):
            for worker in list(lane.workers):
                if worker.state == "starting" and now - worker.started > STARTING_S:
                    self.backend.kill(worker)
                    self._died(worker, f"it was not up after {STARTING_S:g} s", starved=False)
                    continue
                limit = lane.deadline_of(worker.calls[0]) if worker.calls else None
                if limit is not None and now - worker.since > limit:
                    self.backend.kill(worker)
                    why = f"{lane.name} gave no sign of life for {limit:g} s"
                    self._died(worker, f"{why} and was ended", starved=False)

    def _dismiss(self, worker: Worker) -> None:
        """End a worker; one that is busy would first end its call."""
        ready = worker.state == "ready" and not worker.calls
        self._part(worker)
        if ready:
            self.backend.stop(worker)
        else:
            self.backend.kill(worker)

    def _part(self, worker: Worker) -> None:
        worker.state = "gone"
        worker.lane.busy_s += worker.busy_s
        worker.calls.clear()
        worker.lane.workers.remove(worker)

    # Ends -------------------------------------------------------------------------------------

    def _settle(self) -> None:
        touched, self._touched = list(self._touched.values()), {}
        for stream in touched:
            self._recount(stream)
            if stream.ended:
                continue
            flow = stream.flow
            for node in flow.nodes:
                if not node.settled and flow.is_through(node):
                    node.settled = True
                    stream.hooks.settle(node)
                    self._send_home(stream, stream.lanes[node.index])
                    sinks = stream.sinks
                    sinks.specs = tuple(spec for spec in sinks.specs if spec.name != node.name)
            if flow.over and not flow.told:
                flow.told = True
                stream.hooks.ended(None)

    def _send_home(self, stream: _Stream, lane: Lane) -> None:
        """End the worker of a stream's stage that is through."""
        mine = [n for n in stream.flow.nodes if stream.lanes[n.index] is lane]
        if lane.kind in ("head", "fold") and all(node.settled for node in mine):
            for worker in list(lane.workers):
                if not worker.calls:
                    self._part(worker)
                    self.backend.stop(worker)

    def _end(self, stream: _Stream, error: Reel3dError) -> None:
        """Stop a stream that cannot go on."""
        stream.ended, stream.end = True, "failed"
        self._leave(stream)
        stream.hooks.ended(error)

    def finish_stream(self, flow: Flow) -> None:
        """Take that the run of a stream is concluded."""
        stream = self._by_flow[id(flow)]
        stream.ended, stream.end = True, "made"
        self._leave(stream)

    def _leave(self, stream: _Stream) -> None:
        if stream in self._active:
            self._active.remove(stream)
        elif stream in self._queue:
            self._queue.remove(stream)
        self._ending_most = max(self._ending_most, self._ending.pop(id(stream), 0))
        for parcel in stream.flow.parcels.values():
            for outputs in parcel.outputs.values():
                for kind, packed in outputs.items():
                    if packed is not None:
                        self.budget.let_go(packed)
                        outputs[kind] = None
        for lane in {id(lane): lane for lane in (*stream.lanes.values(), stream.sinks)}.values():
            lane.users -= 1
            lane.forget(stream.flow)
            if lane.users == 0:
                for worker in list(lane.workers):
                    self._dismiss(worker)
                self.lanes.remove(lane)
                self._awake.pop(lane, None)
                del self._ranks[lane]
        self._recount(stream)
