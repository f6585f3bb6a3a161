"""`reel3d view`: a finished run in a window, or its report."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.contract.events import Event, Warn
from pipeline.contract.stage import Context, find, options_of
from pipeline.errors import UsageError


def view_command(options: argparse.Namespace, console: Console) -> int:
    """Show a finished run; return the exit code."""
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
