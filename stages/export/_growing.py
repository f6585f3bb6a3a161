"""A file or folder that grows over many calls and takes its name only when it is whole."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pipeline.atomic import disk_errors
from pipeline.stage import Stage
from stages.export._publish import publish, publish_folder

__all__ = ["Growing"]


class Growing:
    """An artefact under way; `commit` or `abandon` it."""

    def __init__(self, stage: Stage[Any], path: str, kind: str, *, folder: bool = False) -> None:
        self._publish: AbstractContextManager[Path] | None = (
            publish_folder(stage, path, kind) if folder else publish(stage, path, kind)
        )
        assert stage.context.folder is not None, "exporters are opened with a run folder"
        self._final = stage.context.folder / path
        self.path = self._publish.__enter__()
        """Where to write until then."""

    def writing(self) -> AbstractContextManager[None]:
        """Return a context that turns a full disk into one clear line about the final path."""
        return disk_errors(self._final)

    def commit(self) -> None:
        """Give the artefact its name."""
        if self._publish is not None:
            publish, self._publish = self._publish, None
            publish.__exit__(None, None, None)

    def abandon(self) -> None:
        """Remove what was written; after `commit` this does nothing."""
        if self._publish is not None:
            publish, self._publish = self._publish, None
            abandoned = InterruptedError("the stream ended before the artefact was whole")
            publish.__exit__(type(abandoned), abandoned, None)
