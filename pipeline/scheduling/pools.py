"""Lanes: the workers of one stage, the calls that wait for them, and the policy of their number.

A lane is a pool that all streams share (stages without memory), or the one worker of a stream's
decoder, of one of its stream-scoped stages, or of its exporters. The rules here are the whole
scheduling policy; the Ray runner and the simulator both run them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Any, Literal

from pipeline.contract.stage import Resources
from pipeline.scheduling.dataflow import FINISH, Call, Flow
from pipeline.worker.protocol import StageSpec

__all__ = ["DEPTH", "Lane", "Worker"]

DEPTH = 2
"""Calls that a worker may hold: one runs, one has arrived when it ends. A third gains nothing
(measured: FACTS, Ray 2.60)."""
LIGHT_S = 0.004
"""Calls shorter than this are light: what carries a call costs as much as the call, so those that
leave in the same moment travel together."""
LIGHT_DEPTH = 8
"""Calls that a worker may hold of a stage whose calls are light."""
IDLE_S = 10.0
"""A pool's worker without work for this long is given back."""
START_S = 1.0
"""What it takes to start one more worker: so much work must wait, or have been done since the last
one came, before it is worth that. Stages of a millisecond would get workers by turns else."""
SLACK = 0.1
"""So much less than its share of the cores is enough for a pool."""
SMOOTHING = 0.2
"""Weight of the newest call in the mean duration of a lane."""


@dataclass(eq=False)
class Worker:
    """A process that runs the calls of one lane in the order in which it gets them."""

    number: int
    lane: Lane
    state: Literal["starting", "ready", "gone"] = "starting"
    calls: deque[Call] = field(default_factory=deque[Call])
    since: float = 0.0
    """When the first of `calls` began to run, or when it fell idle."""
    started: float = 0.0
    busy_s: float = 0.0
    alone: bool = False
    """Its only call is a suspect: nothing else may come beside it."""
    leaving: bool = False
    """It gets no more calls."""
    sealed: bool = False
    """Its calls are light and have left: what comes now waits for their answer, and then travels
    together."""
    handle: Any = None
    """The backend's own."""
    node: str = ""
    """Where it runs."""


@dataclass(eq=False)
class Lane:
    """One kind of worker and what waits for it."""

    name: str
    kind: Literal["head", "fold", "pool", "sinks"]
    specs: tuple[StageSpec, ...]
    resources: Resources
    threads: int
    whole: bool = False
    """A pool whose calls are whole streams."""
    flow: Flow | None = None
    """The stream that it belongs to; None for a pool."""
    deadline_s: float | None = None
    """How long one clip may take; None for no limit."""
    whole_deadline_s: float | None = None
    """How long a call for a whole stream may take."""
    waiting: list[tuple[int, int, Call]] = field(default_factory=list[tuple[int, int, Call]])
    """A heap: higher priority first, then first come, first served."""
    suspects: deque[Call] = field(default_factory=deque[Call])
    """Calls that were with a worker when it died: each runs again alone."""
    careful: int = -1
    """Of one stream's stage: calls up to this place in the row run alone, since the worker died of
    one of them."""
    workers: list[Worker] = field(default_factory=list[Worker])
    calls: int = 0
    """Calls done."""
    seconds: float = 0.0
    """Mean duration of a call, smoothed."""
    done_s: float = 0.0
    """Seconds of calls done since its last worker was started."""
    recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=4096))
    """Durations of the calls since somebody looked, s."""
    lately: deque[float] = field(default_factory=lambda: deque[float](maxlen=LIGHT_DEPTH))
    """Durations of the last calls, s."""
    usual_s: float = float("inf")
    """Their median, which a busy machine disturbs less than the mean; known after a few calls."""
    failures: int = 0
    starts_failed: int = 0
    """Workers in a row that did not come up."""
    rest_until: float = 0.0
    """No worker is started before; memory ran out."""
    most: float = float("inf")
    """Workers that fit, where memory has run out."""
    users: int = 0
    """Streams that may still need it."""
    busy_s: float = 0.0
    """Of workers that are gone."""

    def push(self, call: Call) -> None:
        """Let a call wait."""
        heapq.heappush(self.waiting, (-call.flow.priority, call.order, call))

    def took(self, seconds: float, stored_s: float = 0.0) -> None:
        """Learn from a call that is done, and from what its worker then had to store."""
        self.lately.append(seconds)
        if len(self.lately) == LIGHT_DEPTH:
            self.usual_s = median(self.lately)
        seconds += stored_s
        self.calls += 1
        self.recent.append(seconds)
        self.done_s += seconds
        share = max(SMOOTHING, 1 / self.calls)
        self.seconds += share * (seconds - self.seconds)

    def deadline_of(self, call: Call) -> float | None:
        """Return how long a call may take, s."""
        clip = call.verb == "next" or (call.parcel is not None and call.parcel.number < FINISH)
        return self.deadline_s if clip else self.whole_deadline_s

    @property
    def backlog(self) -> int:
        """Calls without a worker."""
        return len(self.waiting) + len(self.suspects)

    @property
    def load(self) -> int:
        """Calls that wait or run."""
        return self.backlog + sum(len(worker.calls) for worker in self.workers)

    @property
    def light(self) -> bool:
        """Whether its calls may travel together."""
        return self.usual_s < LIGHT_S

    @property
    def depth(self) -> int:
        """Calls that a worker may hold."""
        return LIGHT_DEPTH if self.light else DEPTH

    @property
    def pending_s(self) -> float:
        """Seconds of work that wait or run; a camera's decoder waits for pictures, not cores."""
        live = self.kind == "head" and self.flow is not None and self.flow.live
        return 0.0 if live else self.seconds * self.load

    def forget(self, flow: Flow) -> None:
        """Drop what waits for a stream that has ended."""
        self.take_back(lambda call: call.flow is flow)

    def take_back(self, wanted: Callable[[Call], bool]) -> list[Call]:
        """Drop the calls without a worker of which this is true, and return them."""
        back = [call for _, _, call in self.waiting if wanted(call)]
        back += [call for call in self.suspects if wanted(call)]
        self.waiting = [entry for entry in self.waiting if not wanted(entry[2])]
        heapq.heapify(self.waiting)
        self.suspects = deque(call for call in self.suspects if not wanted(call))
        return back

    def next_call(self) -> tuple[Worker, Call, bool] | None:
        """Return a worker, the call that it should take now, and whether alone.

        The least busy worker goes first. A suspect goes to a worker that holds nothing, and
        nothing joins it; so while there is one, the least busy worker takes nothing new.
        """
        free = [w for w in self.workers if w.state == "ready" and not (w.alone or w.leaving)]
        if self.light:
            free = [w for w in free if not (w.sealed and w.calls)]
        free.sort(key=lambda worker: len(worker.calls))
        if self.suspects and free:
            if not free[0].calls:
                return free[0], self.suspects.popleft(), True
            del free[0]
        if not self.waiting or not free or len(free[0].calls) >= self.depth:
            return None
        alone = self.waiting[0][2].place <= self.careful
        if alone and free[0].calls:
            return None
        return free[0], heapq.heappop(self.waiting)[2], alone

    def wanted(self, cores: float, gpus: float, work: float) -> int:
        """Return how many workers a pool should have now.

        The cores go where the work waits: a pool gets the share of them that its calls have of
        all the work that waits or runs, and never more workers than it has calls for, or than
        are worth their start.

        Args:
            cores: CPUs that this run may use.
            gpus: GPUs that this run may use.
            work: Seconds of work that wait or run, in all lanes.
        """
        if self.kind != "pool":
            return 1
        if not self.load:
            return 0
        most = float(self.bound(cores, gpus))
        if self.resources.cpus and self.seconds and work:
            share = self.pending_s / work
            # Rounded up: a stage that needs 1.4 cores and has one would hold up all the others.
            most = min(most, max(1.0, ceil(cores * share / self.resources.cpus - SLACK)))
        elif not self.seconds:
            most = 1.0
        if self.pending_s < START_S and self.done_s < START_S:
            most = min(most, max(1, len(self.workers)))
        return int(max(1, min(most, -(-self.load // self.depth))))

    def bound(self, cores: float, gpus: float) -> int:
        """Return how many workers fit into so many cores and GPUs at most."""
        most = self.most
        if self.resources.cpus:
            most = min(most, cores / self.resources.cpus)
        if self.resources.gpus:
            most = min(most, gpus / self.resources.gpus)
        return int(max(1, min(most, 1 << 20)))
