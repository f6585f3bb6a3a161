"""Every patch of a private API of Ray, in one place."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

START_S = 180.0
"""Ray itself gives its daemons 30 s to come up, which a busy machine exceeds."""


@contextmanager
def only_what_is_needed() -> Generator[None]:
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


def read_token() -> None:
    """Have Ray look at the environment again: it does so when it is imported, and never after."""
    from ray import _raylet

    internals: Any = _raylet
    mode = os.environ.get("RAY_AUTH_MODE", "disabled")
    internals.Config.initialize(json.dumps({"AUTH_MODE": mode}))
    internals.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def patient_start() -> Generator[None]:
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
