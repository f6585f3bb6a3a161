"""Counters of a running stage, as plain data that crosses process borders."""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.contract import Artifact, Event, Loss, Metric, Warn

__all__ = ["Meter", "forget_peak", "peak_memory_bytes"]


@dataclass
class Meter:
    """What one stage did in one run."""

    items: int = 0
    """Parcels taken."""
    seconds: float = 0.0
    """Wall time spent inside the stage."""
    warnings: list[str] = field(default_factory=list[str])
    losses: list[Loss] = field(default_factory=list[Loss])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    artifacts: dict[str, str] = field(default_factory=dict[str, str])
    """Path to kind."""

    def take(self, event: Event) -> None:
        """Record a warning, a loss or a metric; the same warning counts once."""
        if isinstance(event, Warn) and event.text not in self.warnings:
            self.warnings.append(event.text)
        elif isinstance(event, Loss):
            self.losses.append(event)
        elif isinstance(event, Metric):
            self.metrics[event.name] = event.value
        elif isinstance(event, Artifact):
            self.artifacts[event.path] = event.kind

    def timed(self) -> Timed:
        """Return a context that adds the wall time spent inside it."""
        return Timed(self)


class Timed:
    """Adds the time between entering and leaving to a meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *exc: Any) -> None:
        self._meter.seconds += time.perf_counter() - self._began


def peak_memory_bytes() -> int:
    """Return the largest resident size so far of this process, without its children."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Reset the peak of the resident size, where the system can: what ran here has ended."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def meter_to_dict(meter: Meter) -> dict[str, Any]:
    return asdict(meter)


def meter_from_dict(tree: dict[str, Any]) -> Meter:
    """Return a meter that was saved with a snapshot or in the ledger."""
    given = dict(tree)
    if "artefacts" in given:
        # Its key until option names changed; runs interrupted before that can be resumed.
        given["artifacts"] = given.pop("artefacts")
    losses = [Loss(**loss) for loss in given.pop("losses")]
    return Meter(losses=losses, **given)
