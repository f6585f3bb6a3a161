"""The errors a user can meet, and the exit code that each one ends in.

::

    Reel3dError
    ├── UsageError     exit 2   the command, an option or a preset is wrong
    │   └── OutputError         the output folder or its disk cannot take the result
    ├── SourceError    exit 3   the video, folder or camera cannot be used
    ├── PartNotMade    exit 4   one part cannot be made from this source; the rest goes on
    └── WorkerDied     exit 4   a stage's process crashed or hung; what it held is lost

Every message is one line that says what was given, what is allowed and what to do.
Anything else that escapes is a bug and ends in exit code 1.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "NAMED",
    "SYSTEM_PACKAGES",
    "OutputError",
    "PartNotMade",
    "Reel3dError",
    "SourceError",
    "UsageError",
    "WorkerDied",
    "did_you_mean",
    "later",
    "require",
]


class Reel3dError(Exception):
    """Something went wrong that the user can understand and mend."""

    exit_code = 1


class UsageError(Reel3dError):
    """The command line, the configuration or the output folder is wrong."""

    exit_code = 2


class OutputError(UsageError):
    """The output folder exists, may not be written, or its disk is full: the run stops."""


class SourceError(Reel3dError):
    """The source is missing, broken, too large, or holds no video."""

    exit_code = 3


class PartNotMade(Reel3dError):
    """A stage cannot make its part from this source; the message tells the user why.

    The failure is data: the runner records it, skips what depends on the part and goes on.
    """

    exit_code = 4


class WorkerDied(Reel3dError):
    """The process that ran a stage crashed or passed its deadline."""

    exit_code = 4


NAMED: dict[str, type[Reel3dError]] = {
    error.__name__: error
    for error in (Reel3dError, UsageError, OutputError, SourceError, PartNotMade, WorkerDied)
}
"""By name, for errors that come out of another process."""


SYSTEM_PACKAGES = {"open3d": "libusb-1.0-0 libegl1 libgl1 libx11-6 libudev1 libidn2-0"}
"""Module to the Debian packages that its wheel needs and does not bring; docker/debian-packages.txt
lists the same."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for a near miss, else an empty string."""
    near = difflib.get_close_matches(word, list(allowed), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def later(module: str) -> ModuleType:
    """Return a module that is loaded when it is first used.

    A stage may then be found, described and configured without its libraries: the process that
    only hands out the work never loads what runs in a worker.

    Raises:
        UsageError: It is not installed.
    """
    if module in sys.modules:
        return sys.modules[module]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.loader is None:
        raise UsageError(f"{module} is not installed; pip install {module}")
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    lazy = importlib.util.module_from_spec(spec)
    sys.modules[module] = lazy
    loader.exec_module(lazy)
    return lazy


def require(module: str, *, extra: str | None = None) -> ModuleType:
    """Import an optional or fragile package, or say in one line how to install it.

    Args:
        module: The module to import, such as `"open3d"`.
        extra: The extra of reel3d that brings it: `pip install 'reel3d[extra]'`.

    Raises:
        UsageError: It is not installed or does not load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        advice = []
        if extra:
            advice.append(f"pip install 'reel3d[{extra}]'")
        if module in SYSTEM_PACKAGES:
            advice.append(f"apt-get install {SYSTEM_PACKAGES[module]}")
        raise UsageError(
            f"{module} cannot be imported ({error}); install it: "
            + " and ".join(advice or [f"pip install {module}"])
        ) from error
