"""Whether the kernels of the installed package are compiled for this machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Literal

from pipeline.atomic import write_text

__all__ = ["examine", "record"]

PACKAGE = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "__pycache__" / "compiled.json"
"""Written once all kernels are compiled, beside their machine code."""


def record() -> bool:
    """Record that all kernels are compiled; return False where the package cannot be written."""
    try:
        RECORD.parent.mkdir(exist_ok=True)
        write_text(RECORD, json.dumps(_here()))
    except OSError:
        return False
    return True


def examine() -> tuple[Literal["warm", "cold"], str]:
    """Return whether the first run finds compiled kernels, and why not.

    numba is not imported: that would take longer than the rest of `reel3d doctor`.
    """
    try:
        recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "cold", "they were never compiled"
    here = _here()
    for name, why in (
        ("python", "they were compiled for Python"),
        ("numba", "they were compiled by numba"),
        ("cpu", "they were compiled for another CPU:"),
    ):
        if recorded.get(name) != here[name]:
            return "cold", f"{why} {recorded.get(name)}, and this is {here[name]}"
    if recorded.get("sources") != here["sources"]:
        return "cold", "reel3d has changed since they were compiled"
    return "warm", "compiled for this machine"


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
        "cpu": binding.get_host_cpu_name(),
        "sources": digest.hexdigest(),
    }
