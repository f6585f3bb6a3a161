"""A listener that remembers which stages ended, and how."""

from pipeline.telemetry import Meter


class StageEnds:
    """Stage name to its last state."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def on_stage_start(self, stage: str) -> None: ...

    def on_position(self, seconds: float, total_s: float | None) -> None: ...

    def on_progress(self, stage: str, done: float, total: float, note: str) -> None: ...

    def on_stage_end(self, stage: str, state: str, meter: Meter) -> None:
        self.states[stage] = state
