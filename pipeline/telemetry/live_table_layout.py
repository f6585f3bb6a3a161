"""The parts of the board: the table of stages, that of streams, the line beneath them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from pipeline.telemetry.eta import TimeLeft
from pipeline.telemetry.status import RunStatus, StageStatus, StreamStatus

__all__ = ["foot", "plain_line", "span", "stage_table", "stream_table"]

MOST_STREAMS = 8
"""Streams that have a row of their own; the rest are summed."""
BUSIEST = 3
"""Stages that a plain line names."""
LATEST = 2
"""Stages of a stream that are named: those that began last."""
URGENCY = ("failed", "running", "waiting", "made")
COLORS = {"failed": "red", "made": "green", "waiting": "dim"}


def stage_table(stages: Sequence[StageStatus]) -> Table:
    """Lay out a row a stage, in the chain's order."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("workers", "busy", "done", "rate", "waiting", "in flight", "failures"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        failures = Text(str(stage.failures), style="red" if stage.failures else "dim")
        table.add_row(
            # Text, since names are no markup.
            Text(stage.name),
            str(stage.workers),
            f"{100 * stage.busy:.0f} %",
            f"{stage.done} {stage.unit}",
            f"{stage.rate_per_s:.3g}/s",
            str(stage.backlog),
            decimal(stage.bytes_in_flight),
            failures,
        )
    return table


def stream_table(
    streams: Sequence[StreamStatus], at_work: Mapping[tuple[str, str], str] | None = None
) -> Table:
    """Lay out the streams, the most urgent first, what does not fit in one last row.

    `at_work` holds what the long calls of (stream, stage) say of themselves.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True)
    ranked = sorted(streams, key=lambda stream: _urgency(stream.state))
    for stream in ranked[:MOST_STREAMS]:
        of = f" of {stream.total_s:.1f}" if stream.total_s is not None else ""
        said = [told for (name, _), told in (at_work or {}).items() if name == stream.name]
        del said[:-LATEST]
        if stream.live and stream.dropped > 0:
            said.insert(0, f"{100 * stream.dropped:.2g} % dropped")
        state = "live" if stream.live and stream.state == "running" else stream.state
        table.add_row(
            Text(stream.name),
            Text(state, style=COLORS.get(stream.state, "")),
            f"{stream.reached_s:.1f}{of} s",
            Text("; ".join(said), style="dim"),
        )
    rest = ranked[MOST_STREAMS:]
    if rest:
        passed = sum(stream.reached_s for stream in rest)
        table.add_row(
            f"and {len(rest)} more", "", f"{passed:.1f} s", Text(_states(rest), style="dim")
        )
    return table


def foot(status: RunStatus, left: TimeLeft | None, elapsed_s: float) -> Text:
    """Return the line of memory, machines and time."""
    nodes = f"{status.nodes} node" + ("s" if status.nodes != 1 else "")
    parts = [
        f"object store {decimal(status.bytes_used)} of {decimal(status.bytes_budget)}",
        f"{nodes}, {status.cpus:g} CPUs" + (f", {status.gpus:g} GPUs" if status.gpus else ""),
        f"{span(elapsed_s)} so far",
    ]
    return Text(" · ".join([*parts, *_left(left)]), style="dim")


def plain_line(status: RunStatus, left: TimeLeft | None) -> str:
    """Return the standing of the whole in one line."""
    passed = sum(stream.reached_s for stream in status.streams)
    totals = [stream.total_s for stream in status.streams if stream.total_s is not None]
    # Where one has no duration, a sum of the others would be a promise.
    of = f" of {sum(totals):.1f}" if totals and len(totals) == len(status.streams) else ""
    parts = [f"{passed:.1f}{of} s of video"]
    if len(status.streams) > 1:
        parts.append(f"{len(status.streams)} streams: {_states(status.streams)}")
    at_work = [stage for stage in status.stages if stage.busy > 0 or stage.backlog]
    for stage in sorted(at_work, key=lambda stage: -stage.busy)[:BUSIEST]:
        waiting = f", {stage.backlog} waiting" if stage.backlog else ""
        parts.append(f"{stage.name} {stage.rate_per_s:.3g} {stage.unit}/s{waiting}")
    failures = sum(stage.failures for stage in status.stages)
    if failures:
        parts.append(f"{failures} failures")
    dropped = sum(stream.dropped_frames for stream in status.streams)
    if dropped:
        parts.append(f"{dropped} frames dropped")
    return "; ".join([*parts, *_left(left)])


def span(seconds: float) -> str:
    """Return a duration in words: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _left(left: TimeLeft | None) -> list[str]:
    if left is None:
        return []
    if left.whole:
        return [f"about {span(left.seconds)} left"]
    return [f"the videos have passed in about {span(left.seconds)}"]


def _urgency(state: str) -> int:
    return URGENCY.index(state) if state in URGENCY else len(URGENCY)


def _states(streams: Sequence[StreamStatus]) -> str:
    counts = Counter(stream.state for stream in streams)
    return ", ".join(f"{counts[state]} {state}" for state in sorted(counts, key=_urgency))
