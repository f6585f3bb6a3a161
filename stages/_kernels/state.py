"""Whether the kernels of the installed package are compiled for this computer."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Literal

from pipeline.atomic import write_text

__all__ = ["examine", "record", "user_record"]

PACKAGE = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "__pycache__" / "compiled.json"
"""Written once all kernels are compiled, beside their machine code."""


def user_record() -> Path:
    """Return the record of kernels that were compiled into the user's cache folder."""
    cache = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "reel3d" / "compiled.json"


def record() -> Path | None:
    """Record that all kernels are compiled; return the file, or None if none is writable."""
    for path in (RECORD, user_record()):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(_here()))
        except OSError:
            continue
        return path
    return None


def examine() -> tuple[Literal["warm", "cold"], str]:
    """Return whether the first run finds compiled kernels, and the reason.

    numba is not imported, which would take longer than the rest of `reel3d doctor`.
    """
    here = _here()
    found = [recorded for path in (RECORD, user_record()) if (recorded := _read(path)) is not None]
    if not found:
        return "cold", "they were never compiled"
    if here in found:
        return "warm", "compiled for this computer"
    recorded = found[0]
    for name, why in (
        ("python", "they were compiled for Python"),
        ("numba", "they were compiled by numba"),
        ("cpu", "they were compiled for another CPU:"),
    ):
        if recorded.get(name) != here[name]:
            return "cold", f"{why} {recorded.get(name)}, and this is {here[name]}"
    return "cold", "reel3d has changed since they were compiled"


def _read(path: Path) -> dict[str, str] | None:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return recorded if isinstance(recorded, dict) else None


def _here() -> dict[str, str]:
    from llvmlite import binding

    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_bytes()
        if b"@kernel(" in text or b"kernel_decorator(" in text:
            digest.update(hashlib.sha256(text).digest())
    return {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "numba": importlib.metadata.version("numba"),
        "cpu": os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name(),
        "sources": digest.hexdigest(),
    }
