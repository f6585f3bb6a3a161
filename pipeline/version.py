"""Version of the installed package."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """Return the version of reel3d."""
    try:
        return importlib.metadata.version("reel3d")
    except importlib.metadata.PackageNotFoundError:
        return "0 (not installed)"
