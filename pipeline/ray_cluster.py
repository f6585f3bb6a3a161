"""Joining a Ray cluster, or starting one of this process's own; what it offers, and where."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cluster_token import Token, find_token
from pipeline.errors import UsageError
from pipeline.host import Home
from pipeline.lanes import Lane

__all__ = ["Cluster", "joined"]

STORE_SHARE = 0.3
"""Of the object store, for the clips under way: Ray needs room for what it moves, other runs for
theirs, and nothing shall ever be spilled."""
SIDE_BY_SIDE = 8
"""So many runs must find room beside one another: what the workers claim is scaled to that on
small machines, where they share the cores in time."""
STAGES = 6
"""Pools that one run has at most at one time."""
SMALLEST_SHARE = 0.01
OWN_STORE_SHARE = 0.3
"""Of the free memory, for the object store of an own cluster; Ray's own default."""
MOST_STORE_BYTES = 8 << 30
STARTS = 2
"""How often an own cluster is started before that is an error."""
KNOCK_S = 10.0
START_S = 180.0
"""Ray itself gives its daemons 30 s to come up, which a busy machine exceeds."""
PREFIX = "reel3d-ray-"
"""Of the folder of an own cluster; the number of its process follows."""


class Cluster:
    """The Ray cluster that this process has joined."""

    def __init__(self, job: str, share: float) -> None:
        """Look at what there is; at most `share` of it is for this run."""
        import ray

        self.job = job
        nodes = [node for node in ray.nodes() if node["Alive"]]
        there = ray.cluster_resources()
        self.all_cores = max(1.0, there.get("CPU", 1.0))
        self.all_gpus = there.get("GPU", 0.0)
        self.nodes = len(nodes)
        self.budget_bytes = int(STORE_SHARE * share * there.get("object_store_memory", 1 << 30))
        self._here = ray.get_runtime_context().get_node_id()
        self._scale = min(1.0, self.all_cores / (SIDE_BY_SIDE * STAGES))
        self._everywhere = len(nodes) <= 1
        """Whether every machine sees the sources and run folders."""

    def divided(self, fraction: float) -> tuple[float, float]:
        """Return the cores and GPUs of a fraction of the cluster."""
        return max(1.0, self.all_cores * fraction), self.all_gpus * fraction

    def look_around(self, homes: list[Home]) -> None:
        """Find out whether all machines see the run folders and the sources."""
        import ray

        if self.nodes <= 1:
            return
        remote: Any = ray.remote
        look = remote(num_cpus=0)(_sees)
        pending = [
            look.options(scheduling_strategy=_on(node["NodeID"], soft=True)).remote(homes)
            for node in ray.nodes()
            if node["Alive"]
        ]
        self._everywhere = all(ray.get(pending, timeout=60))

    def claim(self, lane: Lane) -> dict[str, Any]:
        """Return the options under which an actor of a lane is placed."""
        if lane.kind != "pool":
            here = not self._everywhere
            return {"scheduling_strategy": _on(self._here, soft=False)} if here else {}
        claim: dict[str, Any] = {
            "num_cpus": max(SMALLEST_SHARE, round(lane.resources.cpus * self._scale, 2)),
            "scheduling_strategy": "SPREAD" if self.nodes > 1 else "DEFAULT",
        }
        if lane.resources.gpus:
            claim["num_gpus"] = lane.resources.gpus
        if lane.resources.memory_bytes:
            claim["memory"] = lane.resources.memory_bytes
        return claim


@contextmanager
def joined(
    address: str | None = None,
    *,
    share: float = 1.0,
    cores: int | None = None,
    store_bytes: int | None = None,
) -> Generator[Cluster]:
    """Join the cluster at `address` (`auto` finds one), or start one that ends with this block.

    An own cluster listens on the loopback interface only and asks for a token that nobody else
    knows.

    Raises:
        UsageError: There is no cluster there, or it does not let this process in.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A driver started by `uv run` would have Ray upload the whole working folder.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A failed call has one answer and several objects; Ray would log a page for each of those.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    job = os.environ.get("REEL3D_JOB") or secrets.token_hex(4)
    with _own(cores, store_bytes) if address is None else _others(address):
        yield Cluster(job, share)


@contextmanager
def _own(cores: int | None, store_bytes: int | None) -> Generator[None]:
    """Start a cluster of this process's own; with it goes all that it wrote."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    import ray

    _read_token()
    try:
        try:
            with _loopback(True), _silent_daemons():
                start_ray(
                    num_cpus=cores or len(os.sched_getaffinity(0)),
                    object_store_memory=store_bytes or _store_bytes(),
                    _temp_dir=str(folder),
                    _system_config={"free_objects_batch_size": 1},
                )
        except Exception as error:
            raise UsageError(f"Ray does not start on this machine: {_line(error)}") from error
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
def _others(address: str) -> Generator[None]:
    """Join a cluster that others have started."""
    token = find_token()
    if token is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _found_here()
    _knock(address, token)
    try:
        try:
            with _loopback(_only_on_loopback(address)), _silent_daemons():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            why = _line(error)
            raise UsageError(f"the Ray cluster at {address} does not let us in: {why}") from error
        yield
    finally:
        ray.shutdown()


@contextmanager
def _loopback(only: bool) -> Generator[None]:
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


def _only_on_loopback(address: str) -> bool:
    """Whether a cluster of this machine cannot be reached from others."""
    from ray._private import services

    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost"):
        return False
    with socket.socket() as probe:
        probe.settimeout(KNOCK_S)
        return probe.connect_ex((services.get_node_ip_address(), int(port))) != 0


@contextmanager
def _silent_daemons() -> Generator[None]:
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


def _found_here() -> str:
    from ray._private import services

    found = services.find_gcs_addresses()
    if len(found) == 1:
        return next(iter(found))
    if found:
        several = ", ".join(sorted(found))
        raise UsageError(f"several Ray clusters run here; name one with --address: {several}")
    raise UsageError(
        "there is no Ray cluster to join on this machine: start one with `ray start --head`, "
        "name one with --address HOST:6379, or leave --address out to run on this machine alone"
    )


def _knock(address: str, token: Token | None) -> None:
    """Find out at once what Ray itself says after a minute or not at all.

    Raises:
        UsageError: Nobody answers there, it is no Ray cluster, or the token is not its own.
    """
    if not re.fullmatch(r"[^/\s]+:\d+", address):
        raise UsageError(
            f"--address {address} is no address of a Ray cluster: allowed are HOST:PORT (the port "
            "of `ray start --head`, 6379 by default) and auto; http://HOST:8265 is for `submit`"
        )
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    api: Any = gcs_service_pb2_grpc
    messages: Any = gcs_service_pb2
    with grpc.insecure_channel(address) as channel:
        ask = api.NodeInfoGcsServiceStub(channel).GetClusterId
        says = [("authorization", f"Bearer {token.secret}")] if token else []
        try:
            ask(messages.GetClusterIdRequest(), timeout=KNOCK_S, metadata=says)
        except grpc.RpcError as error:
            code: Any = getattr(error, "code", lambda: None)()
            if code == grpc.StatusCode.UNAUTHENTICATED:
                got = f"the one of {token.origin} is not its own" if token else "there is none"
                raise UsageError(
                    f"the Ray cluster at {address} asks for a token, and {got}; set "
                    "RAY_AUTH_TOKEN_PATH to the file that it was started with"
                ) from None
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise UsageError(
                    f"no Ray cluster answers at {address}; is it running there (`ray status`), and "
                    "does nothing between block the port?"
                ) from None
            raise UsageError(f"what answers at {address} is no Ray cluster ({code})") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _store_bytes() -> int:
    import psutil

    free = psutil.virtual_memory().available
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else free
    return int(min(OWN_STORE_SHARE * free, 0.9 * shared, MOST_STORE_BYTES))


def _on(node: str, *, soft: bool) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=soft)


def _sees(homes: list[Home]) -> bool:
    """Say whether this machine sees all run folders and sources."""
    return all(
        home.run_folder() is not None
        and ("://" in home.source.uri or os.path.lexists(home.source.uri))
        for home in homes
    )
