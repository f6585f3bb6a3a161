"""The scheduler in virtual time: what a run would do on machines that are not there.

`pipeline.scheduling.scheduler.Scheduler` runs unchanged; only its backend differs. Workers are
queues of tasks on machines that share their cores in time (`pipeline.capacity.machines`), objects
are sizes, and every task takes what `pipeline.capacity.cost_model` says. The driver's own time
passes too, task by task, so a run with too many streams for one driver is as slow here.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.capacity.cost_model import Costs
from pipeline.capacity.machines import Machine
from pipeline.capacity.task_costs import TaskCosts
from pipeline.capacity.workload import ClusterSpec, Counters, Workload
from pipeline.chain import Chain, Link
from pipeline.config import RunOptions
from pipeline.contract import Source
from pipeline.errors import Reel3dError, UsageError
from pipeline.scheduling import (
    IDLE_ACTOR_S,
    IDLE_ACTORS,
    STORE_SHARE,
    Dataflow,
    Limits,
    ResourceClaim,
    Scheduler,
    StreamHooks,
    Task,
    TaskDone,
    TaskResult,
    Worker,
    WorkerEvent,
    WorkerPool,
    WorkerStarted,
    assign_pools,
    may_idle,
    report_task,
    resource_claim,
)
from pipeline.storage import PlannedStage
from pipeline.worker import (
    ClipDecoded,
    ClipMetadata,
    EndOfStream,
    Finished,
    Opened,
    Persisted,
    Processed,
)

__all__ = ["Simulation"]

STEP_S = 0.25
JOINING_SHARE = 0.25
"""What one more call in the same letter costs, of what carrying a call alone costs."""
CAMERA_BUFFER_S = 0.5
"""Pictures that a camera's reader keeps for a decoder that is late; older ones are dropped."""


@dataclass(eq=False)
class _SimulatedWorker:
    """A worker's calls on its machine."""

    worker: Worker
    machine: Machine
    claim: ResourceClaim
    tasks: deque[tuple[Task, float, float]] = field(
        default_factory=deque[tuple[Task, float, float]]
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
    ended: bool = False
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
        load: Workload,
        site: ClusterSpec,
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
        self._ready: deque[WorkerEvent] = deque()
        self._ready_s = 0.0
        """The driver's time for what is ready."""
        self._posted: set[int] = set()
        """Workers that got a call since the driver waited last."""
        self._desks: dict[int, _SimulatedWorker] = {}
        self._there: Counter[str] = Counter()
        self._waiting: deque[Worker] = deque()
        self._idle: list[_SimulatedWorker] = []
        """Processes that rest."""
        self._random = random.Random(0)
        runtime = costs.runtime
        self._machines = [
            Machine(
                n,
                site.shape,
                free=site.free,
                contention=runtime.contention,
                network_bytes_s=site.network_bytes_s,
            )
            for n in range(site.shape.count)
        ]
        self._takes = TaskCosts(load, costs)
        self._clip_s, self._clips = self._takes.clip_s, self._takes.clips
        self._made: Counter[int] = Counter()
        self._filmed: dict[int, float] = {}
        self._stopped: set[int] = set()
        self._alone = load.streams == 1 if alone is None else alone
        self.counters = Counters()
        self.through: list[tuple[float, float]] = []
        """Every clip that all stages have processed: when, and how long after its last frame."""
        self.made_at: list[float] = []
        """When each clip came from its decoder."""
        self.seen: set[int] = set()
        """Numbers of the streams that have shown a clip."""
        self.pool_stages: dict[str, tuple[str, ...]] = {}
        """Pool to the stages that its workers open."""
        self._born: dict[int, dict[int, float]] = {}
        """Stream number to the time at which each clip in flight was filmed or decoded."""
        self._dataflows: dict[int, Dataflow] = {}
        """Stream number to its dataflow."""
        self._awaited: list[Task] = []
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
        shared: dict[str, WorkerPool] = {}
        self.shared_pools: set[str] = set()
        """Lanes that all streams share."""
        for number in range(load.streams):
            planned = [PlannedStage(link, link.name) for link in links]
            name = f"stream{number:04d}"
            source = Source(uri=name, shown=name, name=name)
            dataflow = self.scheduler.new_dataflow(planned, source, live=load.seconds is None)
            self._dataflows[dataflow.info.number] = dataflow
            self._born[dataflow.info.number] = {}
            hooks = _SimulatedRun(self, dataflow, chain.report)
            pools, sink_pool = assign_pools(
                dataflow, planned, chain.report, options, shared, alone=self._alone
            )
            for pool in (*pools.values(), sink_pool):
                self._check(pool)
            self.scheduler.add(dataflow, hooks, pools, sink_pool)

    def _check(self, pool: WorkerPool) -> None:
        """Register a pool, and check that its workers fit on some machine."""
        if pool.name in self.pool_stages:
            return
        self.pool_stages[pool.name] = tuple(
            spec.name for spec in pool.specs if spec.name in self._stages
        )
        if pool.kind == "shared":
            self.shared_pools.add(pool.name)
        # Of CPUs it never claims more than a machine has.
        gpus = self._claim(pool).gpus
        if gpus > self.site.shape.gpus:
            raise UsageError(
                f"a worker of {pool.name} asks for {gpus:g} GPUs of one machine, and these have "
                f"{self.site.shape.gpus:g}: no worker would ever start; plan with other machines "
                "(--gpus or --nodes)"
            )

    @property
    def under_way(self) -> int:
        """Number of clips in flight."""
        return sum(stream.dataflow.window for stream in self.scheduler.streams)

    def run(self, until_s: float = math.inf) -> None:
        """Let virtual time pass until then, or until all streams are through."""
        while self.scheduler.busy and self._now < until_s:
            self.scheduler.step(STEP_S)

    def look(self) -> Counters:
        """Return a copy of what has happened so far."""
        self._account()
        self.counters.cores_s = sum(machine.busy_s for machine in self._machines)
        self.counters.into_bytes = [machine.into_bytes for machine in self._machines]
        self.counters.out_bytes = [machine.out_bytes for machine in self._machines]
        return self.counters.copy()

    def spend(self, seconds: float) -> None:
        """Let the driver work for some seconds."""
        self._now += seconds
        self.counters.driver_s += seconds

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

    def send(self, worker: Worker, task: Task) -> None:
        """Take a call into the worker's row; what it reads is fetched at once."""
        # Light calls that leave in the same moment travel together.
        joins = worker.pool.light and worker.number in self._posted
        self._posted.add(worker.number)
        share = JOINING_SHARE if joins else 1.0
        self.spend(share * self.costs.runtime.driver_call_s / 2)
        desk = self._desks[worker.number]
        arrives = self._now
        for packed in task.arguments.values():
            for ref in packed.refs:
                if desk.machine.number not in ref.places:
                    holders = [self._machines[place] for place in sorted(ref.places)]
                    arrives = max(arrives, desk.machine.fetch(self._now, ref, holders))
        desk.tasks.append((task, arrives, share))
        if len(desk.tasks) == 1:
            self._at(arrives, lambda: self._begin(desk))

    def stop(self, worker: Worker) -> None:
        """End a worker; its process may take other stages, as in `pipeline.cluster.idle_actors`."""
        desk = self._desks.get(worker.number)
        self._forget(worker)
        rests = self._may_idle(worker.pool) and len(self._idle) < IDLE_ACTORS
        if desk and desk.process and rests:
            desk.began = self._now
            self._idle.append(desk)

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        self._forget(worker)

    def end(self, worker: Worker) -> None:
        """End a camera."""
        assert worker.pool.stream is not None
        self._stopped.add(worker.pool.stream.number)

    def wait(self, timeout_s: float) -> list[WorkerEvent]:
        """Let time pass until something happens."""
        self._note_through()
        self._posted.clear()
        until = self._now + timeout_s
        while self._events and (self._events[0][0] <= self._now or not self._ready):
            if self._events[0][0] > until:
                break
            at, _, what = heapq.heappop(self._events)
            # What happened while the driver worked lies before its own time.
            self._virtual = at
            what()
            if self._ready:
                self._now = max(self._now, at)
        if not self._ready:
            self._now = until
        events = list(self._ready)
        self._ready.clear()
        self.spend(self._ready_s)
        self._ready_s = 0.0
        self._awaited = [event.task for event in events if isinstance(event, TaskDone)]
        return events

    # Workers ----------------------------------------------------------------------------------

    def _place(self) -> None:
        """Start the workers for which there is room, in turn."""
        for _ in range(len(self._waiting)):
            worker = self._waiting.popleft()
            if worker.state == "stopped":
                continue
            pool = worker.pool
            claim = self._claim(pool)
            idle = self._take_idle(pool)
            machine = idle.machine if idle else self._room(pool, claim)
            if machine is None:
                self._waiting.appendleft(worker)
                return
            machine.claim(claim)
            desk = _SimulatedWorker(worker, machine, claim)
            if idle is not None:
                desk.process, desk.opened = idle.process, idle.opened
            self._desks[worker.number] = desk
            self._account()
            self._there[pool.name] += 1
            self._at(self._now + self.costs.runtime.start_wait_s, lambda d=desk: self._boot(d))

    def _take_idle(self, pool: WorkerPool) -> _SimulatedWorker | None:
        """Take an idle process for a worker of a pool, if it may use one."""
        self._idle = [desk for desk in self._idle if self._now - desk.began < IDLE_ACTOR_S]
        return self._idle.pop(0) if self._idle and self._may_idle(pool) else None

    def _may_idle(self, pool: WorkerPool) -> bool:
        return may_idle(pool, self._claim(pool))

    def _claim(self, pool: WorkerPool) -> ResourceClaim:
        """Return what a worker claims; a run on one machine has it to itself."""
        return resource_claim(
            pool,
            cluster_cpus=self.site.cpus,
            largest_cpus=self.site.shape.cpus,
            exclusive=len(self._machines) == 1,
        )

    def _room(self, pool: WorkerPool, claim: ResourceClaim) -> Machine | None:
        if pool.kind != "shared":
            # Ray places actors that claim no CPU at random.
            spread = self.site.shared_folder and len(self._machines) > 1
            return self._random.choice(self._machines) if spread else self._machines[0]
        fit = [machine for machine in self._machines if machine.has_room(claim)]
        return max(fit, key=lambda m: (m.free_cpus, -m.number), default=None)

    def _boot(self, desk: _SimulatedWorker) -> None:
        if desk.ended:
            return
        pool = desk.worker.pool
        # A process that has rested, and stages that it has opened before, cost next to nothing.
        new = {spec.name for spec in pool.specs} & self._stages.keys() - desk.opened
        seconds = 0.0 if desk.process else self.costs.runtime.start_s
        seconds += sum(self._stages[name].start_s for name in sorted(new))
        desk.process, desk.opened = True, desk.opened | new
        self._run(desk, seconds, 1.0, lambda: self._up(desk))

    def _up(self, desk: _SimulatedWorker) -> None:
        opened = Opened(machine=str(desk.machine.number))
        self._ready.append(WorkerStarted(worker=desk.worker, outcome=opened))

    def _forget(self, worker: Worker) -> None:
        desk = self._desks.pop(worker.number, None)
        if desk is None:
            return
        desk.ended = True
        desk.machine.remove(self._now, desk)
        self._watch(desk.machine)
        self._account()
        self._there[worker.pool.name] -= 1
        desk.machine.give_back(desk.claim)
        if self._waiting:
            self._place()

    # Calls ------------------------------------------------------------------------------------

    def _begin(self, desk: _SimulatedWorker) -> None:
        """Let the first call of a worker's row run."""
        if desk.ended:
            return
        task, _, _ = desk.tasks[0]
        desk.began = self._virtual
        if task.kind == "next_clip":
            self._film(desk, task)
            return
        stage = self._stages[task.stage.name]
        outputs = self._takes.made(task, stage, desk.machine.number, self._clips_of(task))
        seconds, gpu_s = self._takes.spent(task, stage, self._clips_of(task))
        width = stage.width if desk.worker.pool.threads > 1 else min(stage.width, 1.0)
        outcome = Processed()
        if task.kind == "persist":
            outcome = Persisted(files=())
        elif task.kind == "finish":
            outcome = Finished()
        self._work(desk, task, seconds, width, TaskResult(outcome=outcome, outputs=outputs), gpu_s)

    def _film(self, desk: _SimulatedWorker, task: Task) -> None:
        """Decode the next clip; a camera's comes in its own time."""
        key = task.stream.number
        if (self._clips is not None and self._made[key] >= self._clips) or key in self._stopped:
            self._work(desk, task, 0.0, 1.0, TaskResult(outcome=EndOfStream()))
            return
        stage = self._stages[task.stage.name]
        number = self._made[key]
        self._made[key] += 1
        seconds, outputs = self._takes.next(number, stage, desk.machine.number)
        clip = ClipMetadata({"clip": f"{task.stream.name}/{number}"})
        result = TaskResult(outcome=ClipDecoded(clip=clip), outputs=outputs)
        if self._clips is not None:
            width = stage.width if desk.worker.pool.threads > 1 else 1.0
            self._work(desk, task, seconds, width, result)
            return
        # A camera does not wait: what came before the task is lost, but for a few frames.
        began = self._filmed.get(key)
        if began is None:
            began = self._virtual + self._random.random() * self._clip_s
        dropped = max(0.0, self._virtual - CAMERA_BUFFER_S - began)
        self.counters.dropped_s += dropped
        ends = began + dropped + self._clip_s
        self._filmed[key] = desk.filmed = ends
        self.counters.filmed_s += dropped + self._clip_s
        # The pictures are decoded as they come, so the last of the work falls on the last one.
        late = max(self._virtual, ends - seconds)

        def decode() -> None:
            if not desk.ended:
                desk.waited_s = self._virtual - desk.began
                self._work(desk, task, seconds, 1.0, result)

        self._at(late, decode)

    def _work(
        self,
        desk: _SimulatedWorker,
        task: Task,
        seconds: float,
        width: float,
        result: TaskResult,
        gpu_s: float = 0.0,
    ) -> None:
        runtime = self.costs.runtime
        stored = sum(packed.nbytes for packed in result.outputs.values() if packed is not None)
        carried_s = desk.tasks[0][2] * runtime.worker_call_s + stored * runtime.per_byte_s
        desk.own = seconds / max(seconds + carried_s, 1e-9)
        desk.stored_bytes = stored
        seconds += carried_s
        name = task.stage.name
        self.counters.cpu_s[name] += seconds
        if gpu_s:
            self.counters.gpu_s[name] += gpu_s
            share = max(desk.claim.gpus, 1e-3)

            def then() -> None:
                at = self._virtual + gpu_s / min(1.0, share)
                self._at(at, lambda: None if desk.ended else self._done(desk, result))
        else:

            def then() -> None:
                self._done(desk, result)

        self._run(desk, seconds, width, then)

    def _done(self, desk: _SimulatedWorker, result: TaskResult) -> None:
        task, _, share = desk.tasks.popleft()
        seconds = self._virtual - desk.began
        pool = desk.worker.pool
        self.counters.busy_s[pool.name] += seconds - desk.waited_s
        self.counters.tasks[pool.name] += 1
        # A stage's own time is separate from that of carrying its task.
        own_s = desk.waited_s + desk.own * (seconds - desk.waited_s)
        result = replace(result, seconds=own_s, stored_bytes=desk.stored_bytes)
        if isinstance(result.outcome, ClipDecoded):
            self.made_at.append(self._virtual)
            number = int(result.outcome.clip.name.rpartition("/")[2])
            born = self._virtual if desk.filmed is None else desk.filmed
            self._born[task.stream.number][number] = born
            self.seen.add(task.stream.number)
        desk.waited_s = 0.0
        self._ready.append(TaskDone(worker=desk.worker, task=task, result=result))
        self._ready_s += share * self.costs.runtime.driver_call_s / 2
        if desk.tasks:
            at = max(self._virtual, desk.tasks[0][1])
            self._at(at, lambda: self._begin(desk))

    def _clips_of(self, task: Task) -> int:
        """Return the number of clips that the stream of a task has had so far."""
        return max(1, self._dataflows[task.stream.number].produced)

    # Time -------------------------------------------------------------------------------------

    _virtual = 0.0
    """Time of the event that is being applied; the driver may be ahead of it."""

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, what))

    def _run(
        self, desk: _SimulatedWorker, seconds: float, width: float, then: Callable[[], None]
    ) -> None:
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
        skipped = self.counters
        for name, count in self._there.items():
            if count:
                skipped.worker_s[name] += count * (self._now - skipped.at_s)
        skipped.at_s = self._now

    def _note_through(self) -> None:
        for task in self._awaited:
            born = self._born[task.stream.number]
            number = task.item.number if task.item is not None else -1
            if number in born and number not in self._dataflows[task.stream.number].open:
                self.through.append((self._now, self._now - born.pop(number)))
        self._awaited.clear()


class _SimulatedRun(StreamHooks):
    """A stream's run without a folder: its report follows its end."""

    def __init__(self, simulation: Simulation, dataflow: Dataflow, report: Link | None) -> None:
        self._simulation = simulation
        self._dataflow = dataflow
        self._report = report

    def on_end(self, error: Reel3dError | None) -> None:
        """Ask for the report."""
        assert error is None, "no task fails in a simulation"
        self._simulation.end_stream()
        scheduler = self._simulation.scheduler
        if self._report is None:
            scheduler.finish_stream(self._dataflow)
        else:
            planned = PlannedStage(self._report, "")
            scheduler.submit(report_task(self._dataflow.info, planned, {}))

    def on_report(self, result: TaskResult) -> None:
        """Finish."""
        self._simulation.scheduler.finish_stream(self._dataflow)
