"""`reel3d watch`: cameras, until they are stopped.

The same chain as `reel3d run`: events are written while the camera runs, the reconstruction when
it stops. Ctrl-C (or SIGTERM, as containers are stopped) ends the camera and lets the run finish;
the second one ends the run where it is.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Self

from rich.console import Console

from pipeline.cli.shared_options import add_license_option
from pipeline.config import is_override, presets
from pipeline.errors import UsageError
from pipeline.sources import CAMERAS, mask, scheme
from pipeline.worker import stop_sources

__all__ = ["GracefulEnd", "add_watch", "has_camera"]

WATCH_HELP = """\
examples:
  reel3d watch rtsp://camera.local/stream
  reel3d watch rtsp://camera.local/stream --for 60 --out runs/yard splat.model=none
  reel3d watch rtsp://one/live rtsp://two/live --runner cluster

Ctrl-C ends the camera, makes the reconstruction and finishes the run folder; a second one aborts.
An address on a command line can be read by others on this machine: keep the login in a file in
netrc's form (~/.netrc, or the one named by REEL3D_CREDENTIALS).
"""

Command = Callable[[argparse.Namespace, Console], int]


def add_watch(commands: Any, run: Command) -> None:
    """Add the command to the parser's subcommands; `run` does the work."""
    watch = commands.add_parser(
        "watch",
        help="follow live cameras: events at once, the place when they stop",
        epilog=WATCH_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    watch.add_argument(
        "words",
        nargs="+",
        metavar="rtsp://…|step.option=value",
        help="addresses of cameras; options of the stages",
    )
    watch.add_argument(
        "--for", dest="for_s", metavar="SECONDS", type=_seconds, help="stop by itself after so long"
    )
    watch.add_argument("--out", type=Path, help="run folder (default: runs/<name of the camera>)")
    preset = watch.add_mutually_exclusive_group()
    preset.add_argument("--preset", default="live", help=f"one of {', '.join(presets())}")
    preset.add_argument("--config", type=Path, help="YAML file; a run's config.yaml repeats it")
    watch.add_argument(
        "--runner",
        default="local",
        choices=("local", "cluster"),
        help="this process (default, one camera), or Ray actors",
    )
    watch.add_argument("--quiet", action="store_true", help="print the run folder and errors only")
    watch.add_argument("--address", metavar="HOST:PORT|auto", help="of the Ray cluster to join")
    add_license_option(watch)
    command = functools.partial(_watch, run=run)
    watch.set_defaults(command=command, resume=False, priority=0, share=1.0)


def has_camera(uris: Iterable[str]) -> bool:
    """Say whether any of these sources is a camera."""
    return any(scheme(uri) in CAMERAS for uri in uris)


def _watch(options: argparse.Namespace, console: Console, *, run: Command) -> int:
    sources = [word for word in options.words if not is_override(word)]
    allowed = " or ".join(f"{name}://" for name in CAMERAS)
    if not sources:
        raise UsageError(f"no camera given; name its address, which begins with {allowed}")
    for uri in sources:
        if scheme(uri) not in CAMERAS:
            raise UsageError(
                f"{mask(uri)} is not a camera: watch takes addresses that begin with {allowed}; "
                "files and folders are for `reel3d run`"
            )
    if len(sources) > 1 and options.runner == "local":
        raise UsageError(
            f"{len(sources)} cameras at once need --runner cluster; the local runner follows one"
        )
    if options.for_s is not None:
        options.words = [*options.words, f"decode.for_s={options.for_s!r}"]
    return run(options, console)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got '{text}'")
    return seconds


class GracefulEnd:
    """While it is entered, the first Ctrl-C or SIGTERM calls `stop`, the second one aborts."""

    def __init__(self, stop: Callable[[], None] = stop_sources) -> None:
        self._stop = stop
        self._heard = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python handles signals in the main thread only; elsewhere the caller decides.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._heard += 1
        if self._heard > 1:
            raise KeyboardInterrupt
        # A handler may run in the middle of anything: no console, no logger.
        told = "\nreel3d: the camera is stopped and the run finished; once more to abort\n"
        os.write(2, told.encode())
        self._stop()
