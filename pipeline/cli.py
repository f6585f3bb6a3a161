"""The command: `reel3d run`, `watch`, `view`, `render`, `plan`, `options` and `doctor`.

Exit codes: 0 done · 2 bad command, configuration or output folder · 3 unusable source ·
4 finished, but a part could not be made (each is named) · 130 interrupted · 1 a bug.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn, get_args

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.addresses import mask, plain_path
from pipeline.chain import EXPORT, ORDER
from pipeline.config import RunConfig, RunOptions, is_override, load, presets
from pipeline.doctor import examine
from pipeline.errors import Reel3dError, SourceError, UsageError, did_you_mean
from pipeline.fetch import check_scheme
from pipeline.jobs import add_jobs
from pipeline.licences import accept, add_licence_option
from pipeline.logs import LogSettings, add_log_options, configure
from pipeline.models_command import add_models
from pipeline.plan_command import add_plan
from pipeline.render import add_render
from pipeline.run import Result, run, version
from pipeline.source import Source
from pipeline.stage import Context, Options, find, models, options_of
from pipeline.store import STATE, clean_name, free_folder
from pipeline.telemetry import Event, Warn
from pipeline.terminal import Terminal
from pipeline.watch import GracefulEnd, add_watch, has_camera

__all__ = ["main", "make_source"]

INTERRUPTED = 130

BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""Rules of annotated-types in words."""

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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    console = Console(stderr=True, highlight=False)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parse(words)
        for licence in getattr(options, "licences", ()):
            accept(licence)
        configure(LogSettings(form=options.log_format, level=options.log_level))
        return options.command(options, console)
    except Reel3dError as error:
        console.print(f"[bold red]reel3d:[/] {escape(str(error))}", soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        more = "; the same command with --resume finishes the run" if words[:1] == ["run"] else ""
        console.print(f"reel3d: interrupted{more}")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; a second failure on flushing would only confuse.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        console.print(escape(traceback.format_exc()), soft_wrap=True)
        console.print(f"[bold red]reel3d {version()}: this is a bug[/]; please report the above")
        return 1


def _parser() -> _Parser:
    parser = _Parser(
        prog="reel3d",
        description="Turns video into what happened in it and the place it happened in.",
    )
    parser.add_argument("--version", action="version", version=f"reel3d {version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run_ = commands.add_parser(
        "run",
        help="turn videos or folders of images into run folders",
        epilog=RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run_.add_argument(
        "words",
        nargs="+",
        metavar="SOURCE|step.option=value",
        help="video files, folders or 'globs' of images; options of the stages",
    )
    run_.add_argument("--out", type=Path, help="run folder (default: runs/<name of the source>)")
    preset = run_.add_mutually_exclusive_group()
    preset.add_argument("--preset", default="default", help=f"one of {', '.join(presets())}")
    preset.add_argument("--config", type=Path, help="YAML file; a run's config.yaml repeats it")
    run_.add_argument(
        "--resume", action="store_true", help="do only what is missing or what options outdate"
    )
    run_.add_argument("--quiet", action="store_true", help="print the run folder and errors only")
    run_.add_argument(
        "--runner",
        default="local",
        choices=("local", "cluster"),
        help="this process (default), or Ray actors on this machine or a cluster",
    )
    run_.add_argument(
        "--address",
        metavar="HOST:PORT|auto",
        help="of the Ray cluster to join; without it the cluster runner starts one here",
    )
    run_.add_argument(
        "--priority", type=int, default=0, metavar="N", help="higher goes first on a shared cluster"
    )
    run_.add_argument(
        "--share",
        type=float,
        default=1.0,
        metavar="0..1",
        help="most of a shared cluster that this run may take",
    )
    add_licence_option(run_)
    run_.set_defaults(command=_run)

    view = commands.add_parser("view", help="look at a run in Open3D, or at its report")
    view.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    view.add_argument("--screenshot", type=Path, metavar="FILE.png", help="write a picture instead")
    view.add_argument(
        "--cloud", action="store_true", help="show the point cloud (or mesh) where there are splats"
    )
    view.set_defaults(command=_view)

    add_watch(commands, _run)
    add_render(commands)
    add_jobs(commands)
    add_plan(commands)
    add_models(commands)

    options = commands.add_parser("options", help="list the models and options of the stages")
    options.add_argument("steps", nargs="*", metavar="STEP", help="such as depth, or export.points")
    options.set_defaults(command=_options)

    doctor = commands.add_parser("doctor", help="what this machine can run, what to install")
    doctor.set_defaults(command=_doctor)
    add_log_options(parser, (commands.choices[name] for name in ("run", "watch")))
    return parser


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse; the sources, overrides and flags of `run` and `watch` may stand in any order."""
    parser = _parser()
    options, extra = parser.parse_known_args(words)
    unknown = [word for word in extra if word.startswith("-") or not hasattr(options, "words")]
    if unknown:
        parser.error(f"'{unknown[0]}' is not understood")
    if extra:
        options.words += extra
    return options


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


def _run(options: argparse.Namespace, console: Console) -> int:
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
            with end, Terminal(console, quiet=options.quiet) as watch:
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
    from pipeline.board import Board
    from pipeline.cluster import Together

    if not 0 < options.share <= 1:
        raise UsageError(f"--share must be above 0 and at most 1, got {options.share:g}")
    together = Together(
        address=options.address,
        share=options.share,
        priority=options.priority,
        resume=options.resume,
    )
    cameras = has_camera(source.uri for source, _, _ in wanted)
    end = GracefulEnd(together.end_cameras.set) if cameras else nullcontext()
    code = 0
    with end, Board(console, quiet=options.quiet, streams=len(wanted)) as board:
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


def _summarise(result: Result, console: Console) -> None:
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


def _view(options: argparse.Namespace, console: Console) -> int:
    folder: Path = options.folder
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}; `reel3d run` prints the one it made")
    if not (folder / "manifest.json").is_file():
        raise UsageError(f"{folder} holds no complete run; `reel3d run … --resume` finishes it")
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    report = folder / "report.html"
    if not display and options.screenshot is None and report.is_file():
        console.print("there is no display; open the report in a browser:")
        print(report.resolve().as_uri())
        return 0
    viewer: Any = find("view", "open3d")(options_of("view", "open3d")())
    viewer.open(Context(report=lambda event: _tell(event, console)))
    viewer.show(folder, options.screenshot, cloud=options.cloud)
    if options.screenshot is not None:
        print(options.screenshot)
    return 0


def _tell(event: Event, console: Console) -> None:
    if isinstance(event, Warn):
        console.print(f"[yellow]![/] {escape(event.text)}", soft_wrap=True)


def _options(options: argparse.Namespace, console: Console) -> int:
    wanted = options.steps or ["run", *ORDER]
    out = Console(highlight=False)
    for name in wanted:
        step, _, model = name.partition(".")
        if step == "run":
            _list_options(out, "run", "", RunOptions)
            continue
        if step not in ORDER:
            raise UsageError(
                f"there is no step '{step}'; there are run, {', '.join(ORDER)}"
                + did_you_mean(step, ("run", *ORDER))
            )
        for found in [model] if model else models(step):
            prefix = f"{step}.{found}" if step == EXPORT else step
            choice = "" if step == EXPORT else f"{step}.model={found}"
            _list_options(out, prefix, choice, options_of(step, found), find(step, found))
    return 0


def _list_options(
    console: Console, prefix: str, choice: str, config: type[Options], stage: Any = None
) -> None:
    about = (sys.modules[stage.__module__].__doc__ or "").strip().splitlines() if stage else []
    told = f"  {escape(about[0])}" if about else ""
    console.print(f"[bold]{escape(choice or prefix)}[/]{told}", soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    table.add_column(no_wrap=True, min_width=32)
    table.add_column()
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "none" if default is None else default
        told = escape(f"{field.description}; {_allowed(field)}")
        table.add_row(f"[cyan]{escape(f'{prefix}.{name}={shown}')}[/]", told)
    console.print(table)


def _allowed(field: FieldInfo) -> str:
    """Say which values a field takes: `a number, at least 1, at most 16`."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    kind = re.sub(r"<class '(\w+)'>", r"\1", str(field.annotation))
    if kind.startswith("typing.Literal["):
        return f"one of {', '.join(str(value) for value in get_args(field.annotation))}"
    parts = [words.get(part, part) for part in kind.replace("NoneType", "None").split(" | ")]
    bounds = [
        f"{phrase} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, phrase in BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([" or ".join(parts).replace("None", "none"), *bounds])


def _doctor(options: argparse.Namespace, console: Console) -> int:
    del options, console
    findings = examine()
    out = Console(highlight=False)
    marks = {"ok": "[green]✓[/]", "missing": "[yellow]–[/]", "broken": "[red]✗[/]"}
    for finding in findings:
        advice = f"  [dim]{escape(finding.advice)}[/]" if finding.advice else ""
        what, told = escape(finding.what), escape(finding.told)
        out.print(f"{marks[finding.state]} {what:<26} {told}{advice}", soft_wrap=True)
    return 4 if any(finding.state == "broken" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
