"""The protocol by which a runner reports progress."""

from __future__ import annotations

from typing import Protocol

from pipeline.telemetry.meter import Meter


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
