"""Event loop of the cluster runner: applies worker events and dispatches ready tasks.

`pipeline.scheduling.dataflow` says which tasks of a stream are ready. These decide what happens:

- `pipeline.scheduling.admission`: which stream may begin its next clip, so that bytes stay bounded.
- `pipeline.scheduling.worker_manager`: which worker takes which task, by the policy of
  `pipeline.scheduling.pools`.
- `pipeline.scheduling.worker_failures`: what happens to the tasks of a worker that died or hung.
- `pipeline.scheduling.stage_failures`: what an exception or a poison clip costs.

None of them imports Ray: a `Backend` starts workers and carries tasks. The simulator is another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.errors import NAMED, Reel3dError
from pipeline.scheduling.admission import Admission
from pipeline.scheduling.backend import Backend, Failure, Happening, Limits, Result, StreamHooks
from pipeline.scheduling.dataflow import Call, Flow, Node, Outputs, Parcel
from pipeline.scheduling.object_store_budget import Budget
from pipeline.scheduling.pools import Lane, Worker
from pipeline.scheduling.stage_failures import Failures
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.worker_failures import Deaths
from pipeline.scheduling.worker_manager import Workforce
from pipeline.worker.serialization import Packed

__all__ = ["Backend", "Failure", "Happening", "Limits", "Result", "Scheduler", "StreamHooks"]

LOOK_S = 0.1
"""How often all streams and lanes are looked over. Between two looks a step deals only with those
to which something has happened: a thousand streams would cost 10 ms a step otherwise."""


class Scheduler:
    """Runs the streams to their ends."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.budget = Budget(limits.budget_bytes)
        self.began = backend.now()
        self._workforce = Workforce(backend, limits)
        self._admission = Admission(self._workforce, self.budget)
        self._failures = Failures(self._workforce, self._admission, self._end)
        self._deaths = Deaths(self._workforce, self._admission, self._failures)
        self._queue: list[Stream] = []
        """Streams that have not begun."""
        self._next_look = 0.0
        self._gone: list[Call] = []
        """Clips of cameras that were lost: what has been shown does not come again."""

    # Streams ----------------------------------------------------------------------------------

    def new_flow(self, **arguments: Any) -> Flow:
        """Return a flow whose calls come here."""
        return Flow(
            ready=self._ready,
            let_go=self._let_go,
            restart=self._deaths.restart,
            passed=self._passed,
            **arguments,
        )

    def add(self, flow: Flow, hooks: StreamHooks, lanes: dict[int, Lane], sinks: Lane) -> None:
        """Take a stream; `lanes` says where the calls of each of its stages go."""
        stream = Stream(flow, hooks, lanes, sinks)
        self._workforce.add(stream)
        self._queue.append(stream)
        self._let_in()

    def finish_stream(self, flow: Flow) -> None:
        """Take that the run of a stream is concluded."""
        stream = self._workforce.stream_of(flow)
        stream.ended, stream.end = True, "made"
        self._leave(stream)

    def end_head(self, flow: Flow) -> None:
        """End a camera: what it has given becomes the whole stream."""
        for worker in self._workforce.stream_of(flow).lanes[0].workers:
            self._workforce.backend.end(worker)

    def call(self, flow: Flow, call: Call) -> None:
        """Let a call of the run itself (the report) wait for the stream's sinks."""
        self._workforce.call(self._workforce.stream_of(flow), call)

    def divide(self, cores: float, gpus: float) -> None:
        """Take that this run's part of the cluster is another one now."""
        if (cores, gpus) != (self.limits.cores, self.limits.gpus):
            self._workforce.limits = replace(self.limits, cores=cores, gpus=gpus)

    def close(self, *, at_once: bool = False) -> None:
        """End every worker; `at_once` does not let the stages close, as a crash would."""
        self._workforce.close(at_once=at_once)

    # What it knows ----------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """What the run may use now."""
        return self._workforce.limits

    @property
    def lanes(self) -> list[Lane]:
        """The lanes of all streams at work."""
        return self._workforce.lanes

    @property
    def streams(self) -> list[Stream]:
        """All streams that were ever added."""
        return self._workforce.streams

    @property
    def deaths(self) -> int:
        """How many workers have died."""
        return self._deaths.count

    @property
    def busy(self) -> bool:
        """Whether any stream is not through."""
        return any(not stream.ended for stream in self.streams)

    def states(self) -> list[tuple[Flow, str]]:
        """Return every stream and whether it is `waiting`, `running`, `made` or `failed`."""
        rows: list[tuple[Flow, str]] = []
        for stream in self.streams:
            state = "running" if stream.flow.produced or stream.flow.total == 0 else "waiting"
            rows.append((stream.flow, stream.end or state))
        return rows

    # A step -----------------------------------------------------------------------------------

    def step(self, timeout_s: float) -> None:
        """Hand out what can be, wait for what happens, and deal with it."""
        self._look()
        self._give_up_gone()
        self._admission.open_gate()
        self._admission.admit()
        self._workforce.hand_out()
        for happening in self._workforce.backend.wait(timeout_s):
            self._take(happening)
        self._settle()
        self._let_in()

    def _look(self) -> None:
        """Look all streams and lanes over, now and then."""
        now = self._workforce.backend.now()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        self._deaths.watch_deadlines()
        self._workforce.look()
        for stream in self._workforce.at_work:
            # What it can use depends on the workers that the others have, too.
            self._admission.recount(stream)
            if stream.flow.live and not stream.flow.produced:
                # A worker that died before it had a call is missed by nobody else.
                self._prepare(stream)

    def _give_up_gone(self) -> None:
        gone, self._gone = self._gone, []
        for call in gone:
            stream = self._workforce.stream_of(call.flow)
            if not stream.ended:
                self._failures.cost(stream, call, "a camera does not show it again")

    def _let_in(self) -> None:
        """Begin as many streams as may run at one time; cameras do not wait."""
        for stream in list(self._queue):
            at_work = sum(not (s.ended or s.flow.live) for s in self._workforce.at_work)
            if not stream.flow.live and at_work >= max(2, round(self.limits.cores)):
                continue
            self._queue.remove(stream)
            self._workforce.at_work.append(stream)
            self._admission.begin(stream)
            self._workforce.touch(stream)
            stream.flow.begin()
            if not stream.ended:
                self._prepare(stream)

    def _prepare(self, stream: Stream) -> None:
        """Start the first worker of each stage that a clip meets, all at one time.

        A camera's decoder comes when they are up: nothing it shows need wait for them.
        """
        for node in stream.flow.nodes:
            lane = stream.lanes[node.index]
            clips = stream.flow.total is None and node.kind != "whole"
            if clips and not lane.workers and not (lane.kind == "head" and stream.flow.live):
                self._workforce.start(lane)

    # What the flows tell ----------------------------------------------------------------------

    def _ready(self, call: Call) -> None:
        if call.verb == "remake" and call.flow.live:
            self._gone.append(call)
            return
        self._admission.pass_gate(self._workforce.stream_of(call.flow), call)

    def _let_go(self, packed: Packed) -> None:
        self.budget.let_go(packed)

    def _passed(self, flow: Flow, node: Node, parcel: Parcel) -> None:
        self._workforce.stream_of(flow).hooks.passed(node, parcel)

    # What happens -----------------------------------------------------------------------------

    def _take(self, happening: Happening) -> None:
        worker, call = happening.worker, happening.call
        if worker.state == "gone":
            return
        if call is None:
            self._workforce.touch_all(worker.lane)
        if happening.died:
            self._deaths.died(
                worker, happening.died, starved=happening.starved, untouched=happening.untouched
            )
            return
        now = self._workforce.backend.now()
        if call is None:
            self._started(worker, happening.result, now)
            return
        worker.calls.remove(call)
        worker.busy_s += now - worker.since
        worker.since, worker.alone = now, False
        stream = self._workforce.stream_of(call.flow)
        self._workforce.touch(stream)
        if stream.ended:
            return
        if happening.missing:
            self._failures.missing(stream, call)
            return
        assert happening.result is not None
        worker.lane.took(happening.result.seconds, happening.result.stored_s)
        self._finished(stream, call, happening.result)

    def _started(self, worker: Worker, result: Result | None, now: float) -> None:
        assert result is not None
        lane = worker.lane
        if result.failure is None:
            worker.state, worker.since = "ready", now
            worker.node = str((result.extra or {}).get("node", ""))
            lane.starts_failed = 0
            if lane.flow is not None:
                stream = self._workforce.stream_of(lane.flow)
                stream.hooks.opened(result.extra or {})
                self._deaths.opened(stream, lane, result)
                self._events(stream, result)
            return
        # The stage itself says that it cannot work: that is the answer for all who use it.
        self._workforce.stop(worker)
        for stream in self.streams:
            nodes = [n for n in stream.flow.nodes if stream.lanes.get(n.index) is lane]
            for node in [] if stream.ended else nodes:
                named = result.extra
                if lane.kind != "sinks" or named in (None, node.name):
                    self._failures.fail(stream, node, None, result.failure)
        if lane.kind == "sinks":
            lane.specs = tuple(spec for spec in lane.specs if spec.name != result.extra)

    def _finished(self, stream: Stream, call: Call, result: Result) -> None:
        flow, node = stream.flow, call.node
        outputs = dict(result.outputs)
        again = call.parcel is not None and bool(call.parcel.again & node.bit)
        self._events(stream, result, again=again)
        stream.hooks.answered(result)
        for packed in outputs.values():
            if packed is not None:
                new = self.budget.hold(packed)
                if call.verb != "next" and not again:
                    self._admission.own(stream, call, new)
        if call.verb == "next":
            self._new_clip(stream, result, outputs)
        elif call.verb == "report":
            stream.hooks.reported(result)
        elif result.failure is not None:
            self._count(call, result, again=again)
            self._failures.fail(stream, node, call, result.failure)
        elif call.verb == "keep":
            node.keeping -= 1
            node.kept += [name for name in result.extra if name not in node.kept]
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
            self._admission.learn(stream)

    def _new_clip(self, stream: Stream, result: Result, outputs: Outputs) -> None:
        flow = stream.flow
        stream.asked -= 1
        if result.failure is not None:
            self._failures.head_failed(stream, result.failure)
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
            self._admission.guess(stream, packed.nbytes)
            name, remembered = result.extra
            parcel = flow.add_clip(outputs, name, remembered)
            stream.hooks.clip(parcel, result)

    def _count(self, call: Call, result: Result, *, again: bool) -> None:
        job = call.node.job
        mine = result.meters is None and not call.node.over
        if mine and call.verb == "process" and not again:
            job.meter.items += 1
            job.meter.seconds += result.seconds

    def _events(self, stream: Stream, result: Result, *, again: bool = False) -> None:
        if result.meters:
            # Calls that were on their way when a stage was given up count for nothing.
            nodes = [n for n in stream.flow.nodes if not (n.settled or n.over)]
            jobs = {node.name: node.job for node in nodes}
            if not stream.flow.head.settled:
                jobs[stream.flow.decode.name] = stream.flow.decode
            for name in jobs.keys() & result.meters.keys():
                jobs[name].meter = result.meters[name]
        # What is made again was told the first time.
        for name, event in () if again else result.events:
            stream.hooks.tell(name, event)

    def _keep(self, stream: Stream, call: Call, outputs: Outputs) -> None:
        """Have what stands for the whole stream written down for `--resume`."""
        node, parcel = call.node, call.parcel
        if node.kind != "whole" or not node.job.link.keeps or parcel is None:
            return
        arguments = {kind.__name__: packed for kind, packed in outputs.items() if packed}
        if arguments:
            node.keeping += 1
            self._workforce.call(stream, Call(stream.flow, node, "keep", parcel, arguments))

    # Ends -------------------------------------------------------------------------------------

    def _settle(self) -> None:
        for stream in self._workforce.touched():
            self._admission.recount(stream)
            if stream.ended:
                continue
            flow = stream.flow
            for node in flow.nodes:
                if not node.settled and flow.is_through(node):
                    node.settled = True
                    stream.hooks.settle(node)
                    self._workforce.send_home(stream, stream.lanes[node.index])
                    sinks = stream.sinks
                    sinks.specs = tuple(spec for spec in sinks.specs if spec.name != node.name)
            if flow.over and not flow.told:
                flow.told = True
                stream.hooks.ended(None)

    def _end(self, stream: Stream, error: Reel3dError) -> None:
        """Stop a stream that cannot go on."""
        stream.ended, stream.end = True, "failed"
        self._leave(stream)
        stream.hooks.ended(error)

    def _leave(self, stream: Stream) -> None:
        if stream in self._workforce.at_work:
            self._workforce.at_work.remove(stream)
        elif stream in self._queue:
            self._queue.remove(stream)
        for parcel in stream.flow.parcels.values():
            for outputs in parcel.outputs.values():
                for kind, packed in outputs.items():
                    if packed is not None:
                        self.budget.let_go(packed)
                        outputs[kind] = None
        self._workforce.leave(stream)
        self._admission.leave(stream)
