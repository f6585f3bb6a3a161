"""`reel3d render`: the splats of a run as a picture of one camera or a video along a path."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.cli.argument_types import number, size
from pipeline.contract import Context, Event, Progress, Warn
from pipeline.contract.stage import options_of
from pipeline.contract.viewer import VIEW, find_viewer
from pipeline.telemetry.progress_bar import ProgressBars

__all__ = ["add_render"]

RENDER_HELP = """\
examples:
  reel3d render runs/holiday orbit.mp4
  reel3d render runs/holiday --at 37 --size 1920x1080 view.png
  reel3d render runs/holiday --path train --seconds 10 walk.mp4
  reel3d render scene.ply --path cameras.json --depth depth.mp4

A file of cameras is a list of {"T_world_camera": 4x4, "fov_deg": degrees} or with "K": 3x3 in px
of the picture; poses take camera to world coordinates, x right, y down, z forward. Without --at
and --path a picture shows the beginning of the orbit.
"""

SIDES_PX = (16, 8192)
MOST_MEGAPIXELS = 36
"""8K and more; so many take 2 GB (measured)."""


def add_render(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    render = commands.add_parser(
        "render",
        help="draw the splats of a run from any camera",
        epilog=RENDER_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    render.add_argument("source", type=Path, metavar="RUN", help="a run folder or a .ply of splats")
    render.add_argument("out", type=Path, metavar="OUT", help="a .png or .mp4 file")
    where = render.add_mutually_exclusive_group()
    where.add_argument("--at", type=_frame, metavar="FRAME", help="from where this frame was taken")
    where.add_argument(
        "--path",
        metavar="orbit|train|FILE.json",
        help="round what the cameras looked at (default), along them, or through cameras of a file",
    )
    render.add_argument("--size", type=_size, metavar="WxH", help="px (default: that of the run)")
    render.add_argument("--fps", type=number(1, 240), default=30.0, metavar="N", help="default: 30")
    render.add_argument(
        "--seconds", type=number(0.1, 600), default=6.0, metavar="S", help="default: 6"
    )
    render.add_argument("--depth", action="store_true", help="draw depth, red near and blue far")
    render.set_defaults(command=_render)


def _frame(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a frame number; allowed are 0, 1, 2, ..."
        )
    return int(text)


def _size(text: str) -> tuple[int, int]:
    sides = size(*SIDES_PX, "640x360")(text)
    if sides[0] * sides[1] > MOST_MEGAPIXELS * 1e6:
        raise argparse.ArgumentTypeError(
            f"{text} has {sides[0] * sides[1] / 1e6:.0f} megapixels; at most {MOST_MEGAPIXELS} "
            "are drawn"
        )
    return sides


def _render(options: argparse.Namespace, console: Console) -> int:
    width, height = options.size or (None, None)
    wanted: dict[str, Any] = {
        "at": options.at,
        "path": options.path,
        "width": width,
        "height": height,
        "fps": options.fps,
        "seconds": options.seconds,
        "depth": options.depth,
    }
    config = options_of(VIEW, "splats").model_validate(wanted)
    with ProgressBars(console) as watch:

        def hear(event: Event) -> None:
            if isinstance(event, Progress):
                watch.on_progress("render", event.done, event.total, event.note)
            elif isinstance(event, Warn):
                console.print(f"[yellow]![/] {escape(event.text)}", soft_wrap=True)

        threads = len(os.sched_getaffinity(0))
        artist = find_viewer("splats")(config, Context(threads=threads, report=hear))
        artist.show(options.source, options.out)
    print(options.out)
    return 0
