"""Rendered pictures kept on disk between runs, under the system's folder for temporary files.

An entry is named by a hash of the sources of this package and of what was asked for, so a change
of either renders anew. Writers write aside and rename: any number of processes may share it, and
whoever wants what another one is rendering waits for it.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

FOLDER = Path(tempfile.gettempdir()) / f"reel3d-scenes-{os.getuid()}"
KEPT_S = 2 * 24 * 3600
"""Entries not read for this long are deleted when another one is written."""


def cached_array(
    key: tuple, shape: tuple[int, ...], make_rows: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """Return the read-only ``uint8`` array of a key, mapped from disk, made row by row if new."""
    path = FOLDER / f"{_digest(key)}.npy"
    if not path.exists():
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _write(path, shape, make_rows())
    os.utime(path)
    return np.load(path, mmap_mode="r")


def _write(path: Path, shape: tuple[int, ...], rows: Iterable[np.ndarray]) -> None:
    for old in FOLDER.iterdir():
        # Another process may have renamed or deleted it since.
        with suppress(FileNotFoundError):
            if old.stat().st_mtime < time.time() - KEPT_S:
                old.unlink()
    handle, aside = tempfile.mkstemp(dir=FOLDER, suffix=".part")
    os.close(handle)
    try:
        array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
        for i, row in enumerate(rows):
            array[i] = row
        array.flush()
        del array
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _digest(key: tuple) -> str:
    digest = hashlib.sha256(_sources())
    for part in key:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(repr(part).encode())
    return digest.hexdigest()[:32]


@lru_cache(maxsize=1)
def _sources() -> bytes:
    """Return a hash of the files that decide what a picture looks like."""
    drawing = (
        "geometry",
        "raycast",
        "noise",
        "materials",
        "furniture",
        "lighting",
        "atlas",
        "shading",
        "truth",
    )
    files = [Path(__file__).with_name(f"{name}.py") for name in drawing]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).digest()
