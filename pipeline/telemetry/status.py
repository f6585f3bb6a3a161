"""Status of a run: a row per stage, a row per stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RunStatus", "StageStatus", "StreamStatus"]


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """Status of one stage, over all streams."""

    name: str
    """`flow/dis`."""
    workers: int
    """Actors that are alive."""
    busy: float
    """Share of the workers' time spent in tasks in the last interval, 0..1."""
    done: int
    """Number of clips, or streams, that it has processed (`unit`)."""
    backlog: int
    """Items that wait for a worker."""
    rate_per_s: float
    """Items a second in the last interval."""
    bytes_in_flight: int
    """Of its inputs and outputs in the object store."""
    failures: int
    """Calls that ended in an error or with their worker."""
    unit: str = "clips"
    """`clips` or `streams`."""
    seconds: tuple[float, ...] = ()
    """Durations of the tasks that ended in the last interval, in seconds."""


@dataclass(frozen=True, kw_only=True)
class StreamStatus:
    """How far one video or camera has come."""

    name: str
    """Of the source; never its address."""
    reached_s: float
    """Time of the source up to which clips have passed, s."""
    total_s: float | None
    """Duration, s; None for a camera, or where the container does not say."""
    state: str
    """`waiting`, `running`, `made` or `failed`."""
    live: bool = False
    """Whether it is a camera."""
    dropped: float = 0.0
    """Share of a camera's frames that were dropped, 0..1."""
    dropped_frames: int = 0
    """Their number."""
    clips: Mapping[str, int] = field(default_factory=dict[str, int])
    """Stage name to the number of its clips that the stage has processed; empty if not counted."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Status of a run, reported about twice a second."""

    stages: tuple[StageStatus, ...]
    """In the chain's order."""
    streams: tuple[StreamStatus, ...]
    bytes_used: int = 0
    """Reserved or held in the object store by this run."""
    bytes_budget: int = 0
    nodes: int = 1
    cpus: float = 0.0
    """Of the cluster."""
    gpus: float = 0.0
    eta_s: float | None = None
    """Time left, s; None where unknown: a camera, an unknown duration, no rate yet."""
