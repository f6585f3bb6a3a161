"""Sources by address: a whole local copy of what `s3://`, `gs://` or `https://` names.

Decoders seek, so a film is copied before it is opened: to `$REEL3D_CACHE` (by default
`~/.cache/reel3d`), under a name made of its address and of what the server says about its
content. A copy takes its name when it is whole; one process fetches an address, the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from pipeline.atomic import replacing
from pipeline.contract import Source
from pipeline.errors import OutputError, Reel3dError, SourceError, UsageError, did_you_mean
from pipeline.sources.remote import SCHEMES, Remote, ask, explain, may_pass, pieces
from pipeline.sources.urls import CAMERAS, plain_path, scheme

__all__ = ["check_scheme", "fingerprint", "is_remote", "local"]

log = logging.getLogger(__name__)

TRIES = 4
PATIENCE_S = 60
SLOWEST_BYTES_S = 1000
"""A server that sends less than this on average, after `PATIENCE_S`, is given up."""
LARGEST_BYTES = 20_000_000_000
CACHE_BYTES = 100_000_000_000
SPARE_BYTES = 256 << 20
"""What stays free on the disk of the cache."""
FRESH_S = 24 * 3600
"""A copy used this recently is never removed to make room."""

Progress = Callable[[int, int | None], None]
"""Hears the bytes so far and the whole size, None where the server does not say."""


def check_scheme(uri: str, shown: str) -> None:
    """Refuse an address of a kind that nothing here reads.

    Raises:
        SourceError: `uri` is an address, and its scheme is unknown.
    """
    known = ("file", *CAMERAS, *SCHEMES)
    if "://" in uri and scheme(uri) not in known:
        raise SourceError(
            f"{shown} is an address of a kind that cannot be read; allowed are files, folders, "
            f"{', '.join(f'{name}://' for name in known if name != 'memory')}"
            + did_you_mean(scheme(uri), known)
        )


def is_remote(uri: str) -> bool:
    """Say whether the source must be fetched before it can be opened."""
    return scheme(uri) in SCHEMES


def fingerprint(source: Source) -> str:
    """Return a hash that changes when the content behind the address changes.

    It is made of the address without login and signature, and of the entity tag, size and time
    that the server states. Where it states none of these but the size, a change that keeps the
    size goes unnoticed.

    Raises:
        SourceError: There is no such file, or it cannot be reached.
        UsageError: The driver for this kind of address is not installed.
    """
    return ask(source).stamp


def local(source: Source, progress: Progress | None = None) -> Source:
    """Return the same source with the path of a whole local copy as its `uri`.

    A path, a camera and whatever else is not fetched come back as they are. A source may have
    at most 20 GB (`REEL3D_LARGEST_SOURCE_GB`) and the cache 100 GB (`REEL3D_CACHE_GB`): the
    copies that were not used for longest make room, those of the last day excepted.

    Args:
        source: `shown` and `name` are kept, so that messages still name the address.
        progress: Hears how far the copy has come.

    Raises:
        SourceError: There is no such file, it is too large, or the connection keeps failing.
        OutputError: The cache has no room or may not be written.
        UsageError: The driver for this kind of address is not installed.
    """
    if not is_remote(source.uri):
        return replace(source, uri=plain_path(source.uri))
    largest = _gigabytes("REEL3D_LARGEST_SOURCE_GB", LARGEST_BYTES)
    for _ in range(TRIES):
        remote = ask(source)
        if remote.size is not None and remote.size > largest:
            _refuse_size(source, f"has {remote.size / 1e9:.1f} GB", largest)
        copy = _copy_of(remote, largest, progress)
        if copy is not None:
            return replace(source, uri=str(copy))
        log.info("%s changed while it was copied; once more", source.shown)
    raise SourceError(f"{source.shown} keeps changing while it is copied; try when it is complete")


def _copy_of(remote: Remote, largest: int, progress: Progress | None) -> Path | None:
    """Return the path of a whole copy; None if the content changed meanwhile."""
    folder = _cache()
    suffix = Path(urlsplit(remote.source.uri).path).suffix.lower()
    suffix = suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""
    copy = folder / f"{remote.stamp[:32]}{suffix}"
    with _alone(folder / f"{remote.stamp[:32]}.lock", remote.source):
        if copy.is_file() and remote.size in (None, copy.stat().st_size):
            os.utime(copy)
            return copy
        _make_room(folder, remote, largest)
        with contextlib.suppress(_Changed), replacing(copy) as temporary:
            _download(remote, temporary, largest, progress)
            # A video that is replaced while it is read would be half of each.
            if ask(remote.source).stamp != remote.stamp:
                raise _Changed
        return copy if copy.is_file() else None


class _Changed(Exception):
    """Leaves `replacing` without a result."""


def _download(remote: Remote, target: Path, largest: int, progress: Progress | None) -> None:
    done, began = 0, time.monotonic()
    with target.open("wb") as out:
        for offset, data in _patiently(remote):
            if offset != done:
                out.seek(offset)
                out.truncate()
            out.write(data)
            done = offset + len(data)
            _judge(remote, done, largest, time.monotonic() - began)
            if progress is not None:
                progress(done, remote.size)


def _patiently(remote: Remote) -> Generator[tuple[int, bytes]]:
    """Yield (offset, bytes) of the whole file; a broken connection resumes where it broke.

    Only failures without a byte between them count; a server that sends nothing but broken
    connections meets its end there or in `_judge`.
    """
    done, failures = 0, 0
    while True:
        try:
            for offset, data in pieces(remote, done):
                done, failures = offset + len(data), 0
                yield offset, data
            if remote.size is None or done >= remote.size:
                return
            raise ConnectionError(f"it ended after {done} of {remote.size} bytes")
        except Reel3dError:
            raise
        except Exception as error:
            failures += 1
            if failures == TRIES or not may_pass(error):
                explain(error, remote.source)
            log.info("%s broke off at %d bytes; going on", remote.source.shown, done)
            time.sleep(0.25 * 2**failures)


def _judge(remote: Remote, done: int, largest: int, seconds: float) -> None:
    source = remote.source
    if done > largest:
        _refuse_size(source, "does not end", largest)
    if remote.size is not None and done > remote.size:
        raise SourceError(f"{source.shown} sends more than the {remote.size} bytes that it said")
    if seconds > PATIENCE_S and done / seconds < SLOWEST_BYTES_S:
        raise SourceError(
            f"{source.shown} comes too slowly: {done} bytes in {seconds:.0f} s; fetch it by other "
            "means and name the file"
        )


def _refuse_size(source: Source, what: str, largest: int) -> NoReturn:
    raise SourceError(
        f"{source.shown} {what}; at most {largest / 1e9:g} GB are fetched: raise "
        "REEL3D_LARGEST_SOURCE_GB, or fetch it by other means and name the file"
    )


def _gigabytes(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not re.fullmatch(r"\d{1,7}(\.\d{1,9})?", text) or float(text) == 0:
        raise UsageError(f"{variable} is '{text}'; give a number of gigabytes above 0, such as 50")
    return int(float(text) * 1e9)


def _cache() -> Path:
    """Return the folder of the copies; only its owner may read it, as videos may be private."""
    root = os.environ.get("REEL3D_CACHE", "")
    folder = (Path(root) if root else Path.home() / ".cache" / "reel3d") / "sources"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(
            f"the cache {folder} cannot be made ({error.strerror}); let REEL3D_CACHE name a "
            "folder that can be written"
        ) from None
    return folder


@contextlib.contextmanager
def _alone(path: Path, source: Source) -> Generator[None]:
    """Hold the lock of one address; the kernel gives it back when its holder dies."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OutputError(
            f"the cache {path.parent} cannot be written ({error.strerror}); let REEL3D_CACHE name "
            "another folder"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process fetches %s; waiting for it", source.shown)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_room(folder: Path, remote: Remote, largest: int) -> None:
    """Remove old copies until the new one fits into the cache and on the disk.

    Raises:
        OutputError: The disk has no room for it even so.
    """
    need = remote.size or 0
    limit = max(_gigabytes("REEL3D_CACHE_GB", CACHE_BYTES), min(need, largest))
    now = time.time()
    found = [(path.stat(), path) for path in folder.iterdir() if path.suffix != ".lock"]
    held = sum(stat.st_size for stat, _ in found)
    for stat, path in sorted(found, key=lambda pair: pair[0].st_mtime):
        free = shutil.disk_usage(folder).free
        if held + need <= limit and free >= need + SPARE_BYTES:
            break
        if now - stat.st_mtime > FRESH_S:
            path.unlink(missing_ok=True)
            held -= stat.st_size
    free = shutil.disk_usage(folder).free
    if free < need + SPARE_BYTES:
        raise OutputError(
            f"the disk of the cache {folder} has {free / 1e9:.1f} GB free, and "
            f"{remote.source.shown} needs {(need + SPARE_BYTES) / 1e9:.1f} GB; free some, or let "
            "REEL3D_CACHE name a folder on another disk"
        )
