"""A Ray of this process's own: started with what a run needs of it, gone with the run."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import UsageError

__all__ = ["line_of", "loopback", "own", "own_signals", "silent_daemons", "start_ray"]

OWN_STORE_SHARE = 0.3
"""Of the free memory, for the object store of an own cluster; Ray's own default."""
MOST_STORE_BYTES = 8 << 30
STARTS = 2
"""How often an own cluster is started before that is an error."""
START_S = 180.0
"""Ray itself gives its daemons 30 s to come up, which a busy machine exceeds."""
SETTINGS = {
    # What is let go is room at once.
    "free_objects_batch_size": 1,
    # Nobody looks at these here.
    "task_events_report_interval_ms": 0,
    "enable_metrics_collection": False,
    "event_stats": False,
}
"""Of Ray's daemons and workers."""
PREFIX = "reel3d-ray-"
"""Of the folder of an own cluster; the number of its process follows."""


@contextmanager
def own(cores: int | None, store_bytes: int | None) -> Generator[None]:
    """Start a cluster of this process's own; with it goes all that it wrote."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    import ray

    _read_token()
    try:
        try:
            with loopback(True), silent_daemons(), _only_what_is_needed():
                start_ray(
                    num_cpus=cores or len(os.sched_getaffinity(0)),
                    object_store_memory=store_bytes or _store_bytes(),
                    _temp_dir=str(folder),
                    _system_config=SETTINGS,
                )
        except Exception as error:
            raise UsageError(f"Ray does not start on this machine: {line_of(error)}") from error
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_token()
        shutil.rmtree(folder, ignore_errors=True)


def start_ray(**options: Any) -> None:
    """Start a Ray of this machine's own, as `ray.init` does, on a busy machine too."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            with _patient_start():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **options,
                )
            return
        except Exception:
            # A daemon may not have come up in the time that Ray gives it.
            ray.shutdown()
            if not left:
                raise


@contextmanager
def _only_what_is_needed() -> Generator[None]:
    """Start none of Ray's helpers that nobody will ask: autoscaler, log reader, web server.

    Each is a Python process; together they took half of the time of a start on two cores.
    """
    from ray._private import node, parameter, utils

    everything: Any = parameter.RayParams
    nodes: Any = node.Node
    helpers: Any = utils
    serve, check = nodes.start_api_server, helpers.get_dashboard_dependency_error

    def fewer(*arguments: Any, **named: Any) -> Any:
        return everything(*arguments, **{**named, "no_monitor": True, "include_log_monitor": False})

    places: Any = parameter
    places.RayParams = fewer
    nodes.start_api_server = _start_nothing
    # Ray's agent then leaves its web pages out, and its metrics.
    helpers.get_dashboard_dependency_error = _not_wanted
    try:
        yield
    finally:
        places.RayParams = everything
        nodes.start_api_server = serve
        helpers.get_dashboard_dependency_error = check


def _start_nothing(node: Any, **named: Any) -> None:
    del node, named


def _not_wanted() -> ImportError:
    return ImportError("not wanted here")


def _read_token() -> None:
    """Have Ray look at the environment again: it does so when it is imported, and never after."""
    from ray import _raylet

    internals: Any = _raylet
    mode = os.environ.get("RAY_AUTH_MODE", "disabled")
    internals.Config.initialize(json.dumps({"AUTH_MODE": mode}))
    internals.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _patient_start() -> Generator[None]:
    """Wait longer for the first word of Ray's daemons than Ray does."""
    from ray._private import services

    ask: Any = services.get_node

    def asked(*arguments: Any) -> Any:
        until = time.monotonic() + START_S
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    services.get_node = asked
    try:
        yield
    finally:
        services.get_node = ask


def _sweep() -> None:
    """Remove what clusters have left whose process was killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def loopback(only: bool) -> Generator[None]:
    """Have Ray use the loopback interface, as it does on macOS and Windows.

    Elsewhere it binds to all interfaces, and replaces a loopback address that it is given.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not only
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def silent_daemons() -> Generator[None]:
    """Keep Ray from printing a page for every dead worker: standard output is the command's own.

    The scheduler says in a line of the log what has happened. `log_to_driver` does not cover this.
    """
    from ray._private import worker

    listen: Any = worker.listen_error_messages
    worker.listen_error_messages = _listen_to_nothing
    try:
        yield
    finally:
        worker.listen_error_messages = listen


def _listen_to_nothing(worker: Any, threads_stopped: Any) -> None:
    del worker, threads_stopped


@contextmanager
def own_signals() -> Generator[Callable[[], None]]:
    """Keep Ctrl-C and SIGTERM, which Ray takes as it starts: it would end the process at once.

    What is yielded takes them back. Whoever asked for SIGTERM gets it; otherwise it is an
    interruption, so that nothing that was started stays behind.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        both = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # None: not Python's to set.
        before = {number: handler for number, handler in both.items() if handler is not None}

    def take_back() -> None:
        for number, handler in before.items():
            signal.signal(number, _interrupt if handler == signal.SIG_DFL else handler)

    try:
        yield take_back
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def line_of(error: Exception) -> str:
    """Return what an error says as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _store_bytes() -> int:
    import psutil

    free = psutil.virtual_memory().available
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else free
    return int(min(OWN_STORE_SHARE * free, 0.9 * shared, MOST_STORE_BYTES))
