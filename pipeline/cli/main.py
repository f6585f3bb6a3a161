"""The command: `reel3d run`, `watch`, `view`, `render`, `plan`, `options` and `doctor`.

Exit codes: 0 done · 2 bad command, configuration or output folder · 3 unusable source ·
4 finished, but a part could not be made (each is named) · 130 interrupted · 1 a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from pipeline.cli.argument_types import priority, share
from pipeline.cli.doctor import doctor_command
from pipeline.cli.jobs import add_jobs
from pipeline.cli.list_options import options_command
from pipeline.cli.models import add_models
from pipeline.cli.plan import add_plan
from pipeline.cli.render import add_render
from pipeline.cli.run import (
    RUN_HELP,
    run_command,
)
from pipeline.cli.shared_options import add_license_option, add_log_options
from pipeline.cli.view import view_command
from pipeline.cli.watch import add_watch
from pipeline.config import presets
from pipeline.errors import Reel3dError, UsageError
from pipeline.renamed import check_flag
from pipeline.telemetry import LogSettings, configure
from pipeline.version import version
from pipeline.weights import accept

__all__ = ["main"]

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    console = Console(stderr=True, highlight=False)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parse(words)
        for license in getattr(options, "licenses", ()):
            accept(license)
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
        # The reader of the output has ended; a second failure on flushing would only confuse.
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
        "--priority",
        type=priority,
        default=0,
        metavar="N",
        help="higher goes first on a shared cluster",
    )
    run_.add_argument(
        "--share",
        type=share,
        default=1.0,
        metavar="0..1",
        help="most of a shared cluster that this run may take",
    )
    add_license_option(run_)
    run_.set_defaults(command=run_command)

    view = commands.add_parser("view", help="look at a run in Open3D, or at its report")
    view.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    view.add_argument("--screenshot", type=Path, metavar="FILE.png", help="write a picture instead")
    view.add_argument(
        "--cloud", action="store_true", help="show the point cloud (or mesh) where there are splats"
    )
    view.set_defaults(command=view_command)

    add_watch(commands, run_command)
    add_render(commands)
    add_jobs(commands)
    add_plan(commands)
    add_models(commands)

    options = commands.add_parser("options", help="list the models and options of the stages")
    options.add_argument("steps", nargs="*", metavar="STEP", help="such as depth, or export.points")
    options.set_defaults(command=options_command)

    doctor = commands.add_parser("doctor", help="what this machine can run, what to install")
    doctor.add_argument(
        "--imports",
        action="store_true",
        help="import every library and draw off screen, instead of loading machine code only",
    )
    doctor.set_defaults(command=doctor_command)
    add_log_options(parser, (commands.choices[name] for name in ("run", "watch")))
    return parser


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse; the sources, overrides and flags of `run` and `watch` may be in any order."""
    parser = _parser()
    options, extra = parser.parse_known_args(words)
    unknown = [word for word in extra if word.startswith("-") or not hasattr(options, "words")]
    if unknown:
        for word in unknown:
            check_flag(word)
        parser.error(f"unrecognized argument: {unknown[0]}")
    if extra:
        options.words += extra
    return options
