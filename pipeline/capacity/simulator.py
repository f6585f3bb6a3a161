"""The scheduler itself in virtual time: what a run would do on machines that one does not have.

`pipeline.scheduling.scheduler.Scheduler` runs as it is; only its backend is another one. Workers
are rows of calls on machines that share their cores in time (`pipeline.capacity.machines`), objects
are sizes, and every call takes what `pipeline.capacity.cost_model` says. The driver's own time
passes too, call by call, so a run with too many streams for one driver is slow here as it would be
there.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.capacity.cost_model import Costs
from pipeline.capacity.machines import Machine
from pipeline.capacity.stream_hooks import Hooks
from pipeline.capacity.task_costs import CallCosts
from pipeline.capacity.workload import Load, Passed, Site
from pipeline.chain import Chain
from pipeline.config import RunOptions
from pipeline.contract.source import Source
from pipeline.errors import UsageError
from pipeline.scheduling.backend import Happening, Limits, Result
from pipeline.scheduling.dataflow import Call
from pipeline.scheduling.placement import lanes_of
from pipeline.scheduling.policy import (
    MOST,
    REST_S,
    SIDE_BY_SIDE,
    SMALLEST_SHARE,
    STAGES,
    STORE_SHARE,
)
from pipeline.scheduling.pools import Lane, Worker
from pipeline.scheduling.scheduler import Scheduler
from pipeline.storage.plan import Job

__all__ = ["Simulation"]

STEP_S = 0.25
JOINING_SHARE = 0.25
"""What one more call in the same letter costs, of what carrying a call alone costs."""
CAMERA_BUFFER_S = 0.5
"""Pictures that a camera's reader keeps for a decoder that is late; older ones are dropped."""


@dataclass(eq=False)
class _Desk:
    """A worker's calls on its machine."""

    worker: Worker
    machine: Machine
    cpus: float
    gpus: float
    calls: deque[tuple[Call, float, float]] = field(
        default_factory=deque[tuple[Call, float, float]]
    )
    """With the time at which all that a call reads has arrived, and its share of what carrying
    one costs."""
    began: float = 0.0
    filmed: float | None = None
    """When the last picture was taken of the clip that a camera's decoder works on."""
    own: float = 1.0
    """Share of the call's time that is the stage's own."""
    stored_bytes: int = 0
    waited_s: float = 0.0
    """How long the call waited for a camera."""
    gone: bool = False
    process: bool = False
    """Whether there is a process already."""
    opened: set[str] = field(default_factory=set[str])
    """Stages that it has opened."""


class Simulation:
    """A run of one driver; it is the scheduler's backend."""

    def __init__(
        self,
        chain: Chain,
        options: RunOptions,
        load: Load,
        site: Site,
        costs: Costs,
        *,
        alone: bool | None = None,
    ) -> None:
        """Set up the machines and streams; nothing has begun.

        Args:
            chain: The stages of every stream.
            options: Of the run.
            load: The streams.
            site: The machines.
            costs: What a call takes.
            alone: There is one stream only: its decoder may have all threads.

        Raises:
            UsageError: The costs lack those of a stage, or it fits on no machine.
        """
        self.load, self.site, self.costs = load, site, costs
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._ready: deque[Happening] = deque()
        self._ready_s = 0.0
        """The driver's time for what is ready."""
        self._posted: set[int] = set()
        """Workers that got a call since the driver waited last."""
        self._desks: dict[int, _Desk] = {}
        self._there: Counter[str] = Counter()
        self._waiting: deque[Worker] = deque()
        self._spares: list[_Desk] = []
        """Processes that rest."""
        self._random = random.Random(0)
        runtime = costs.runtime
        self._machines = [
            Machine(
                n,
                site.shape,
                free=site.free,
                crowding=runtime.crowding,
                network_bytes_s=site.network_bytes_s,
            )
            for n in range(site.shape.count)
        ]
        self._scale = min(1.0, site.cpus / (SIDE_BY_SIDE * STAGES))
        self._takes = CallCosts(load, costs)
        self._clip_s, self._clips = self._takes.clip_s, self._takes.clips
        self._made: Counter[int] = Counter()
        self._filmed: dict[int, float] = {}
        self._stopped: set[int] = set()
        self._alone = load.streams == 1 if alone is None else alone
        self.passed = Passed()
        self.through: list[tuple[float, float]] = []
        """Every clip that is through all stages: when, and how long after its last picture."""
        self.made_at: list[float] = []
        """When each clip came from its decoder."""
        self.seen: set[int] = set()
        """Streams that have shown a clip, by identity of their flow."""
        self.lane_stages: dict[str, tuple[str, ...]] = {}
        """Which stages work in the workers of a lane."""
        self._born: dict[int, dict[int, float]] = {}
        self._awaited: list[Call] = []
        self.limits = Limits(
            cores=max(1.0, site.cpus),
            gpus=site.gpus,
            budget_bytes=options.budget_mb * 10**6
            if options.budget_mb
            else int(STORE_SHARE * site.store_bytes * site.shape.count),
            attempts=options.attempts,
            backlog=options.prefetch,
        )
        self.scheduler = Scheduler(self, self.limits)
        links = (*chain.head, *chain.body)
        self._stages = {link.name: costs.of(link.name) for link in links[1:]}
        if chain.report is not None:
            self._stages[chain.report.name] = costs.of(chain.report.name)
        pools: dict[str, Lane] = {}
        self.pools: set[str] = set()
        """Lanes that all streams share."""
        for number in range(load.streams):
            jobs = [Job(link, link.name) for link in links]
            name = f"stream{number:04d}"
            source = Source(uri=name, shown=name, name=name)
            flow = self.scheduler.new_flow(jobs=jobs, source=source, live=load.seconds is None)
            self._born[id(flow)] = {}
            hooks = Hooks(self, flow, chain.report)
            lanes, sinks = lanes_of(flow, jobs, chain.report, options, pools, alone=self._alone)
            for lane in (*lanes.values(), sinks):
                self._check(lane)
            self.scheduler.add(flow, hooks, lanes, sinks)

    def _check(self, lane: Lane) -> None:
        """Note a lane, and that its workers find room somewhere."""
        if lane.name in self.lane_stages:
            return
        self.lane_stages[lane.name] = tuple(
            spec.name for spec in lane.specs if spec.name in self._stages
        )
        if lane.kind == "pool":
            self.pools.add(lane.name)
        # Of CPUs it never claims more than a machine has.
        _, gpus = self._claim(lane)
        if gpus > self.site.shape.gpus:
            raise UsageError(
                f"a worker of {lane.name} asks for {gpus:g} GPUs of one machine, and these have "
                f"{self.site.shape.gpus:g}: no worker would ever start; plan with other machines "
                "(--gpus or --nodes)"
            )

    @property
    def under_way(self) -> int:
        """Clips that have been made and are not through."""
        return sum(stream.flow.window for stream in self.scheduler.streams)

    def run(self, until_s: float = math.inf) -> None:
        """Let virtual time pass until then, or until all streams are through."""
        while self.scheduler.busy and self._now < until_s:
            self.scheduler.step(STEP_S)

    def look(self) -> Passed:
        """Return a copy of what has happened so far."""
        self._account()
        self.passed.cores_s = sum(machine.busy_s for machine in self._machines)
        self.passed.into_bytes = [machine.into_bytes for machine in self._machines]
        self.passed.out_bytes = [machine.out_bytes for machine in self._machines]
        return self.passed.copy()

    def spend(self, seconds: float) -> None:
        """Let the driver work."""
        self._now += seconds
        self.passed.driver_s += seconds

    def end_stream(self) -> None:
        """Let the driver conclude a stream."""
        self.spend(self.costs.runtime.driver_stream_s)

    # The scheduler's backend ------------------------------------------------------------------

    def now(self) -> float:
        """Return the virtual time, s."""
        return self._now

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        """Place a worker; without room it waits, as Ray's actors do."""
        del places
        self.spend(self.costs.runtime.driver_call_s)
        self._waiting.append(worker)
        self._place()

    def send(self, worker: Worker, call: Call) -> None:
        """Take a call into the worker's row; what it reads is fetched at once."""
        # Light calls that leave in the same moment travel together.
        joins = worker.lane.light and worker.number in self._posted
        self._posted.add(worker.number)
        share = JOINING_SHARE if joins else 1.0
        self.spend(share * self.costs.runtime.driver_call_s / 2)
        desk = self._desks[worker.number]
        arrives = self._now
        for packed in call.arguments.values():
            for ref in packed.refs:
                if desk.machine.number not in ref.places:
                    holders = [self._machines[place] for place in sorted(ref.places)]
                    arrives = max(arrives, desk.machine.fetch(self._now, ref, holders))
        desk.calls.append((call, arrives, share))
        if len(desk.calls) == 1:
            self._at(arrives, lambda: self._begin(desk))

    def stop(self, worker: Worker) -> None:
        """End a worker; its process may take other stages, as in `pipeline.cluster.idle_actors`."""
        desk = self._desks.get(worker.number)
        self._forget(worker)
        rests = self._may_rest(worker.lane) and len(self._spares) < MOST
        if desk and desk.process and rests:
            desk.began = self._now
            self._spares.append(desk)

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        self._forget(worker)

    def end(self, worker: Worker) -> None:
        """End a camera."""
        self._stopped.add(id(worker.lane.flow))

    def wait(self, timeout_s: float) -> list[Happening]:
        """Let time pass until something happens."""
        self._note_through()
        self._posted.clear()
        until = self._now + timeout_s
        while self._events and (self._events[0][0] <= self._now or not self._ready):
            if self._events[0][0] > until:
                break
            at, _, what = heapq.heappop(self._events)
            # What happened while the driver was at work lies before its own time.
            self._virtual = at
            what()
            if self._ready:
                self._now = max(self._now, at)
        if not self._ready:
            self._now = until
        happenings = list(self._ready)
        self._ready.clear()
        self.spend(self._ready_s)
        self._ready_s = 0.0
        self._awaited = [one.call for one in happenings if one.call is not None]
        return happenings

    # Workers ----------------------------------------------------------------------------------

    def _place(self) -> None:
        """Start the workers for which there is room, in turn."""
        for _ in range(len(self._waiting)):
            worker = self._waiting.popleft()
            if worker.state == "gone":
                continue
            lane = worker.lane
            cpus, gpus = self._claim(lane)
            spare = self._spare(lane)
            machine = spare.machine if spare else self._room(lane, cpus, gpus)
            if machine is None:
                self._waiting.appendleft(worker)
                return
            machine.free_cpus -= cpus
            machine.free_gpus -= gpus
            desk = _Desk(worker, machine, cpus, gpus)
            if spare is not None:
                desk.process, desk.opened = spare.process, spare.opened
            self._desks[worker.number] = desk
            self._account()
            self._there[lane.name] += 1
            self._at(self._now + self.costs.runtime.start_wait_s, lambda d=desk: self._boot(d))

    def _spare(self, lane: Lane) -> _Desk | None:
        """Take a process that rests."""
        self._spares = [desk for desk in self._spares if self._now - desk.began < REST_S]
        return self._spares.pop(0) if self._spares and self._may_rest(lane) else None

    def _may_rest(self, lane: Lane) -> bool:
        """Whether a process may wait for other stages, as `pipeline.cluster.actors` has it."""
        camera = lane.kind == "head" and self._clips is None
        return not camera and self._claim(lane) == (0.0, 0.0)

    def _claim(self, lane: Lane) -> tuple[float, float]:
        """Return the CPUs and GPUs that a worker claims."""
        if lane.kind != "pool":
            return 0.0, 0.0
        if len(self._machines) == 1:
            return 0.0, lane.resources.gpus
        cpus = min(lane.resources.cpus * self._scale, self.site.shape.cpus)
        return max(SMALLEST_SHARE, round(cpus, 2)), lane.resources.gpus

    def _room(self, lane: Lane, cpus: float, gpus: float) -> Machine | None:
        if lane.kind != "pool":
            # Ray places actors that claim no CPU at random.
            shared = self.site.shared_folder and len(self._machines) > 1
            return self._random.choice(self._machines) if shared else self._machines[0]
        fit = [m for m in self._machines if m.free_cpus >= cpus - 1e-9 and m.free_gpus >= gpus]
        return max(fit, key=lambda m: (m.free_cpus, -m.number), default=None)

    def _boot(self, desk: _Desk) -> None:
        if desk.gone:
            return
        lane = desk.worker.lane
        # A process that has rested, and stages that it has opened before, cost next to nothing.
        new = {spec.name for spec in lane.specs} & self._stages.keys() - desk.opened
        seconds = 0.0 if desk.process else self.costs.runtime.start_s
        seconds += sum(self._stages[name].start_s for name in sorted(new))
        desk.process, desk.opened = True, desk.opened | new
        self._run(desk, seconds, 1.0, lambda: self._up(desk))

    def _up(self, desk: _Desk) -> None:
        extra = {"node": str(desk.machine.number)}
        self._ready.append(Happening(worker=desk.worker, result=Result(extra=extra)))

    def _forget(self, worker: Worker) -> None:
        desk = self._desks.pop(worker.number, None)
        if desk is None:
            return
        desk.gone = True
        desk.machine.remove(self._now, desk)
        self._watch(desk.machine)
        self._account()
        self._there[worker.lane.name] -= 1
        desk.machine.free_cpus += desk.cpus
        desk.machine.free_gpus += desk.gpus
        if self._waiting:
            self._place()

    # Calls ------------------------------------------------------------------------------------

    def _begin(self, desk: _Desk) -> None:
        """Let the first call of a worker's row run."""
        if desk.gone:
            return
        call, _, _ = desk.calls[0]
        desk.began = self._virtual
        if call.verb == "next":
            self._film(desk, call)
            return
        stage = self._stages[call.node.name]
        outputs = self._takes.made(call, stage, desk.machine.number)
        seconds, gpu_s = self._takes.spent(call, stage)
        width = stage.width if desk.worker.lane.threads > 1 else min(stage.width, 1.0)
        # Files that were kept or written.
        extra: Any = [] if call.verb in ("keep", "finish") else None
        self._work(desk, call, seconds, width, Result(outputs=outputs, extra=extra), gpu_s)

    def _film(self, desk: _Desk, call: Call) -> None:
        """Decode the next clip; a camera's comes in its own time."""
        flow = call.flow
        key = id(flow)
        if (self._clips is not None and self._made[key] >= self._clips) or key in self._stopped:
            self._work(desk, call, 0.0, 1.0, Result())
            return
        stage = self._stages[call.node.name]
        number = self._made[key]
        self._made[key] += 1
        seconds, outputs = self._takes.next(number, stage, desk.machine.number)
        result = Result(outputs=outputs, extra=(f"{flow.source.name}/{number}", {}))
        if self._clips is not None:
            width = stage.width if desk.worker.lane.threads > 1 else 1.0
            self._work(desk, call, seconds, width, result)
            return
        # A camera does not wait: what came while nobody asked is gone, but for a few pictures.
        began = self._filmed.get(key)
        if began is None:
            began = self._virtual + self._random.random() * self._clip_s
        dropped = max(0.0, self._virtual - CAMERA_BUFFER_S - began)
        self.passed.dropped_s += dropped
        ends = began + dropped + self._clip_s
        self._filmed[key] = desk.filmed = ends
        self.passed.filmed_s += dropped + self._clip_s
        # The pictures are decoded as they come, so the last of the work falls on the last one.
        late = max(self._virtual, ends - seconds)

        def decode() -> None:
            if not desk.gone:
                desk.waited_s = self._virtual - desk.began
                self._work(desk, call, seconds, 1.0, result)

        self._at(late, decode)

    def _work(
        self,
        desk: _Desk,
        call: Call,
        seconds: float,
        width: float,
        result: Result,
        gpu_s: float = 0.0,
    ) -> None:
        runtime = self.costs.runtime
        stored = sum(packed.nbytes for packed in result.outputs.values() if packed is not None)
        carried_s = desk.calls[0][2] * runtime.worker_call_s + stored * runtime.per_byte_s
        desk.own = seconds / max(seconds + carried_s, 1e-9)
        desk.stored_bytes = stored
        seconds += carried_s
        name = call.node.name
        self.passed.cpu_s[name] += seconds
        if gpu_s:
            self.passed.gpu_s[name] += gpu_s
            share = max(desk.gpus, 1e-3)

            def then() -> None:
                at = self._virtual + gpu_s / min(1.0, share)
                self._at(at, lambda: None if desk.gone else self._done(desk, result))
        else:

            def then() -> None:
                self._done(desk, result)

        self._run(desk, seconds, width, then)

    def _done(self, desk: _Desk, result: Result) -> None:
        call, _, share = desk.calls.popleft()
        seconds = self._virtual - desk.began
        lane = desk.worker.lane
        self.passed.busy_s[lane.name] += seconds - desk.waited_s
        self.passed.calls[lane.name] += 1
        # A stage's own time is told apart from that which carrying its call takes.
        own_s = desk.waited_s + desk.own * (seconds - desk.waited_s)
        result = replace(result, seconds=own_s, stored_bytes=desk.stored_bytes)
        if call.verb == "next" and result.outputs:
            self.made_at.append(self._virtual)
            number = int(result.extra[0].rpartition("/")[2])
            born = self._virtual if desk.filmed is None else desk.filmed
            self._born[id(call.flow)][number] = born
            self.seen.add(id(call.flow))
        desk.waited_s = 0.0
        self._ready.append(Happening(worker=desk.worker, call=call, result=result))
        self._ready_s += share * self.costs.runtime.driver_call_s / 2
        if desk.calls:
            at = max(self._virtual, desk.calls[0][1])
            self._at(at, lambda: self._begin(desk))

    # Time -------------------------------------------------------------------------------------

    _virtual = 0.0
    """The time of the event that is being dealt with; the driver may be ahead of it."""

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, what))

    def _run(self, desk: _Desk, seconds: float, width: float, then: Callable[[], None]) -> None:
        desk.machine.begin(self._virtual, seconds, width, (desk, then))
        self._watch(desk.machine)

    def _watch(self, machine: Machine) -> None:
        """Reckon when the machine's next call ends; whatever happens before makes it void."""
        due, version = machine.next_s(), machine.version

        def ends() -> None:
            if machine.version == version:
                _, then = machine.take(self._virtual)
                then()
                self._watch(machine)

        if due is not None:
            self._at(due, ends)

    def _account(self) -> None:
        """Add up the time that workers have been there."""
        passed = self.passed
        for name, count in self._there.items():
            if count:
                passed.worker_s[name] += count * (self._now - passed.at_s)
        passed.at_s = self._now

    def _note_through(self) -> None:
        for call in self._awaited:
            born = self._born[id(call.flow)]
            number = call.parcel.number if call.parcel is not None else -1
            if number in born and number not in call.flow.open:
                self.through.append((self._now, self._now - born.pop(number)))
        self._awaited.clear()
