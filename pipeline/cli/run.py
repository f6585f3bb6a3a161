"""`reel3d run`: sources, configurations, choice of runner, summary."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.watch import GracefulEnd, has_camera
from pipeline.config import RunConfig, is_override, load
from pipeline.contract.source import Source
from pipeline.errors import Reel3dError, SourceError, UsageError
from pipeline.lifecycle import RunResult, run
from pipeline.sources.cache import check_scheme
from pipeline.sources.urls import mask, plain_path
from pipeline.storage.run_folder import STATE, clean_name, free_folder
from pipeline.telemetry.progress_bar import ProgressBars

RUN_HELP = """\
examples:
  reel3d run holiday.mp4
  reel3d run frames/ --out runs/kitchen decode.fps=30
  reel3d run drive.mp4 --preset understand sample.model=fps sample.fps=5
  reel3d run rtsp://camera.local/live decode.for_s=60
  reel3d run holiday.mp4 --out runs/holiday --resume fuse.voxel=0.02

An option of a stage is written step.option=value; step.model=NAME chooses its model and
step.model=none leaves it out; export.FORMAT=on or =none adds or leaves out a format.
`reel3d options` lists all of them.
"""


def make_source(uri: str, taken: Sequence[str] = ()) -> Source:
    """Return the source of a path or URL, with a clean name that none of `taken` has."""
    uri = plain_path(uri)
    shown = mask(uri)
    if "://" in uri:
        host, _, path = re.split("[?#]", shown.partition("://")[2])[0].partition("/")
        host = re.sub(r":\d+$", "", host.rpartition("@")[2]).lower()
        stem = clean_name(f"{host}/{path}")
    else:
        # A folder keeps its whole name, dots included.
        path = Path(uri)
        stem = clean_name(path.resolve().name if path.is_dir() else path.stem)
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return Source(uri=uri, shown=shown, name=name)


def run_command(options: argparse.Namespace, console: Console) -> int:
    """Run all sources of the command line; return the exit code."""
    overrides = [word for word in options.words if is_override(word)]
    uris = [word for word in options.words if not is_override(word)]
    if not uris:
        raise UsageError("no source given; name a video file or a folder of images")
    sources: list[Source] = []
    for uri in uris:
        sources.append(make_source(uri, [source.name for source in sources]))
    # A wrong option must not show only after the first of many films.
    configs = [
        load(preset=options.preset, file=options.config, overrides=overrides, uri=source.uri)
        for source in sources
    ]
    for source in sources:
        _check_kind(source)
    if options.runner == "cluster":
        outs = [_out(options, source, alone=len(sources) == 1) for source in sources]
        return _run_on_cluster(options, list(zip(sources, configs, outs, strict=True)), console)
    for word in ("address", "priority", "share"):
        if getattr(options, word) not in (None, 0, 1.0):
            raise UsageError(f"--{word} is for the cluster runner; add --runner cluster")
    code = 0
    for source, config in zip(sources, configs, strict=True):
        out = _out(options, source, alone=len(sources) == 1)
        try:
            # Only a camera ends when it is told to; a file's run is interrupted and resumed.
            end = GracefulEnd() if has_camera([source.uri]) else nullcontext()
            with end, ProgressBars(console, quiet=options.quiet) as watch:
                result = run(source, config, out, watch, resume=options.resume)
        except SourceError as error:
            if len(sources) == 1:
                raise
            console.print(f"[bold red]reel3d:[/] {escape(str(error))}", soft_wrap=True)
            code = max(code, error.exit_code)
            continue
        if not options.quiet:
            _summarise(result, console)
        code = max(code, result.exit_code)
        print(result.folder, flush=True)
    return code


def _run_on_cluster(
    options: argparse.Namespace,
    wanted: list[tuple[Source, RunConfig, Path]],
    console: Console,
) -> int:
    """Run all sources together over Ray."""
    # Ray is large: only those who use it load it.
    from pipeline.cluster.runner import ClusterRunner
    from pipeline.telemetry.live_table import LiveTable

    if not 0 < options.share <= 1:
        raise UsageError(f"--share must be above 0 and at most 1, got {options.share:g}")
    together = ClusterRunner(
        address=options.address,
        share=options.share,
        priority=options.priority,
        resume=options.resume,
    )
    cameras = has_camera(source.uri for source, _, _ in wanted)
    end = GracefulEnd(together.end_cameras.set) if cameras else nullcontext()
    code = 0
    with end, LiveTable(console, quiet=options.quiet, streams=len(wanted)) as board:
        outcomes = together.run(wanted, board)
    for outcome in outcomes:
        if isinstance(outcome, Reel3dError):
            if len(wanted) == 1:
                raise outcome
            console.print(f"[bold red]reel3d:[/] {escape(str(outcome))}", soft_wrap=True)
            code = max(code, outcome.exit_code)
            continue
        if not options.quiet:
            _summarise(outcome, console)
        code = max(code, outcome.exit_code)
        print(outcome.folder, flush=True)
    return code


def _check_kind(source: Source) -> None:
    check_scheme(source.uri, source.shown)
    if (Path(source.uri) / STATE).is_dir():
        raise SourceError(
            f"{source.shown} is a run folder, not a source; `reel3d view` shows it, and its "
            "pictures alone are in its folder images/"
        )


def _out(options: argparse.Namespace, source: Source, *, alone: bool) -> Path:
    if options.out is not None:
        return options.out if alone else options.out / source.name
    runs = Path("runs")
    return runs / source.name if options.resume else free_folder(runs, source.name)


def _summarise(result: RunResult, console: Console) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for artefact in result.manifest["artefacts"]:
        if artefact["kind"] in ("configuration", "metrics", "errors"):
            continue
        size = _size(artefact["bytes"])
        table.add_row(f"[cyan]{escape(artefact['path'])}[/]", artefact["kind"], size)
    console.print(table)
    for name, why in result.manifest.get("left_out", {}).items():
        console.print(f"[yellow]–[/] {escape(name)} was left out: {escape(why)}", soft_wrap=True)
    if result.did_nothing:
        console.print("nothing had to be done: this run was complete with these options")
    else:
        seconds, memory = result.manifest["seconds"], result.manifest["peak_memory_bytes"]
        console.print(f"{seconds:.1f} s, {_size(memory)} of memory at most")
    skipped = [s["step"] for s in result.manifest["stages"] if s["state"] == "skipped"]
    if result.exit_code:
        console.print(
            f"[yellow]{len(result.losses)} part(s) could not be made[/]"
            + (f"; left out with them: {', '.join(dict.fromkeys(skipped))}" if skipped else "")
        )
    console.print(f"look at it: reel3d view {escape(str(result.folder))}", soft_wrap=True)


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.2f} GB"
