"""Run one video through the chain in this process and time every task.

The scheduler runs unchanged in front of a stage host (`pipeline.worker.stage_host`), one task at a
time, so the CPU time and the bytes of every task are attributed exactly.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.contract.events import Event, Loss
from pipeline.contract.messages import Array
from pipeline.contract.source import Probe, Source
from pipeline.contract.stage import Context
from pipeline.errors import Reel3dError, UsageError
from pipeline.run import Begun, begin, conclude, leave
from pipeline.scheduling.backend import Happening, Limits, Result
from pipeline.scheduling.dataflow import FINISH, Call, Flow, Node, Parcel
from pipeline.scheduling.placement import lanes_of
from pipeline.scheduling.pools import Lane, Worker
from pipeline.scheduling.scheduler import Scheduler
from pipeline.storage.plan import Job
from pipeline.worker.protocol import Home, Order, mark_home
from pipeline.worker.serialization import Forward, Packed, kind_of
from pipeline.worker.stage_host import Host

__all__ = ["Spent", "Trial", "lead_through"]


@dataclass
class Spent:
    """What the calls of one stage took on one film."""

    clips: int = 0
    clip_s: float = 0.0
    """CPU seconds of all clips."""
    wall_s: float = 0.0
    end_s: float = 0.0
    """CPU seconds of what came after the last clip."""
    made: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Message to how many clips made one, and the bytes of all."""
    ended: dict[str, int] = field(default_factory=dict[str, int])
    """Message to bytes, at the end."""


@dataclass
class Trial:
    """One film's way through the chain."""

    stages: dict[str, Spent]
    probe: Probe
    frames: int
    """That the sampler kept, overlaps counted twice."""
    clips: int


def lead_through(config: RunConfig, film: Path, out: Path, *, alone: bool) -> Trial:
    """Lead a film through a chain; return what that took.

    Args:
        config: The chain and its options.
        film: The film.
        out: A run folder, which must not be there.
        alone: A run has this stream only: its decoder may have all threads.

    Raises:
        Reel3dError: The film cannot be used, or a stage fails on it.
    """
    source = Source(uri=str(film), shown=film.name, name="film")
    begun = begin(source, config, out)
    try:
        return _InProcess(begun, alone=alone).run()
    finally:
        leave(begun)


class _InProcess:
    """The scheduler's backend and the stream's hooks: hosts in this process."""

    def __init__(self, begun: Begun, *, alone: bool) -> None:
        self._begun = begun
        self._home: Home = mark_home(begun.folder, begun.source)
        self._hosts: dict[int, Host] = {}
        self._come: deque[Happening] = deque()
        self._stages: dict[str, Spent] = defaultdict(Spent)
        self._probe: Probe | None = None
        self._error: Reel3dError | None = None
        self._frames = 0
        self._scheduler = Scheduler(self, Limits(cores=1.0, budget_bytes=1 << 40))
        self._flow: Flow = self._scheduler.new_flow(jobs=begun.jobs, source=begun.source)
        self._lanes = lanes_of(
            self._flow, begun.jobs, begun.chain.report, begun.config.run, {}, alone=alone
        )

    def run(self) -> Trial:
        """Lead the film through."""
        self._scheduler.add(self._flow, self, *self._lanes)
        while self._scheduler.busy:
            self._scheduler.step(0.0)
        self._scheduler.close()
        if self._error is not None:
            raise self._error
        lost = [loss for node in self._flow.nodes for loss in node.lost]
        if lost:
            raise UsageError(
                f"the costs cannot be measured on {self._begun.source.shown}: {lost[0].what} "
                f"failed there: {lost[0].why}; give another film with --like FILM"
            )
        assert self._probe is not None
        return Trial(dict(self._stages), self._probe, self._frames, self._flow.produced)

    # The scheduler's backend ------------------------------------------------------------------

    def now(self) -> float:
        """Return the time, s."""
        return time.monotonic()

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        """Open the stages in this process."""
        lane: Lane = worker.lane
        host = self._hosts[worker.number] = Host()
        context = Context(seed=self._begun.config.run.seed, threads=lane.threads)
        home = self._home if lane.flow is not None else None
        reply = host.open(lane.specs, context, home, places)
        if reply.failure is not None:
            raise UsageError(
                f"the costs of {lane.name} cannot be measured here: {reply.failure[1]}"
            )
        self._come.append(Happening(worker=worker, result=Result(extra=reply.extra)))

    def send(self, worker: Worker, call: Call) -> None:
        """Make the call, and count what it takes."""
        node = call.node
        message = call.message
        if call.verb == "keep":
            message = (node.name, node.job.key)
        arrays: tuple[Array, ...] = tuple(
            ref.array for packed in call.arguments.values() for ref in packed.refs
        )
        order = Order(
            verb=call.verb,
            stage=node.name,
            place=call.place,
            safe=call.flow.safe,
            home=self._home,
            parcels=tuple(
                (name, (packed.kind.__name__, packed.head, packed.names))
                for name, packed in call.arguments.items()
            ),
            message=message,
        )
        cpu, wall = time.process_time(), time.perf_counter()
        reply, fresh = self._hosts[worker.number].call(order, arrays)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        outputs: dict[type, Packed | None] = {}
        for (kind, head, names), places, sizes in reply.made:
            refs = tuple(
                _Held(arrays[p.place] if isinstance(p, Forward) else fresh[p]) for p in places
            )
            outputs[kind_of(kind)] = Packed(kind_of(kind), head, names, refs, sizes)
        self._count(call, cpu, wall, outputs)
        if reply.failure is not None:
            raise UsageError(
                f"the costs of {node.name} cannot be measured on {self._begun.source.shown}: "
                f"{reply.failure[1]}; give another film with --like FILM"
            )
        extra = reply.extra
        result = Result(outputs=outputs, extra=extra, seconds=wall, saved=reply.saved)
        self._come.append(Happening(worker=worker, call=call, result=result))

    def stop(self, worker: Worker) -> None:
        """Close the stages."""
        host = self._hosts.pop(worker.number, None)
        if host is not None:
            host.close()

    def kill(self, worker: Worker) -> None:
        """Close the stages."""
        self.stop(worker)

    def end(self, worker: Worker) -> None:
        """No camera is measured."""

    def wait(self, timeout_s: float) -> list[Happening]:
        """Return what has been done."""
        del timeout_s
        come, self._come = list(self._come), deque()
        return come

    def _count(
        self, call: Call, cpu_s: float, wall_s: float, outputs: dict[type, Packed | None]
    ) -> None:
        spent = self._stages[call.node.name]
        of_clip = call.verb == "next" or (
            call.verb == "process" and call.parcel is not None and call.parcel.number < FINISH
        )
        made = {kind.__name__: packed.nbytes for kind, packed in outputs.items() if packed}
        if not of_clip:
            spent.end_s += cpu_s
            for kind, size in made.items():
                spent.ended[kind] = spent.ended.get(kind, 0) + size
            return
        spent.clips += 1
        spent.clip_s += cpu_s
        spent.wall_s += wall_s
        for kind, size in made.items():
            count, total = spent.made.get(kind, (0, 0))
            spent.made[kind] = (count + 1, total + size)

    # The stream's hooks -----------------------------------------------------------------------

    def opened(self, found: dict[str, Any]) -> None:
        """Take the probe."""
        self._probe = found.get("probe", self._probe)

    def clip(self, parcel: Parcel, result: Result) -> None:
        """Count its frames."""
        del result
        self._frames += len(parcel.remembered["pts_ns"])

    def sent(self, node: Node) -> None:
        """Nobody watches."""

    def answered(self, result: Result) -> None:
        """Nothing is told."""

    def dealt(self, node: Node, parcel: Parcel, seconds: float, loss: Loss | None) -> None:
        """No journal is written."""

    def passed(self, node: Node, parcel: Parcel) -> None:
        """No journal is written."""

    def total(self, count: int) -> None:
        """No journal is written."""

    def tell(self, stage: str, event: Event) -> None:
        """Nobody listens."""

    def settle(self, node: Node) -> None:
        """No ledger is kept."""

    def ended(self, error: Reel3dError | None) -> None:
        """Ask for the report."""
        self._error = error
        if error is not None:
            return
        manifest = conclude(self._begun, self._probe, 0)
        link = self._begun.chain.report
        if link is None:
            self._scheduler.finish_stream(self._flow)
            return
        node = Node(-1, Job(link, ""), "fold")
        self._scheduler.call(self._flow, Call(self._flow, node, "report", message=manifest))

    def reported(self, result: Result) -> None:
        """Be through."""
        del result
        self._scheduler.finish_stream(self._flow)


@dataclass(eq=False)
class _Held:
    """An array as an object of its own."""

    array: Array
