"""The workers of all pools: which task goes to which, which are started and which stopped."""

from __future__ import annotations

from pipeline.scheduling.backend import Backend, Limits
from pipeline.scheduling.pools import IDLE_S, Worker, WorkerPool
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.tasks import StreamInfo, Task

__all__ = ["WorkerManager"]


class WorkerManager:
    """Sends the tasks of all streams to workers."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.backend = backend
        self.limits = limits
        self.pools: list[WorkerPool] = []
        self.streams: list[Stream] = []
        """All that were ever added."""
        self.at_work: list[Stream] = []
        """Those that have begun and not ended."""
        self.work = 0.0
        """Seconds of work that wait or run, in all pools, at the last review."""
        self._by_number: dict[int, Stream] = {}
        self._submitted = 0
        self._started = 0
        self._awake: dict[WorkerPool, int] = {}
        """Pools that may have tasks to send, and their positions in the order of service."""
        self._ranks: dict[WorkerPool, int] = {}
        self._pools_seen = 0
        self._touched: dict[int, Stream] = {}

    # Streams and their pools ------------------------------------------------------------------

    def add(self, stream: Stream) -> None:
        """Take the pools of a stream."""
        self.streams.append(stream)
        self._by_number[stream.number] = stream
        for pool in stream.all_pools:
            pool.users += 1
            if pool not in self.pools:
                self.pools.append(pool)
                self._ranks[pool] = self._pools_seen = self._pools_seen + 1

    def leave(self, stream: Stream) -> None:
        """Drop the queued tasks of a stream that has ended, and the pools that no other needs."""
        for pool in stream.all_pools:
            pool.users -= 1
            pool.drop_stream(stream.dataflow.info)
            if pool.users == 0:
                for worker in list(pool.workers):
                    self._release(worker)
                self.pools.remove(pool)
                self._awake.pop(pool, None)
                del self._ranks[pool]

    def stream_of(self, info: StreamInfo) -> Stream:
        """Return the scheduler's record of a stream."""
        return self._by_number[info.number]

    def touch(self, stream: Stream) -> None:
        """Note that something has happened to a stream in this step."""
        self._touched[stream.number] = stream

    def touch_all(self, pool: WorkerPool) -> None:
        """Note that something has happened to all streams of a pool."""
        for stream in [self.stream_of(pool.stream)] if pool.stream is not None else self.at_work:
            self.touch(stream)

    def touched(self) -> list[Stream]:
        """Return the streams to which something has happened since this was asked last."""
        touched, self._touched = list(self._touched.values()), {}
        return touched

    # Tasks ------------------------------------------------------------------------------------

    def submit(self, stream: Stream, task: Task) -> None:
        """Queue a task for a worker."""
        self._submitted += 1
        task.serial = self._submitted
        if task.kind in ("persist", "load", "report"):
            pool = stream.sink_pool
        else:
            pool = stream.pools[task.stage.index]
        pool.enqueue(task)
        self.wake(pool)

    def wake(self, pool: WorkerPool) -> None:
        """Note that a pool may have tasks to send."""
        if pool in self._ranks:
            self._awake[pool] = self._ranks[pool]

    def dispatch(self) -> None:
        """Send the queued tasks, and start and stop workers."""
        now = self.backend.now()
        # Late stages first: what they end makes room.
        for pool in sorted(self._awake, key=self._awake.__getitem__, reverse=True):
            if pool.backlog:
                self._serve(pool, now)
            else:
                del self._awake[pool]

    def review(self) -> None:
        """Measure how much work there is, and stop workers that have none."""
        self.work = sum(pool.pending_s for pool in self.pools)
        now = self.backend.now()
        for pool in self.pools:
            if pool.kind == "shared":
                self._shrink(pool, now)

    def _serve(self, pool: WorkerPool, now: float) -> None:
        for worker in pool.workers:
            worker.sealed = worker.sealed and bool(worker.tasks)
        while (given := pool.next_assignment()) is not None:
            self._send(*given, now)
        for worker in pool.workers:
            worker.sealed = pool.light and bool(worker.tasks)
        wanted = pool.desired_size(self.limits.cores, self.limits.gpus, self.work)
        if pool.backlog and now >= pool.backoff_until:
            for _ in range(wanted - len(pool.workers)):
                self.start(pool)

    def _send(self, worker: Worker, task: Task, exclusive: bool, now: float) -> None:
        if not worker.tasks:
            worker.since = now
        worker.tasks.append(task)
        worker.exclusive = exclusive
        stream = self.stream_of(task.stream)
        if task.kind not in ("persist", "load", "redecode"):
            stream.hooks.on_sent(task.stage)
        task.safe = stream.dataflow.safe
        self.backend.send(worker, task)
        self._warm(stream, task)

    def _warm(self, stream: Stream, task: Task) -> None:
        """Start the first worker of what follows a long task, so that it is up by then."""
        if task.kind == "finish" or task.stage.kind == "whole_stream":
            for stage in task.stage.consumers:
                pool = stream.pools[stage.index]
                if stage.kind == "whole_stream" and stage.runs and not pool.workers:
                    self.start(pool)

    # Workers ----------------------------------------------------------------------------------

    def start(self, pool: WorkerPool) -> None:
        """Start one more worker of a pool."""
        now = self.backend.now()
        self._started += 1
        worker = Worker(self._started, pool, since=now, started=now)
        pool.workers.append(worker)
        pool.done_s = 0.0
        places: dict[str, int] = {}
        if pool.stream is not None:
            dataflow = self.stream_of(pool.stream).dataflow
            places = {
                stage.name: stage.snapshot for stage in dataflow.stages if stage.kind == "stateful"
            }
            places[dataflow.source_stage.name] = dataflow.produced if dataflow.total is None else -1
        self.backend.start(worker, places)

    def detach(self, worker: Worker) -> None:
        """Take a worker off its pool: it has ended, or is about to."""
        worker.state = "stopped"
        worker.pool.busy_s += worker.busy_s
        worker.tasks.clear()
        worker.pool.workers.remove(worker)

    def stop(self, worker: Worker) -> None:
        """Let a worker close its stages and end."""
        self.detach(worker)
        self.backend.stop(worker)

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        self.detach(worker)
        self.backend.kill(worker)

    def stop_finished(self, stream: Stream, pool: WorkerPool) -> None:
        """End the worker of a stream's stage that has ended."""
        mine = [n for n in stream.dataflow.stages if stream.pools[n.index] is pool]
        if pool.kind in ("source", "stateful") and all(stage.finalized for stage in mine):
            for worker in list(pool.workers):
                if self._is_done(worker):
                    self.stop(worker)

    def close(self, *, at_once: bool) -> None:
        """End every worker; `at_once` does not let the stages close, as a crash would."""
        for pool in self.pools:
            for worker in pool.workers:
                (self.backend.kill if at_once else self.backend.stop)(worker)
            pool.workers = []

    def _release(self, worker: Worker) -> None:
        """End a worker; one that is busy is killed, or it would first end its task."""
        ready = worker.state == "ready" and self._is_done(worker)
        (self.stop if ready else self.kill)(worker)

    def _shrink(self, pool: WorkerPool, now: float) -> None:
        """Stop workers that are idle, or more than this run may have now."""
        most = pool.max_size(self.limits.cores, self.limits.gpus)
        for worker in sorted(pool.workers, key=lambda w: -len(w.tasks))[most:]:
            worker.draining = True
        for worker in list(pool.workers):
            if worker.draining and not worker.tasks and worker.state == "ready":
                self.stop(worker)
        idle = [w for w in pool.workers if w.state == "ready" and not w.tasks]
        if pool.backlog or not idle:
            return
        expects = self._expects(pool)
        for worker in idle:
            # One stays for what may come; where nothing will, its process is free for others.
            long = now - worker.since > IDLE_S
            if not expects or (long and len(pool.workers) > 1):
                self.stop(worker)

    def _expects(self, pool: WorkerPool) -> bool:
        """Whether a running stream may still bring tasks to a pool soon."""
        return any(
            stream.pools.get(stage.index) is pool
            and not stage.finalized
            and (stage.kind == "clip" or stream.dataflow.total is not None)
            for stream in self.streams
            if not stream.ended
            for stage in stream.dataflow.stages
        )

    def _is_done(self, worker: Worker) -> bool:
        """Whether a worker has no more to do; a source at its end answers what is left at once."""
        pool = worker.pool
        at_end = (
            pool.kind == "source"
            and pool.stream is not None
            and self.stream_of(pool.stream).dataflow.total is not None
        )
        return not worker.tasks or (at_end and all(t.kind == "next_clip" for t in worker.tasks))
