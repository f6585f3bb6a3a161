"""The protocol by which a runner reports progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pipeline.telemetry.meter import Meter

if TYPE_CHECKING:
    from pipeline.telemetry.status import RunStatus


class ProgressListener(Protocol):
    """Receives the progress of a run: a terminal, a log, a test."""

    def on_stage_start(self, stage: str) -> None:
        """A stage got its first work item."""
        ...

    def on_position(self, seconds: float, total_s: float | None) -> None:
        """Clips up to this time of the source have been made."""
        ...

    def on_progress(self, stage: str, done: float, total: float, note: str) -> None:
        """A long call reports how far it has come, and its state in a few words."""
        ...

    def on_stage_end(self, stage: str, state: str, meter: Meter) -> None:
        """A stage has ended."""
        ...


class SilentListener:
    """A `ProgressListener` that ignores everything."""

    def on_stage_start(self, stage: str) -> None:
        """Ignore it."""

    def on_position(self, seconds: float, total_s: float | None) -> None:
        """Ignore it."""

    def on_progress(self, stage: str, done: float, total: float, note: str) -> None:
        """Ignore it."""

    def on_stage_end(self, stage: str, state: str, meter: Meter) -> None:
        """Ignore it."""


class RunListener(Protocol):
    """What the cluster runner reports to: the run as a whole, and a listener a source."""

    def update(self, status: RunStatus) -> None:
        """Take the status of the run, about twice a second."""
        ...

    def for_stream(self, name: str) -> ProgressListener:
        """Return the listener of one source, by its name."""
        ...
