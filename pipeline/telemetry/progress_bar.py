"""Progress of one run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pipeline.telemetry.meter import Meter

__all__ = ["ProgressBars"]

PLAIN_EVERY_S = 5.0
"""Shortest interval of the lines of a long stage where there is no terminal."""

MARKS = {"made": "[green]✓[/]", "skipped": "[dim]–[/]"}
CLIPS = "video"
UNITS = {"db": "dB", "psnr": "PSNR", "ssim": "SSIM"}
"""Words of a figure's name that are not written small."""
SHOWN_FIGURES = 3
"""How many figures of a stage fit on a line; metrics.jsonl has all."""


class ProgressBars:
    """Shows the stages of one run; everything goes to standard error."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live = console.is_terminal and not quiet
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._head: tuple[str, float] | None = None
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def on_stage_start(self, stage: str) -> None:
        """Show a stage that works on whole streams; clip stages share the video's bar."""
        if stage.startswith("decode/"):
            self._tasks[CLIPS] = self._progress.add_task("decode, flow, events", total=None)

    def on_position(self, seconds: float, total_s: float | None) -> None:
        """Show how much of the video has passed."""
        if self._live:
            self._progress.update(self._tasks[CLIPS], completed=seconds, total=total_s)
        elif self._may_speak():
            of = f" of {total_s:.1f}" if total_s else ""
            self._say(f"{seconds:.1f}{of} s of video decoded")

    def on_progress(self, stage: str, done: float, total: float, note: str) -> None:
        """Show the progress of a long call."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(escape(stage), total=total)
        if self._live:
            told = f"{escape(stage)}  [dim]{escape(note)}[/]" if note else escape(stage)
            self._progress.update(self._tasks[stage], completed=done, total=total, description=told)
        elif self._may_speak():
            told = f", {note}" if note else ""
            self._say(f"{stage}: {100 * done / max(total, 1e-9):.0f} %{told}")

    def on_stage_end(self, stage: str, state: str, meter: Meter) -> None:
        """Show a stage's end; exporters only when something went wrong."""
        for name in (CLIPS, stage) if stage.startswith("sample/") else (stage,):
            if name in self._tasks:
                self._progress.remove_task(self._tasks.pop(name))
        if stage.startswith("decode/"):
            self._head = (stage, meter.seconds)
        worth = not stage.startswith(("export/", "decode/")) and state != "skipped"
        if worth and not meter.losses:
            name, seconds, figures = stage, meter.seconds, list(meter.metrics.items())
            if stage.startswith("sample/") and self._head:
                # They run interleaved, so their time is one.
                name, seconds = f"{self._head[0]}, {stage}", self._head[1]
                figures = [("frames", float(meter.items))]
            told = ", ".join(_figure(*figure) for figure in figures[:SHOWN_FIGURES])
            dim = f"  [dim]{escape(told)}[/]" if told else ""
            self._say(f"{MARKS[state]} {escape(name):<28} {seconds:6.1f} s{dim}", rich=True)
        for warning in meter.warnings:
            self._say(f"[yellow]![/] {escape(stage)}: {escape(warning)}", rich=True)
        for loss in meter.losses:
            text = f"{stage}: {loss.what} not made: {loss.why}"
            self._say(f"[red]✗[/] {escape(text)}", rich=True, always=True)

    def _may_speak(self) -> bool:
        now = time.monotonic()
        if self._quiet or now - self._spoke < PLAIN_EVERY_S:
            return False
        self._spoke = now
        return True

    def _say(self, text: str, *, rich: bool = False, always: bool = False) -> None:
        if self._quiet and not always:
            return
        self._spoke = time.monotonic()
        if not self._live:
            elapsed = f"{self._spoke - self._began:6.1f} s  "
            self._console.print(elapsed + (text if rich else escape(text)), soft_wrap=True)
        else:
            self._console.print(text, soft_wrap=True)


def _figure(name: str, value: float) -> str:
    """`registered_share` 0.98 → `registered share 0.98`; `psnr_db` 30.5 → `PSNR 30.5 dB`."""
    words, _, unit = name.rpartition("_")
    number = f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}".replace(",", " ")
    if unit in ("px", "s", "m", "deg", "db") and words:
        name, number = words, f"{number} {UNITS.get(unit, unit)}"
    return " ".join([*(UNITS.get(word, word) for word in name.split("_")), number])
