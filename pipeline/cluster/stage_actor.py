"""What runs inside a worker's actor: a stage host behind Ray's calls.

Loaded in every actor, so nothing of the scheduler is imported here.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pipeline.cluster import key_value
from pipeline.contract import Context, Progress
from pipeline.contract.stage import find
from pipeline.telemetry import LogSettings, bind, bound, configure, forget_peak, peak_memory_bytes
from pipeline.worker import (
    Opened,
    Reply,
    Request,
    RunLocation,
    StageHost,
    StageSpec,
    give_back,
    keep_freed,
)

__all__ = ["PROGRESS_KEY", "StageActor", "actor_classes"]

PROGRESS_EVERY_S = 0.5
"""Shortest interval at which a worker reports the progress of a long task."""
LONG_S = 2.0
"""After a task that took longer, free memory is given back to the system."""
PROGRESS_KEY = b"reel3d:progress:"
"""Prefix of the keys under which actors put their progress into the cluster's key-value store."""
MOST_IDLE_BYTES = 600 << 20
"""An actor that has held more is ended with its stages: not all memory comes back."""

log = logging.getLogger(__name__)


class StageActor:
    """A stage host behind Ray's calls."""

    def __init__(self, log: LogSettings) -> None:
        configure(log)
        keep_freed()
        self._progress_key = PROGRESS_KEY
        self._reported = 0.0
        self._host = StageHost()

    def open(
        self,
        name: str,
        specs: tuple[StageSpec, ...],
        context: Context,
        location: RunLocation | None,
        places: dict[str, int],
    ) -> Reply:
        """Build the stages; `name` is that of the job, a colon and the worker's number."""
        bind(job=name.partition(":")[0])
        self._progress_key = PROGRESS_KEY + name.encode()
        with suppress(Exception):  # The host reports what is wrong with a stage.
            for spec in specs:
                find(spec.step, spec.model)
        # What has been imported stays: the collector need not look through it again and again.
        gc.freeze()
        self._host = StageHost(self._report_progress)
        reply = self._host.open(specs, replace(context), location, places)
        import ray

        if isinstance(reply.outcome, Opened):
            machine = ray.get_runtime_context().get_node_id()
            bind(node=machine[:8])
            opened = replace(reply.outcome, machine=machine, pid=os.getpid())
            return replace(reply, outcome=opened)
        return reply

    def handle(self, pickled: bytes, *arrays: Any) -> Any:
        """Carry out requests in their order.

        Args:
            pickled: Of each request: itself, how many objects may come back, how many were given.
            arrays: What was given, one request's after the other's.

        Returns:
            The pickled replies, then each request's arrays, padded with None to its number of
            objects.
        """
        rows: list[tuple[Request, int, int]] = pickle.loads(pickled)
        replies: list[Reply] = []
        made: list[Any] = []
        at = 0
        for request, slots, given in rows:
            stream = request.location.source.name
            with bound(stream=stream, clip=request.where, stage=request.stage):
                reply, fresh = self._host.handle(request, arrays[at : at + given])
            at += given
            replies.append(reply)
            if reply.seconds > LONG_S:
                # A whole stream's stage may not be called again.
                give_back()
            made += (*fresh, *[None] * (slots - len(fresh)))
        answer = pickle.dumps(replies, protocol=5)
        return (answer, *made) if made else answer

    def reset(self) -> bool:
        """Close the stages; return whether the process may take others."""
        try:
            self._host.close()
        except Exception:
            log.exception("a stage did not close")
        self._host = StageHost()
        gc.collect()
        give_back()
        fit = peak_memory_bytes() < MOST_IDLE_BYTES
        forget_peak()
        return fit

    def shut_down(self) -> None:
        """Close the stages and exit."""
        from ray.actor import exit_actor

        try:
            self._host.close()
        finally:
            exit_actor()

    def _report_progress(self, stage: str, event: Progress) -> None:
        now = time.monotonic()
        if now - self._reported < PROGRESS_EVERY_S:
            return
        self._reported = now
        row = {"stage": stage, "done": event.done, "total": event.total, "note": event.note}
        key_value.put(self._progress_key, row)


def actor_classes() -> tuple[Any, Any]:
    """Return the remote classes of plain actors and of those with a thread for control calls."""
    import ray

    class Threaded(StageActor):
        """A camera's actor, which can be asked to end while it waits for frames."""

        @ray.method(concurrency_group="control")
        def end(self) -> None:
            """End the camera; its last clips still come."""
            self._host.end()

    plain: Any = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0}
    remote: Any = ray.remote
    Threaded.__name__ = Threaded.__qualname__ = "Camera"
    return (
        remote(**plain)(StageActor),
        remote(**plain, concurrency_groups={"control": 1})(Threaded),
    )
