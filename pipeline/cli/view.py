"""`reel3d view`: a finished run in a window, or its report."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape

from pipeline.api import open as open_run
from pipeline.contract import Event, Warn


def view_command(options: argparse.Namespace, console: Console) -> int:
    """Show a finished run; return the exit code."""

    def hear(event: Event) -> None:
        if isinstance(event, Warn):
            console.print(f"[yellow]![/] {escape(event.text)}", soft_wrap=True)

    run = open_run(options.folder)
    shown = run.view(options.screenshot, cloud=options.cloud, report=hear)
    if shown is None:
        return 0
    if options.screenshot is None:
        console.print("there is no display; open the report in a browser:")
        print(shown.resolve().as_uri())
    else:
        print(shown)
    return 0
