"""Child process for isolated stages: their libraries may crash, hang or corrupt memory.

The parent sends a work item's messages and reads back, one by one, what the stages make of them;
arrays travel as raw buffers. A crash or a missed deadline ends the child, not the run. The child
runs `python -m pipeline.worker <fd> <fd>`; the second descriptor signals it to stop.
Both ends are this program, so the pickles between them are trusted.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.contract import Context, Event, Probe, Source, Stage
from pipeline.contract.stage import find, iterate, options_of
from pipeline.errors import NAMED, WorkerDied
from pipeline.telemetry import configure, peak_memory_bytes
from pipeline.worker.allocator import keep_freed
from pipeline.worker.protocol import Failure

__all__ = ["ChildProcess", "StageBug", "stop_sources"]

CHILD_GRACE_S = 5.0
"""Time that a child may take to close its stages."""


class StageBug(Exception):
    """A stage in a child process raised an exception that is not a message for the user."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.text}")
        self.failure = failure


@dataclass(frozen=True)
class _Model:
    """What the child needs to build a stage."""

    step: str
    model: str
    options: dict[str, Any]


def _send(connection: Connection, value: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    connection.send_bytes(pickle.dumps((head, len(raw))))
    for view in raw:
        # An empty memoryview is refused by send_bytes of some versions: pad by one byte.
        connection.send_bytes(view if view.nbytes else b"\0")


def _receive(connection: Connection) -> Any:
    head, count = pickle.loads(connection.recv_bytes())
    buffers = [connection.recv_bytes() for _ in range(count)]
    return pickle.loads(head, buffers=buffers)


class ChildProcess:
    """One child process that runs one stage, or decode and sample together."""

    def __init__(
        self,
        stages: list[Stage[Any]],
        specs: list[tuple[str, str]],
        silence_s: float | None = None,
    ) -> None:
        """Prepare a child for `stages`, whose (step, model) names are `specs`.

        `silence_s` is the deadline where the stages name none.
        """
        self._specs = [
            _Model(step, model, stage.config.model_dump())
            for (step, model), stage in zip(specs, stages, strict=True)
        ]
        self._name = "+".join(f"{step}/{model}" for step, model in specs)
        limits = [stage.deadline_s for stage in stages if stage.deadline_s is not None]
        self._deadline_s = max(limits) if limits else silence_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log: Path | None = None
        self._busy = False
        self._stopper: socket.socket | None = None
        self.peak_memory_bytes = 0

    def open(self, context: Context, reports: list[Callable[[Event], None]]) -> None:
        """Start the child and open its stages; each stage's events go to its own report."""
        ours, theirs = socket.socketpair()
        self._stopper, stopper = socket.socketpair()
        handle, log = tempfile.mkstemp(prefix="reel3d-worker-", suffix=".log")
        self._log = Path(log)
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        pair = [theirs.fileno(), stopper.fileno()]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.worker", *map(str, pair)],
                pass_fds=pair,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                env=environment,
            )
        finally:
            os.close(handle)
            theirs.close()
            stopper.close()
        self._connection = Connection(ours.detach())
        if len(self._specs) > 1:
            _heads.add(self)
        self._reports = reports
        plain = replace(context, report=Context().report)
        list(self._call("open", (self._specs, plain)))

    def process(self, messages: dict[str, Any]) -> Iterator[Any]:
        """Send one call of `process`, by parameter name, and yield what comes back."""
        yield from self._call("process", messages)

    def finish(self) -> Iterator[Any]:
        """Send the end of the stream and yield what comes back."""
        yield from self._call("finish", None)

    def stop(self) -> None:
        """Ask the child to read no more of the source: the clips that it has still come.

        Callable from any thread and from a signal's handler, also during a call.
        """
        if self._stopper is not None:
            with suppress(OSError):
                self._stopper.send(b"s")

    def close(self) -> None:
        """Close the stages and end the child, by force if it does not follow."""
        if self._busy:
            # Left in the middle of a call: the state of the child is of no use.
            self._kill()
        process, connection = self._process, self._connection
        self._process = self._connection = None
        _heads.discard(self)
        if self._stopper is not None:
            self._stopper.close()
            self._stopper = None
        if connection is not None:
            with suppress(OSError, ValueError):
                _send(connection, ("close", None))
            connection.close()
        if process is not None:
            try:
                process.wait(CHILD_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.unlink(missing_ok=True)

    def _call(self, verb: str, payload: Any) -> Iterator[Any]:
        connection = self._connection
        if connection is None:
            raise WorkerDied(f"{self._name}: its process has ended")
        self._busy = True
        try:
            _send(connection, (verb, payload))
            while True:
                if self._deadline_s is not None and not connection.poll(self._deadline_s):
                    self._kill()
                    raise WorkerDied(
                        f"{self._name} gave no sign of life for {self._deadline_s:g} s "
                        "and was ended"
                    )
                kind, value = _receive(connection)
                if kind == "message":
                    yield value
                elif kind == "event":
                    stage, event = value
                    self._reports[stage](event)
                elif kind == "done":
                    self.peak_memory_bytes = value
                    self._busy = False
                    return
                else:
                    self._busy = False
                    self._raise(value)
        except (EOFError, ConnectionError, BrokenPipeError):
            raise WorkerDied(self._death_reason()) from None

    def _raise(self, failure: Failure) -> None:
        if failure.kind in NAMED:
            raise NAMED[failure.kind](failure.text)
        raise StageBug(failure)

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _death_reason(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(CHILD_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self._process.wait()
        if code < 0:
            how = f"ended by signal {-code} ({signal.Signals(-code).name})"
            if -code == signal.SIGKILL:
                how += ", perhaps for lack of memory"
        else:
            how = f"ended with code {code}"
        last = ""
        if self._log is not None:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            last = f"; its last words: {lines[-1][:200]}" if lines else ""
        return f"{self._name}: its process {how}{last}"


_heads: set[ChildProcess] = set()
"""Children of this process that read a source."""


def stop_sources() -> None:
    """End all sources that this process reads; what was read so far is processed."""
    for worker in list(_heads):
        worker.stop()


class _Stopping:
    """In the child: stops the reader when the parent asks for it, whatever the child is doing."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._reader: Any = None
        self._heard = False
        threading.Thread(target=self._listen, name="stop-listener", daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while self._pipe.recv(1):
                with self._lock:
                    self._heard = True
                    if self._reader is not None:
                        self._reader.stop()

    def watch(self, reader: Any) -> None:
        """Set the reader that is stopped on request; None for none."""
        with self._lock:
            self._reader = reader
            if reader is not None and self._heard:
                reader.stop()


def _serve(connection: Connection, stopping: _Stopping) -> None:
    stages: list[Stage[Any]] = []

    def report(stage: int, event: Event) -> None:
        _send(connection, ("event", (stage, event)))

    while True:
        verb, payload = _receive(connection)
        if verb == "close":
            for stage in reversed(stages):
                stage.close()
            return
        try:
            if verb == "open":
                specs, context = payload
                for spec in specs:
                    config = options_of(spec.step, spec.model).model_validate(spec.options)
                    stages.append(find(spec.step, spec.model)(config))
                    own = functools.partial(report, len(stages) - 1)
                    stages[-1].open(replace(context, report=own))
            elif verb == "process":
                for message in _process(stages, payload, stopping):
                    _send(connection, ("message", message))
            else:
                for message in iterate(stages[-1].finish()):
                    _send(connection, ("message", message))
            _send(connection, ("done", peak_memory_bytes()))
        except OSError as error:
            if isinstance(error, ConnectionError | BrokenPipeError):
                return
            _send(connection, ("error", Failure.of(error)))
        except Exception as error:
            _send(connection, ("error", Failure.of(error)))


def _process(
    stages: list[Stage[Any]], messages: dict[str, Any], stopping: _Stopping
) -> Iterator[Any]:
    """Call the one stage, or open the source and let the sampler take clips from it."""
    if len(stages) == 1:
        yield from iterate(stages[0].process(**messages))
        return
    decode, sample = stages
    (source,) = messages.values()
    assert isinstance(source, Source)
    reader = decode.process(source)
    try:
        assert isinstance(reader.probe, Probe)
        stopping.watch(reader)
        yield reader.probe
        yield from sample.process(reader)
    finally:
        stopping.watch(None)
        reader.close()


def _end_with_parent() -> None:
    """A child that computes for long must not outlive a killed parent."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def serve_parent() -> None:
    """Be the child: serve the parent at the other end of the socket named by argv."""
    # Ctrl-C goes to the whole process group; the parent decides what becomes of the child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    configure()
    keep_freed()
    _end_with_parent()
    connection = Connection(int(sys.argv[1]))
    stopping = _Stopping(socket.socket(fileno=int(sys.argv[2])))
    with suppress(EOFError, ConnectionError, BrokenPipeError):
        _serve(connection, stopping)
