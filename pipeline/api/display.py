"""Receivers of a run's progress: a caller's listener, the terminal, or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from pipeline.contract import Source
from pipeline.telemetry import ProgressListener, RunListener, SilentListener

if TYPE_CHECKING:
    from pipeline.telemetry import RunStatus

__all__ = ["Display", "ListenerDisplay", "TerminalDisplay"]


class Display(Protocol):
    """Makes the listeners of a launch."""

    def for_source(self, source: Source) -> AbstractContextManager[ProgressListener]:
        """Return the listener of a source that the local runner is about to run."""
        ...

    def for_all(self, sources: Sequence[Source]) -> AbstractContextManager[RunListener]:
        """Return what the cluster runner reports to."""
        ...


class ListenerDisplay:
    """Reports every source to one listener; without one, nothing is reported."""

    def __init__(self, listener: ProgressListener | None = None) -> None:
        self._listener: ProgressListener = SilentListener() if listener is None else listener

    def for_source(self, source: Source) -> AbstractContextManager[ProgressListener]:
        """Return the listener."""
        del source
        return nullcontext(self._listener)

    def for_all(self, sources: Sequence[Source]) -> AbstractContextManager[RunListener]:
        """Return a board that hands out the listener."""
        del sources
        return nullcontext(self)

    def update(self, status: RunStatus) -> None:
        """Ignore the status of the run as a whole."""

    def for_stream(self, name: str) -> ProgressListener:
        """Return the listener."""
        del name
        return self._listener


class TerminalDisplay:
    """Shows bars and tables on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    def for_source(self, source: Source) -> AbstractContextManager[ProgressListener]:
        """Return a bar for the source."""
        from pipeline.telemetry.progress_bar import ProgressBars

        del source
        return ProgressBars(self._console, quiet=self._quiet)

    def for_all(self, sources: Sequence[Source]) -> AbstractContextManager[RunListener]:
        """Return a table of all sources."""
        from pipeline.telemetry.live_table import LiveTable

        return LiveTable(self._console, quiet=self._quiet, streams=len(sources))
