"""The contract of a viewer: what shows a finished run, or draws it into a file.

A viewer is one file `stages/view/<name>.py` that holds two classes: `Config`, its options, and
`Model`, a `Viewer`. Like a stage it is found by the name of its file; unlike a stage it is not part
of the chain and reads the run folder instead of messages::

    class Config(Options):
        width: int = Field(1280, ge=16, description="width of the picture, px")

    class Model(Viewer[Config]):
        def show(self, source: Path, out: Path | None = None) -> None: ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pipeline.contract.events import Progress, Warn
from pipeline.contract.stage import VIEW, Context, Options, module_of

__all__ = ["VIEW", "Viewer", "find_viewer"]

C = TypeVar("C", bound=Options)


class Viewer(ABC, Generic[C]):
    """Shows a finished run on the screen, or draws it into a file.

    Args:
        config: Options of this viewer.
        context: Threads that it may use, and where its warnings and progress go.
    """

    writes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the files that `show` can write, such as `.png`."""

    def __init__(self, config: C, context: Context | None = None) -> None:
        self.config = config
        self.context = context or Context()

    @abstractmethod
    def show(self, source: Path, out: Path | None = None) -> None:
        """Show a run until the window is closed, or write a picture or video of it.

        Args:
            source: A run folder, or another file that the viewer reads; its content is not trusted.
            out: File to write; None opens a window.

        Raises:
            UsageError: There is nothing to show, it is broken, or it cannot be shown here.
        """

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Report how far drawing is, with a few words on what is being drawn."""
        self.context.report(Progress(done=done, total=total, note=note))

    def warn(self, text: str) -> None:
        """Warn the user of a fallback, or of something that could not be shown."""
        self.context.report(Warn(text=text))


def find_viewer(name: str) -> type[Viewer[Any]]:
    """Return the `Model` class of `stages/view/<name>.py`.

    Raises:
        UsageError: There is no such viewer.
        TypeError: The file's `Model` is not a `Viewer`.
    """
    found: Any = module_of(VIEW, name).Model
    if not issubclass(found, Viewer):
        raise TypeError(f"stages.{VIEW}.{name}.Model must be a Viewer, got {found.__mro__[1]}")
    return found
