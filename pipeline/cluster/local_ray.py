"""A private Ray: started with what a run needs of it, and ended with the run."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.cluster.ray_internals import (
    loopback,
    only_what_is_needed,
    patient_start,
    read_token,
    silent_daemons,
)
from pipeline.errors import UsageError

__all__ = ["line_of", "own", "own_signals", "start_ray"]

OWN_STORE_SHARE = 0.3
"""Of the free memory, for the object store of an own cluster; Ray's own default."""
MOST_STORE_BYTES = 8 << 30
STARTS = 2
"""How often an own cluster is started before that is an error."""
SETTINGS = {
    # Released objects are room at once.
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

    if not read_token():
        # A driver that has read other settings would not be let in.
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]
    try:
        try:
            with loopback(True), silent_daemons(), only_what_is_needed():
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
        read_token()
        shutil.rmtree(folder, ignore_errors=True)


def start_ray(**options: Any) -> None:
    """Start a Ray of this machine's own, as `ray.init` does, on a busy machine too."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            with patient_start():
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


def _sweep() -> None:
    """Remove what clusters have left whose process was killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


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
