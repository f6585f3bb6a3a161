"""`reel3d run`: sources, configurations, choice of runner, summary."""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from pipeline.api import Launch, Run
from pipeline.api.display import TerminalDisplay
from pipeline.cli.watch import GracefulEnd, has_camera
from pipeline.config import is_override
from pipeline.contract import Source
from pipeline.errors import Reel3dError, UsageError
from pipeline.telemetry import ProgressListener

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


class _CommandDisplay(TerminalDisplay):
    """The terminal; the first Ctrl-C ends a camera."""

    def for_source(self, source: Source) -> AbstractContextManager[ProgressListener]:
        """Return a bar for the source."""
        bar = super().for_source(source)
        # Only a camera ends when it is asked to; a file's run is interrupted and resumed.
        return _within(GracefulEnd(), bar) if has_camera([source.uri]) else bar


@contextmanager
def _within(
    end: GracefulEnd, bar: AbstractContextManager[ProgressListener]
) -> Generator[ProgressListener]:
    with end, bar as watch:
        yield watch


def run_command(options: argparse.Namespace, console: Console) -> int:
    """Run all sources of the command line; return the exit code."""
    overrides = [word for word in options.words if is_override(word)]
    uris = [word for word in options.words if not is_override(word)]
    if not uris:
        raise UsageError("no source given; name a video file or a folder of images")
    launch = Launch(
        uris,
        preset=options.preset,
        config=options.config,
        overrides=overrides,
        out=options.out,
        resume=options.resume,
        runner=options.runner,
        address=options.address,
        priority=options.priority,
        share=options.share,
    )
    cameras = launch.runner == "cluster" and has_camera(source.uri for source in launch.sources)
    code = 0
    with GracefulEnd(launch.end_cameras.set) if cameras else nullcontext():
        for outcome in launch.run(_CommandDisplay(console, quiet=options.quiet)):
            if isinstance(outcome, Reel3dError):
                console.print(f"[bold red]reel3d:[/] {escape(str(outcome))}", soft_wrap=True)
            else:
                if not options.quiet:
                    _summarize(outcome, console)
                print(outcome.folder, flush=True)
            code = max(code, outcome.exit_code)
    return code


def _summarize(run: Run, console: Console) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for artifact in run.manifest["artifacts"]:
        if artifact["kind"] in ("configuration", "metrics", "errors"):
            continue
        size = decimal(artifact["bytes"])
        table.add_row(f"[cyan]{escape(artifact['path'])}[/]", artifact["kind"], size)
    console.print(table)
    for name, why in run.manifest.get("left_out", {}).items():
        console.print(f"[yellow]–[/] {escape(name)} was left out: {escape(why)}", soft_wrap=True)
    if run.did_nothing:
        console.print("nothing had to be done: this run was complete with these options")
    else:
        seconds, memory = run.manifest["seconds"], run.manifest["peak_memory_bytes"]
        console.print(f"{seconds:.1f} s, {decimal(memory)} of memory at most")
    skipped = [s["step"] for s in run.manifest["stages"] if s["state"] == "skipped"]
    if run.exit_code:
        console.print(
            f"[yellow]{len(run.losses)} part(s) could not be made[/]"
            + (f"; left out with them: {', '.join(dict.fromkeys(skipped))}" if skipped else "")
        )
    console.print(f"look at it: reel3d view {escape(str(run.folder))}", soft_wrap=True)
