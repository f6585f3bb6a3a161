"""Joining a Ray cluster, or starting one of this process's own; what it offers, and where."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    job = secrets.token_hex(4)
    own: Path | None = None
    if address is None:
        own = Path(tempfile.mkdtemp(prefix="reel3d-ray-"))
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        try:
            if own is not None:
                ray.init(
                    address="local",
                    num_cpus=cores or len(os.sched_getaffinity(0)),
                    object_store_memory=store_bytes or _store_bytes(),
                    include_dashboard=False,
                    _temp_dir=str(own),
                    _node_ip_address="127.0.0.1",
                    _system_config={"free_objects_batch_size": 1},
                    **quiet,
                )
            else:
                ray.init(address=address, **quiet)
        except Exception as error:
            raise UsageError(_refused(address, error)) from error
        yield Cluster(job, share)
    finally:
        ray.shutdown()
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)


def _store_bytes() -> int:
    import psutil

    free = psutil.virtual_memory().available
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else free
    return int(min(OWN_STORE_SHARE * free, 0.9 * shared, MOST_STORE_BYTES))


def _refused(address: str | None, error: Exception) -> str:
    why = " ".join(str(error).split())[:300]
    if address is None:
        return f"Ray does not start on this machine: {why}"
    if "AuthenticationError" in type(error).__name__ or "token" in why.lower():
        return (
            f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the one that it was started with"
        )
    if "version" in why.lower() and "mismatch" in why.lower():
        return f"the Ray cluster at {address} has another version: {why}"
    if address == "auto":
        return (
            "there is no Ray cluster to join on this machine: start one with `ray start --head`, "
            "name one with --address HOST:6379, or leave --address out to run on this machine"
        )
    return (
        f"the Ray cluster at {address} does not let us in ({why}); is it running there, and is "
        "the token right (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)?"
    )


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
