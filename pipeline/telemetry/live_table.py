"""What a person sees of a run of many streams: a live table on a terminal, plain lines elsewhere.

The scheduler hands a `RunStatus` to `update` about twice a second. The single streams speak
through `for_stream(name)`, which is the `ProgressListener` of the local runner::

    with Board(console) as board:
        watch = board.for_stream("gate")     # began, reached, progress, ended
        board.update(status)
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from pipeline.telemetry.eta import Estimate, TimeLeft
from pipeline.telemetry.live_table_layout import foot, plain_line, stage_table, stream_table
from pipeline.telemetry.meter import Meter
from pipeline.telemetry.status import RunStatus, StageStatus, StreamStatus

__all__ = ["LiveTable", "RunStatus", "StageStatus", "StreamStatus"]

PLAIN_EVERY_S = 5.0
"""Interval of the status lines where there is no terminal."""
FRAMES_PER_S = 2
TOLD_STREAMS = 4
"""Up to so many streams each stage's end is a line of its own; of more, only what went wrong."""


class LiveTable:
    """Shows one run; everything goes to standard error. Any thread may call it."""

    def __init__(self, console: Console, *, quiet: bool = False, streams: int = 1) -> None:
        """Prepare a board for a run of so many `streams`."""
        self._console = console
        self._quiet = quiet
        self._told = streams <= TOLD_STREAMS
        self._on_terminal = console.is_terminal and not quiet
        self._lock = threading.Lock()
        self._status: RunStatus | None = None
        self._left: TimeLeft | None = None
        self._estimate = Estimate()
        self._at_work: dict[tuple[str, str], str] = {}
        """(stream, stage) to the last progress of a long call."""
        self._began = self._spoke = time.monotonic()
        # Last, since it asks for a first picture at once.
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=FRAMES_PER_S,
            transient=True,
        )

    def __enter__(self) -> Self:
        if self._on_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on_terminal:
            self._live.stop()

    def update(self, status: RunStatus) -> None:
        """Show the status of the run."""
        now = time.monotonic()
        with self._lock:
            self._status = status
            self._left = self._estimate.take(now - self._began, status)
            if status.eta_s is not None:
                self._left = TimeLeft(seconds=status.eta_s, whole=True)
            due = not self._on_terminal and now - self._spoke >= PLAIN_EVERY_S
            line = plain_line(status, self._left) if due else ""
        if line:
            self._say(escape(line))

    def for_stream(self, name: str) -> StreamProgress:
        """Return the `ProgressListener` of one stream."""
        return StreamProgress(self, name)

    def progress(self, stream: str, stage: str, told: str) -> None:
        """Set the progress of a long call; an empty text ends it."""
        with self._lock:
            if told:
                self._at_work[stream, stage] = told
            else:
                self._at_work.pop((stream, stage), None)

    def ended(self, stream: str, stage: str, state: str, meter: Meter) -> None:
        """Tell a stage's end on one stream, and always what went wrong."""
        self.progress(stream, stage, "")
        where = escape(f"{stream}: {stage}")
        quiet_part = stage.startswith(("export/", "decode/")) or state == "skipped"
        if self._told and not quiet_part and not meter.losses:
            self._say(f"[green]✓[/] {where:<40} {meter.seconds:6.1f} s")
        for warning in meter.warnings:
            self._say(f"[yellow]![/] {where}: {escape(warning)}")
        for loss in meter.losses:
            text = f"{stream}: {stage}: {loss.what} not made: {loss.why}"
            self._say(f"[red]✗[/] {escape(text)}", always=True)

    def _say(self, markup: str, *, always: bool = False) -> None:
        if self._quiet and not always:
            return
        with self._lock:
            self._spoke = time.monotonic()
        elapsed = "" if self._on_terminal else f"{self._spoke - self._began:6.1f} s  "
        self._console.print(elapsed + markup, soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._lock:
            status, left, at_work = self._status, self._left, dict(self._at_work)
        elapsed_s = time.monotonic() - self._began
        if status is None:
            return Text(f"starting … {elapsed_s:.0f} s", style="dim")
        return Group(
            stage_table(status.stages),
            stream_table(status.streams, at_work),
            foot(status, left, elapsed_s),
        )


class StreamProgress:
    """One stream's way to the board: the `ProgressListener` of `pipeline.local.runner`."""

    def __init__(self, board: LiveTable, name: str) -> None:
        self._board = board
        self._name = name

    def on_stage_start(self, stage: str) -> None:
        """Show that a stage has begun."""
        self._board.progress(self._name, stage, stage)

    def on_position(self, seconds: float, total_s: float | None) -> None:
        """Nothing to do: the scheduler's rows have it."""

    def on_progress(self, stage: str, done: float, total: float, note: str) -> None:
        """Show the progress of a long call."""
        told = f"{stage} {100 * done / max(total, 1e-9):.0f} %" + (f", {note}" if note else "")
        self._board.progress(self._name, stage, told)

    def on_stage_end(self, stage: str, state: str, meter: Meter) -> None:
        """Tell a stage's end."""
        self._board.ended(self._name, stage, state, meter)
