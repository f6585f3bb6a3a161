"""Joining a Ray cluster, or starting one of this process's own; what it offers, and where."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from pipeline.cluster.auth import Token, find_token
from pipeline.cluster.idle_actors import IdleActorPool
from pipeline.cluster.local_ray import line_of, own, own_signals
from pipeline.cluster.ray_internals import loopback, silent_daemons
from pipeline.errors import UsageError
from pipeline.scheduling import STORE_SHARE, ResourceClaim, WorkerPool, resource_claim
from pipeline.worker import RunLocation

__all__ = ["Cluster", "joined"]
KNOCK_S = 10.0


class Cluster:
    """The Ray cluster that this process has joined."""

    def __init__(self, job: str, share: float, *, own: bool) -> None:
        """Look at what there is.

        Args:
            job: Names this run.
            share: At most so much of it is for this run.
            own: Nobody else uses it.
        """
        import ray

        self.job = job
        self.idle_actors = IdleActorPool()
        """Actors that wait for the next run of this process."""
        self._own = own
        nodes = [node for node in ray.nodes() if node["Alive"]]
        there = ray.cluster_resources()
        self.all_cores = max(1.0, there.get("CPU", 1.0))
        self.all_gpus = there.get("GPU", 0.0)
        self.nodes = len(nodes)
        self.budget_bytes = int(STORE_SHARE * share * there.get("object_store_memory", 1 << 30))
        self._here = ray.get_runtime_context().get_node_id()
        self._largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
        """CPUs of the machine that has most of them: a worker must fit on one."""
        self._everywhere = len(nodes) <= 1
        """Whether every machine sees the sources and run folders."""

    def divided(self, fraction: float) -> tuple[float, float]:
        """Return the cores and GPUs of a fraction of the cluster."""
        return max(1.0, self.all_cores * fraction), self.all_gpus * fraction

    def look_around(self, locations: list[RunLocation]) -> None:
        """Find out whether all machines see the run folders and the sources."""
        import ray

        if self.nodes <= 1:
            return
        remote: Any = ray.remote
        look = remote(num_cpus=0)(_sees)
        pending = [
            look.options(scheduling_strategy=_on(node["NodeID"], soft=True)).remote(locations)
            for node in ray.nodes()
            if node["Alive"]
        ]
        self._everywhere = all(ray.get(pending, timeout=60))

    def claim(self, pool: WorkerPool) -> ResourceClaim:
        """Return what an actor of a pool holds of the cluster."""
        return resource_claim(
            pool,
            cluster_cpus=self.all_cores,
            largest_cpus=self._largest,
            exclusive=self._own,
        )

    def actor_options(self, pool: WorkerPool) -> dict[str, Any]:
        """Return Ray's options for an actor of a pool: what it claims, and where it may run."""
        options: dict[str, Any] = {}
        claim = self.claim(pool)
        if claim.cpus:
            options["num_cpus"] = claim.cpus
        if claim.gpus:
            options["num_gpus"] = claim.gpus
        if claim.memory_bytes:
            options["memory"] = claim.memory_bytes
        if pool.kind != "shared":
            if not self._everywhere:
                options["scheduling_strategy"] = _on(self._here, soft=False)
        elif not self._own:
            options["scheduling_strategy"] = "SPREAD" if self.nodes > 1 else "DEFAULT"
        return options


@contextmanager
def joined(
    address: str | None = None,
    *,
    share: float = 1.0,
    cores: int | None = None,
    store_bytes: int | None = None,
) -> Generator[Cluster]:
    """Join the cluster at `address` (`auto` finds one), or start one that ends with this block.

    An own cluster listens on the loopback interface only and requires a token that no other
    process knows.

    Raises:
        UsageError: There is no cluster, or it refuses the connection.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A driver started by `uv run` would have Ray upload the whole working folder.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A failed task has one reply and several objects; Ray would log a page for each of those.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    job = os.environ.get("REEL3D_JOB") or secrets.token_hex(4)
    there = own(cores, store_bytes) if address is None else _others(address)
    with own_signals() as take_signals, there:
        take_signals()
        cluster = Cluster(job, share, own=address is None)
        try:
            yield cluster
        finally:
            cluster.idle_actors.trim(0)


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
            with loopback(_only_on_loopback(address)), silent_daemons():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            why = line_of(error)
            raise UsageError(f"the Ray cluster at {address} does not let us in: {why}") from error
        yield
    finally:
        ray.shutdown()


def _only_on_loopback(address: str) -> bool:
    """Whether a cluster of this machine cannot be reached from others."""
    from ray._private import services

    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost"):
        return False
    with socket.socket() as probe:
        probe.settimeout(KNOCK_S)
        return probe.connect_ex((services.get_node_ip_address(), int(port))) != 0


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
        UsageError: There is no answer, it is not a Ray cluster, or the token is wrong.
    """
    if not re.fullmatch(r"[^/\s]+:\d+", address):
        raise UsageError(
            f"--address {address} is not the address of a Ray cluster: allowed are HOST:PORT (the "
            "port of `ray start --head`, 6379 by default) and auto; http://HOST:8265 is for "
            "`submit`"
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
            raise UsageError(f"the server at {address} is not a Ray cluster ({code})") from None


def _on(node: str, *, soft: bool) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=soft)


def _sees(locations: list[RunLocation]) -> bool:
    """Say whether this machine sees all run folders and sources."""
    return all(
        location.run_folder() is not None
        and ("://" in location.source.uri or os.path.lexists(location.source.uri))
        for location in locations
    )
