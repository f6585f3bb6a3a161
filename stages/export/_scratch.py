"""What an exporter puts aside while a stream runs, so that it can go on after a crash."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from pipeline.atomic import disk_errors
from pipeline.contract import Stage

__all__ = ["Scratch", "Spool"]


class Scratch:
    """The stage's own folder; where the runner gives none, a temporary one in the run folder."""

    def __init__(self, stage: Stage[Any]) -> None:
        self._stage = stage
        self._temporary: TemporaryDirectory[str] | None = None

    @property
    def lasts(self) -> bool:
        """Whether it outlives this process."""
        return self._stage.context.scratch is not None

    def folder(self) -> Path:
        """Return it; it is there from now on."""
        context = self._stage.context
        if context.scratch is not None:
            context.scratch.mkdir(parents=True, exist_ok=True)
            return context.scratch
        if self._temporary is None:
            self._temporary = TemporaryDirectory(prefix=".writing-", dir=context.folder)
        return Path(self._temporary.name)

    def close(self) -> None:
        """Remove what does not outlive the process."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


class Spool:
    """A file in the scratch folder that only grows.

    A snapshot names its `length`. What a crash left beyond it, whole or torn, is cut off.

    Args:
        scratch: The folder.
        name: Of the file.
        final: The artifact that it is for, which errors name.
    """

    def __init__(self, scratch: Scratch, name: str, final: Path) -> None:
        self.length = 0
        """Bytes that count."""
        self._scratch = scratch
        self._name = name
        self._final = final
        self._handle: int | None = None

    def append(self, data: bytes) -> None:
        """Add to the end; on return it is in the hands of the operating system.

        Raises:
            OutputError: The disk is full or may not be written.
        """
        with disk_errors(self._final):
            handle = self._opened()
            rest = memoryview(data)
            while rest:
                written = os.pwrite(handle, rest, self.length)
                self.length += written
                rest = rest[written:]

    def reading(self) -> BinaryIO:
        """Open it from its beginning."""
        with disk_errors(self._final):
            self._opened()
            return (self._scratch.folder() / self._name).open("rb")

    def restore(self, length: int) -> None:
        """Go on at the length that a snapshot names.

        Raises:
            ValueError: The file holds less than that.
        """
        path = self._scratch.folder() / self._name
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise ValueError(f"{self._name} holds {size} bytes, its snapshot names {length}")
        self.close()
        self.length = length

    def close(self) -> None:
        """Give the file back; it stays where it is."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _opened(self) -> int:
        if self._handle is None:
            path = self._scratch.folder() / self._name
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            os.ftruncate(self._handle, self.length)
        return self._handle
