"""The protocol by which a runner reports progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pipeline.telemetry.meter import Meter

if TYPE_CHECKING:
    from pipeline.telemetry.status import RunStatus


class ProgressListener(Protocol):
    """Who wants to know how a run goes on: the terminal, a log, a test."""

    def on_stage_start(self, stage: str) -> None:
        """Say that a stage has got its first parcel."""
        ...

    def on_position(self, seconds: float, total_s: float | None) -> None:
        """Say up to which time of the source clips have passed."""
        ...

    def on_progress(self, stage: str, done: float, total: float, note: str) -> None:
        """Say how far a long call has come, and where it stands."""
        ...

    def on_stage_end(self, stage: str, state: str, meter: Meter) -> None:
        """Say that a stage is through."""
        ...


class RunListener(Protocol):
    """What the cluster runner reports to: the run as a whole, and a listener a source."""

    def update(self, status: RunStatus) -> None:
        """Take the status of the run, about twice a second."""
        ...

    def for_stream(self, name: str) -> ProgressListener:
        """Return the listener of one source, by its name."""
        ...
