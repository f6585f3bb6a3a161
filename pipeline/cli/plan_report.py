"""A plan as a person reads it, and as a program does."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from pipeline.capacity import Candidate, PlanRequest, PlanResult
from pipeline.telemetry.live_table_layout import span

__all__ = ["as_json", "print_table"]

KNOWN = 1e14
"""Bytes, and bytes a second, from which on the user has left it open."""


def print_table(answer: PlanResult, question: PlanRequest, preset: str, origin: str) -> None:
    """Print a plan.

    Args:
        answer: The plan.
        question: What was asked.
        preset: Name of the preset or configuration.
        origin: The file of the costs.
    """
    out = Console(highlight=False)
    load, costs = question.load, question.costs
    what = "cameras" if load.seconds is None else f"files of {span(load.seconds)}"
    out.print(
        f"[bold]{load.streams} {what}[/], {load.width}x{load.height} at {load.fps:g} fps, "
        f"{escape(preset)}",
        soft_wrap=True,
    )
    where = f"[dim]costs measured on {escape(costs.made_on or 'an unnamed machine')}: "
    out.print(f"{where}{escape(origin)}[/]", soft_wrap=True)
    out.print()
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    for name, told in _facts(answer, question):
        facts.add_row(name, told)
    out.print(facts)
    out.print()
    out.print(_stages(answer.shown))


def as_json(answer: PlanResult, question: PlanRequest, origin: str) -> str:
    """Return a plan as JSON; its names say the units."""
    load = question.load
    return json.dumps(
        {
            "load": asdict(load),
            "costs": origin,
            "given": _figures(answer.given),
            "most_streams": answer.most_streams,
            "needed": _figures(answer.needed),
            "store_bytes_of_a_machine": answer.store_bytes,
        },
        indent=1,
    )


def _figures(tried: Candidate | None) -> Any:
    if tried is None:
        return None
    what, share = tried.outcome.bottleneck
    return {
        "machines": asdict(tried.site.shape),
        "store_bytes": tried.site.store_bytes,
        "network_bytes_s": tried.site.network_bytes_s,
        "runs": tried.jobs,
        "bottleneck": {"what": what, "busy": share},
        "outcome": asdict(tried.outcome),
    }


def _facts(answer: PlanResult, question: PlanRequest) -> list[tuple[str, str]]:
    shown = answer.shown
    outcome = shown.outcome
    facts: list[tuple[str, str]] = []
    if answer.given is not None:
        facts.append(("machines", _given(answer.given, answer.most_streams, question)))
    if answer.needed is not None:
        facts.append(("needed", _needed(answer.needed)))
    if shown.jobs > 1:
        each = -(-question.load.streams // shown.jobs)
        facts.append(
            (
                "runs",
                f"{shown.jobs} beside one another, {each} streams each: one driver leads no more",
            )
        )
    facts.append(
        ("CPUs", f"{outcome.cpu * shown.site.cpus:.1f} busy on average ({_share(outcome.cpu)})")
    )
    gpus = shown.site.gpus
    if gpus:
        facts.append(("GPUs", f"{outcome.gpu * gpus:.1f} busy of {gpus:g} ({_share(outcome.gpu)})"))
    else:
        facts.append(("GPUs", "none is needed"))
    facts.append(("object store", _store(answer)))
    facts.append(("network", _network(answer)))
    if outcome.latency_s is not None:
        median, most = outcome.latency_s
        facts.append(
            ("latency", f"median {median:.1f} s, 95 % {most:.1f} s, after a clip's last picture")
        )
    if question.load.seconds is None:
        facts.append(("dropped", f"{100 * outcome.dropped:.1f} % of the pictures"))
    if outcome.seconds is not None:
        speed = question.load.streams * (question.load.seconds or 0.0) / outcome.seconds
        facts.append(("time", f"{span(outcome.seconds)}, {speed:.1f} x as fast as filmed"))
    facts.append(("driver", f"{_share(outcome.driver)} of its time"))
    facts.append(("bottleneck", _bottleneck(shown)))
    return facts


def _given(tried: Candidate, most_streams: int | None, question: PlanRequest) -> str:
    outcome, load = tried.outcome, question.load
    told = _machines(tried)
    if outcome.keeps_up:
        return f"{told}: [green]enough[/]" if load.seconds is None or question.within_s else told
    lacks = f"{outcome.behind:.1f} times too slow; {_bottleneck(tried)}"
    if outcome.seconds is not None:
        lacks = f"{span(outcome.seconds)}; {_bottleneck(tried)}"
    return f"{told}: [red]not enough[/] ({lacks}); for {most_streams or 'no'} streams they are"


def _needed(tried: Candidate) -> str:
    if tried.outcome.keeps_up:
        return _machines(tried)
    what, _ = tried.outcome.bottleneck
    return (
        f"[red]no number of such machines does[/]; with {_machines(tried)} {what} "
        f"would have to be {tried.outcome.behind:.1f} x as fast"
    )


def _machines(tried: Candidate) -> str:
    shape = tried.site.shape
    each = f"{shape.cpus:g} CPUs" + (f" and {shape.gpus:g} GPUs" if shape.gpus else "")
    if shape.count == 1:
        return f"1 machine of {each}"
    return f"{shape.count} machines of {each}, {tried.site.cpus:g} CPUs in all"


def _store(answer: PlanResult) -> str:
    there = answer.shown.site.store_bytes
    if answer.store_bytes >= there:
        return f"all of the {decimal(round(there))} on each machine"
    enough = f"{decimal(round(answer.store_bytes))} on each machine"
    return f"{enough} of the {decimal(round(there))} would do" if there < KNOWN else enough


def _network(answer: PlanResult) -> str:
    shown = answer.shown
    if shown.site.shape.count == 1:
        return "none between machines; what sources bring is not counted"
    there, outcome = shown.site.network_bytes_s, shown.outcome
    enough = f"{_bits(answer.network_bytes_s)} cards"
    if answer.network_bytes_s >= KNOWN:
        enough = "more than any card that is sold"
    if there < KNOWN:
        enough += f" of the {_bits(there)} would do" if answer.network_bytes_s < there else ""
    return (
        f"{enough}; {_bits(outcome.network_bytes_s)} into each machine, "
        f"{_bits(outcome.network * there)} through the busiest"
    )


def _bottleneck(tried: Candidate) -> str:
    what, share = tried.outcome.bottleneck
    told = f"{escape(what)}, busy {_share(share)}"
    if what == "the object store":
        told = "the object store: clips wait for room in it"
    rows = tried.outcome.rows
    total = sum(row.cores for row in rows)
    if what == "the CPUs" and total:
        most = max(rows, key=lambda row: row.cores)
        told += f"; {_share(most.cores / total)} of that is {escape(most.name)}"
    return told


def _stages(tried: Candidate) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage")
    gpus = any(row.gpus for row in tried.outcome.rows)
    for name in ("workers", "busy", "CPUs", *(["GPUs"] if gpus else []), "calls/s"):
        table.add_column(name, justify="right")
    for row in tried.outcome.rows:
        cells = [f"{row.workers:.0f}", _share(row.busy), f"{row.cores:.1f}"]
        cells += [f"{row.gpus:.1f}"] if gpus else []
        kind = "" if row.pool else " [dim](one a stream)[/]"
        table.add_row(f"{escape(row.name)}{kind}", *cells, f"{row.calls_s:.1f}")
    return table


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _bits(bytes_s: float) -> str:
    bits = 8 * bytes_s
    return f"{bits / 1e9:.1f} Gbit/s" if bits >= 1e8 else f"{bits / 1e6:.1f} Mbit/s"
