"""How an exporter puts a file into the run folder: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.atomic import replacing, replacing_folder
from pipeline.contract import Artifact, Stage

__all__ = ["publish", "publish_folder"]


@contextmanager
def publish(stage: Stage[Any], path: str, kind: str) -> Iterator[Path]:
    """Yield a temporary file that becomes `path` of the run folder and is listed as `kind`."""
    assert stage.context.folder is not None, "exporters are opened with a run folder"
    with replacing(stage.context.folder / path) as temporary:
        yield temporary
    stage.context.report(Artifact(path=path, kind=kind))


@contextmanager
def publish_folder(stage: Stage[Any], path: str, kind: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` of the run folder, replacing it whole."""
    assert stage.context.folder is not None, "exporters are opened with a run folder"
    with replacing_folder(stage.context.folder / path) as temporary:
        yield temporary
    stage.context.report(Artifact(path=path, kind=kind))
