"""Every patch of a private API of Ray, in one place.

Ray 2.60 has no public way to do these things. Where another version lacks a name, the effect is
lost and a warning says which; the run continues.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["loopback", "only_what_is_needed", "patient_start", "read_token", "silent_daemons"]

START_S = 180.0
"""Ray itself gives its daemons 30 s to come up, which a busy machine exceeds."""

log = logging.getLogger(__name__)


@contextmanager
def replaced(where: str, value: Any, effect: str) -> Generator[bool]:
    """Replace an attribute of one of Ray's private modules for the time of the block.

    Args:
        where: Module, a colon, and the path of the attribute in it.
        value: The new value.
        effect: What is lost where there is no such attribute, for the warning.

    Yields:
        Whether it was replaced.
    """
    found = _find(where)
    if found is None:
        log.warning("this version of Ray has no %s: %s", where.replace(":", "."), effect)
        yield False
        return
    owner, name, before = found
    setattr(owner, name, value)
    try:
        yield True
    finally:
        setattr(owner, name, before)


def _find(where: str) -> tuple[Any, str, Any] | None:
    """Return the owner of an attribute, the attribute's name and its value; None if missing."""
    module, _, path = where.partition(":")
    *parents, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name, getattr(owner, name)
    except (ImportError, AttributeError):
        return None


@contextmanager
def only_what_is_needed() -> Generator[None]:
    """Start none of Ray's helpers that the run does not use: autoscaler, log reader, web server.

    Each is a Python process; together they took half of the time of a start on two cores.
    """
    params = _find("ray._private.parameter:RayParams")

    def fewer(*arguments: Any, **named: Any) -> Any:
        assert params is not None
        wanted = {**named, "no_monitor": True, "include_log_monitor": False}
        return params[2](*arguments, **wanted)

    slower = "Ray starts more slowly"
    with ExitStack() as stack:
        stack.enter_context(replaced("ray._private.parameter:RayParams", fewer, slower))
        stack.enter_context(
            replaced("ray._private.node:Node.start_api_server", _start_nothing, slower)
        )
        # Ray's agent then leaves out its web pages and its metrics.
        stack.enter_context(
            replaced("ray._private.utils:get_dashboard_dependency_error", _not_wanted, slower)
        )
        yield


def _start_nothing(node: Any, **named: Any) -> None:
    del node, named


def _not_wanted() -> ImportError:
    return ImportError("not wanted here")


def read_token() -> bool:
    """Have Ray read the token settings from the environment again; return whether it does.

    Ray reads them when it is imported, and never after.
    """
    try:
        from ray import _raylet

        internals: Any = _raylet
        mode = os.environ.get("RAY_AUTH_MODE", "disabled")
        internals.Config.initialize(json.dumps({"AUTH_MODE": mode}))
        internals.AuthenticationTokenLoader.instance().reset_cache()
    except (ImportError, AttributeError) as error:
        log.warning("this version of Ray does not read its token again: %s", error)
        return False
    return True


@contextmanager
def patient_start() -> Generator[None]:
    """Wait longer for the first answer of Ray's daemons than Ray does."""
    where = "ray._private.services:get_node"
    found = _find(where)

    def asked(*arguments: Any) -> Any:
        assert found is not None
        until = time.monotonic() + START_S
        while True:
            try:
                return found[2](*arguments)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    with replaced(where, asked, "on a busy machine Ray may give up its start after 30 s"):
        yield


@contextmanager
def loopback(only: bool) -> Generator[None]:
    """Have Ray use the loopback interface, as it does on macOS and Windows.

    Elsewhere it binds to all interfaces, and replaces a loopback address that it is given.
    """
    if not only:
        yield
        return
    where = "ray._private.ray_constants:ENABLE_RAY_CLUSTER"
    with replaced(where, False, "Ray listens on all interfaces, guarded by its token alone"):
        yield


@contextmanager
def silent_daemons() -> Generator[None]:
    """Keep Ray from printing a page for every dead worker: standard output is the command's own.

    The scheduler logs a line instead. Ray's `log_to_driver` does not cover this.
    """
    where = "ray._private.worker:listen_error_messages"
    with replaced(where, _listen_to_nothing, "Ray prints a page for every worker that dies"):
        yield


def _listen_to_nothing(worker: Any, threads_stopped: Any) -> None:
    del worker, threads_stopped
