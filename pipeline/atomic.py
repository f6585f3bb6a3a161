"""Writing so that nothing half-written looks whole: a temporary neighbor, then a rename."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OutputError

__all__ = ["disk_errors", "replacing", "replacing_folder", "write_text"]


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn a full disk, a missing right or a read-only disk under `path` into a clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = "no space is left there; free some, then add --resume to the same command"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "it may not be written; choose another folder with --out"
        elif error.errno == errno.ENAMETOOLONG:
            why = "the name is too long; choose a shorter one with --out"
        else:
            raise
        raise OutputError(f"cannot write {path}: {why}") from error


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary path with the same suffix that becomes `path` on a clean exit.

    The file is flushed to the disk before it takes its name. On an error it is removed and what
    stood at `path` before stays.

    Raises:
        OutputError: The disk is full or may not be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """Yield an empty temporary folder that becomes `path` on a clean exit, replacing it whole."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    try:
        with disk_errors(path):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            shutil.rmtree(path, ignore_errors=True)
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
