"""Workers as Ray actors: the backend of the scheduler that runs the real thing.

Actors have neither restarts nor retries of Ray's own: with these, a clip that kills its worker
takes the clips beside it along (FACTS, Ray 2.60). The scheduler sees every death. Calls return a
small answer, which comes to the driver, and the large arrays, which do not.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import queue
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.cluster.idle_actors import Spares
from pipeline.contract.events import Progress
from pipeline.contract.stage import Context, find
from pipeline.scheduling.backend import Failure, Happening, Result
from pipeline.scheduling.dataflow import Call, Flow
from pipeline.scheduling.pools import Lane, Worker
from pipeline.scheduling.remote_calls import given_to, order_of, result_of
from pipeline.telemetry.logs import LogSettings, bind, bound, configure
from pipeline.telemetry.meter import forget_peak, peak_memory_bytes
from pipeline.worker.allocator import give_back, keep_freed
from pipeline.worker.protocol import Home, Order, Reply, StageSpec
from pipeline.worker.serialization import slots as slots_of
from pipeline.worker.stage_host import Host

__all__ = ["RayBackend"]

PROGRESS_EVERY_S = 0.5
"""How often a worker may tell how far a long call has come."""
LONG_S = 2.0
"""After a call that took longer, free memory is given back."""
NEWS = b"reel3d:progress:"
CLAIMS = frozenset({"num_cpus", "num_gpus", "memory"})
"""Options that hold a part of the cluster for an actor."""
MOST_RESTING_BYTES = 600 << 20
"""An actor that has held more is ended with its stages: not all memory comes back."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Letter:
    """A call on its way."""

    call: Call
    order: Order
    slots: int
    """Objects that may come back."""
    given: list[Any]
    made: list[Any] = field(default_factory=list[Any])
    """The objects that will come back."""


@dataclass(eq=False)
class _Handle:
    """A worker's actor, and the ways to call it by how many objects come back."""

    actor: Any
    ways: dict[int, Callable[..., Any]]


class RayBackend:
    """Starts actors and carries calls; what comes back waits in one queue."""

    def __init__(
        self,
        *,
        seed: int,
        claim: Callable[[Lane], dict[str, Any]],
        job: str,
        spares: Spares,
    ) -> None:
        """Prepare to start actors in the cluster that this process has joined.

        Args:
            seed: Of the run.
            claim: Gives the options under which the actors of a lane are placed.
            job: Names this run in what workers tell of themselves.
            spares: Where actors rest, between runs too.
        """
        self._seed = seed
        self._claim = claim
        self._job = job
        self._log = LogSettings.inherited()
        self._inbox: queue.SimpleQueue[tuple[Worker, list[_Letter], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._light: dict[Worker, list[_Letter]] = {}
        """Calls that leave together, with what else their worker gets in this step."""
        self._homes: dict[int, Home] = {}
        self._plain, self._threaded = _actor_class()
        self._spares = spares

    def now(self) -> float:
        """Return the time, s."""
        return time.monotonic()

    def at_home(self, flow: Flow, home: Home) -> None:
        """Say where the results of a stream go."""
        self._homes[id(flow)] = home

    def start(self, worker: Worker, places: dict[str, int]) -> None:
        """Start an actor and open the lane's stages."""
        lane = worker.lane
        actor = self._spares.take() if self._may_rest(lane) else None
        if actor is None:
            kind = self._threaded if _is_camera(lane) else self._plain
            actor = kind.options(**self._claim(lane)).remote(self._log)
        worker.handle = _Handle(actor, {})
        home = self._homes[id(lane.flow)] if lane.flow is not None else None
        context = Context(seed=self._seed, threads=lane.threads)
        name = f"{self._job}:{worker.number}"
        answer = actor.open.remote(name, lane.specs, context, home, places)
        self._expect(worker, [], answer)

    def send(self, worker: Worker, call: Call) -> None:
        """Send a call; its messages go as references."""
        makes = call.verb in ("process", "finish", "next", "remake", "load")
        slots = slots_of(call.node.job.link.ports.makes) if makes else 0
        order = order_of(call, self._homes[id(call.flow)])
        letter = _Letter(call, order, slots, given_to(call))
        if worker.lane.light:
            self._light.setdefault(worker, []).append(letter)
        else:
            self._post(worker, [letter])

    def stop(self, worker: Worker) -> None:
        """Ask the stages to close; then the actor takes others, or ends."""
        if worker.handle is not None:
            if self._may_rest(worker.lane):
                self._spares.put(worker.handle.actor)
            else:
                self._spares.dismiss(worker.handle.actor)
            worker.handle = None

    def close(self, resting: int) -> None:
        """Wait until the actors that were stopped are gone, but for so many that rest."""
        self._spares.trim(resting)

    def end(self, worker: Worker) -> None:
        """Ask a camera to end; its last clips still come."""
        if worker.handle is not None:
            worker.handle.actor.end.remote()

    def kill(self, worker: Worker) -> None:
        """End the actor at once."""
        import ray

        if worker.handle is not None:
            ray.kill(worker.handle.actor, no_restart=True)
            worker.handle = None

    def wait(self, timeout_s: float) -> list[Happening]:
        """Return what has come back, waiting for the first of it."""
        for worker, letters in self._light.items():
            if worker.handle is not None:
                self._post(worker, letters)
        self._light.clear()
        self._spares.sweep()
        happenings: list[Happening] = []
        try:
            happenings += self._understood(*self._inbox.get(timeout=timeout_s))
            while True:
                happenings += self._understood(*self._inbox.get_nowait())
        except queue.Empty:
            return happenings

    def progress(self, workers: list[Worker]) -> list[tuple[Worker, str, Progress]]:
        """Return what long calls have told of themselves lately."""
        from ray.experimental import internal_kv

        told: list[tuple[Worker, str, Progress]] = []
        for worker in workers:
            raw = internal_kv._internal_kv_get(NEWS + f"{self._job}:{worker.number}".encode())  # pyright: ignore[reportPrivateUsage]
            if raw:
                row = json.loads(raw)
                told.append((worker, row.pop("stage"), Progress(**row)))
        return told

    def _may_rest(self, lane: Lane) -> bool:
        """Whether an actor of a lane holds no part of the cluster, so that it may wait."""
        return not (_is_camera(lane) or CLAIMS & self._claim(lane).keys())

    def _post(self, worker: Worker, letters: list[_Letter]) -> None:
        """Send calls to a worker as one of Ray's."""
        handle: _Handle = worker.handle
        slots = sum(letter.slots for letter in letters)
        way = handle.ways.get(slots)
        if way is None:
            way = handle.actor.call.options(num_returns=1 + slots).remote
            handle.ways[slots] = way
        # Pickled here: bytes go through Ray as they are.
        rows = [(letter.order, letter.slots, len(letter.given)) for letter in letters]
        refs = way(pickle.dumps(rows, protocol=5), *(ref for one in letters for ref in one.given))
        refs = refs if isinstance(refs, list) else [refs]
        at = 1
        for letter in letters:
            letter.made = refs[at : at + letter.slots]
            at += letter.slots
        self._expect(worker, letters, refs[0])

    def _expect(self, worker: Worker, letters: list[_Letter], answer: Any) -> None:
        answer.future().add_done_callback(lambda future: self._inbox.put((worker, letters, future)))

    def _understood(
        self, worker: Worker, letters: list[_Letter], future: Future[Any]
    ) -> list[Happening]:
        from ray import exceptions

        error = future.exception()
        if error is None:
            if not letters:
                return [Happening(worker=worker, result=result_of(future.result(), [], []))]
            replies: list[Reply] = pickle.loads(future.result())
            return [
                Happening(
                    worker=worker, call=one.call, result=result_of(reply, one.made, one.given)
                )
                for one, reply in zip(letters, replies, strict=True)
            ]
        cause = getattr(error, "cause", None)
        lost = (exceptions.ObjectLostError, exceptions.ReferenceCountingAssertionError)
        if letters and (isinstance(error, lost) or isinstance(cause, lost)):
            return [Happening(worker=worker, call=one.call, missing=True) for one in letters]
        if isinstance(error, exceptions.OutOfMemoryError):
            return [Happening(worker=worker, died="the machine ran out of memory", starved=True)]
        if isinstance(error, exceptions.RayActorError):
            return [Happening(worker=worker, died=obituary(str(error)))]
        if isinstance(error, exceptions.ActorUnschedulableError):
            return [Happening(worker=worker, died=f"no machine has room for it: {error}")]
        kind = type(cause or error).__name__
        result = Result(failure=Failure(kind=kind, text=str(cause or error), detail=str(error)))
        calls = [letter.call for letter in letters] or [None]
        return [Happening(worker=worker, call=call, result=result) for call in calls]


def _is_camera(lane: Lane) -> bool:
    return lane.kind == "head" and lane.flow is not None and lane.flow.live


def obituary(text: str) -> str:
    """Say in a few words how a worker ended, out of the page that Ray writes about it.

    Of a crash Ray knows only that the connection broke; its page then lists what may be the cause.
    """
    if "its node has died" in text:
        return "the machine that it ran on is gone"
    code = re.search(r"exit code[ :=]+(-?\d+)", text)
    if code:
        return f"its process ended with code {code[1]}"
    return "its process ended unexpectedly (a crash, lack of memory, or someone ended it)"


class _Actor:
    """The actor: a host behind Ray's calls."""

    def __init__(self, log: LogSettings) -> None:
        configure(log)
        keep_freed()
        self._news = NEWS
        self._spoke = 0.0
        self._host = Host()

    def open(
        self,
        name: str,
        specs: tuple[StageSpec, ...],
        context: Context,
        home: Home | None,
        places: dict[str, int],
    ) -> Reply:
        """Build the stages; `name` is that of the job, a colon and the worker's number."""
        bind(job=name.partition(":")[0])
        self._news = NEWS + name.encode()
        with suppress(Exception):  # The host says what is wrong with a stage.
            for spec in specs:
                find(spec.step, spec.model)
        # What has been imported stays: the collector need not look through it again and again.
        gc.freeze()
        self._host = Host(self._tell)
        reply = self._host.open(specs, replace(context), home, places)
        import ray

        if isinstance(reply.extra, dict):
            where = ray.get_runtime_context().get_node_id()
            bind(node=where[:8])
            return replace(reply, extra={**reply.extra, "node": where, "pid": os.getpid()})
        return reply

    def call(self, pickled: bytes, *arrays: Any) -> Any:
        """Answer calls in their order.

        Args:
            pickled: An order, how many objects may come back and how many were given; of each.
            arrays: What was given, one call's after the other's.

        Returns:
            The pickled answers, then each call's arrays and nothing up to its number of objects.
        """
        rows: list[tuple[Order, int, int]] = pickle.loads(pickled)
        replies: list[Reply] = []
        made: list[Any] = []
        at = 0
        for order, slots, given in rows:
            with bound(stream=order.home.source.name, clip=order.where, stage=order.stage):
                reply, fresh = self._host.call(order, arrays[at : at + given])
            at += given
            replies.append(reply)
            if reply.seconds > LONG_S:
                # A whole stream's stage may not be called again.
                give_back()
            made += (*fresh, *[None] * (slots - len(fresh)))
        answer = pickle.dumps(replies, protocol=5)
        return (answer, *made) if made else answer

    def rest(self) -> bool:
        """Close the stages; say whether other ones may move in."""
        try:
            self._host.close()
        except Exception:
            log.exception("a stage did not close")
        self._host = Host()
        gc.collect()
        give_back()
        fit = peak_memory_bytes() < MOST_RESTING_BYTES
        forget_peak()
        return fit

    def leave(self) -> None:
        """Close the stages and end."""
        from ray.actor import exit_actor

        try:
            self._host.close()
        finally:
            exit_actor()

    def _tell(self, stage: str, event: Progress) -> None:
        now = time.monotonic()
        if now - self._spoke < PROGRESS_EVERY_S:
            return
        self._spoke = now
        from ray.experimental import internal_kv

        row = {"stage": stage, "done": event.done, "total": event.total, "note": event.note}
        internal_kv._internal_kv_put(self._news, json.dumps(row).encode(), overwrite=True)  # pyright: ignore[reportPrivateUsage]


def _actor_class() -> tuple[Any, Any]:
    import ray

    class Threaded(_Actor):
        """A camera's actor, which can be told to end while it waits for pictures."""

        @ray.method(concurrency_group="control")
        def end(self) -> None:
            """End the camera; its last clips still come."""
            self._host.end()

    plain: Any = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0}
    remote: Any = ray.remote
    Threaded.__name__ = Threaded.__qualname__ = "Camera"
    return (
        remote(**plain)(_Actor),
        remote(**plain, concurrency_groups={"control": 1})(Threaded),
    )
