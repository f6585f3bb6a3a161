"""Licenses of weights: which may be used freely, and which the user must agree to, once.

What was agreed to is remembered for this user (`REEL3D_CONFIG`, by default
~/.config/reel3d/licenses.json) and written into the manifest of every run that rests on it.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.errors import UsageError
from pipeline.weights.files import UNKNOWN, Weights
from pipeline.weights.hub import Checkpoint, published_license

__all__ = ["FREE", "accept", "accepted", "check", "describe", "is_free"]

FREE = frozenset(
    {
        *("apache-2.0", "mit", "mit-0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense"),
        *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "zlib", "afl-3.0", "artistic-2.0", "bsl-1.0"),
    }
)
"""Identifiers (SPDX, in lower case) that ask for no more than credit."""


NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,63}")


def is_free(license: str) -> bool:
    """Whether weights under it may be used for everything, with credit at most."""
    return license.lower() in FREE


def accepted() -> dict[str, str]:
    """Return the licenses that the user has agreed to, and when (ISO date)."""
    try:
        kept = json.loads(_file().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise UsageError(
            f"{_file()} cannot be read; remove it and agree again with --accept-license"
        ) from None
    return {str(name): str(day) for name, day in kept.items()} if isinstance(kept, dict) else {}


def accept(license: str) -> None:
    """Remember that the user agrees to a license.

    Raises:
        OutputError: It cannot be written down.
    """
    if not NAME.fullmatch(license.lower()):
        raise UsageError(
            f"--accept-license {license!r} is not the name of a license; reel3d models list names "
            "them, such as cc-by-nc-4.0"
        )
    kept = accepted()
    kept.setdefault(license.lower(), datetime.date.today().isoformat())
    write_text(_file(), json.dumps(kept, indent=1, sort_keys=True) + "\n")


def check(weights: Weights, stage: str) -> None:
    """See that weights may be used: they are free, or the user has agreed to their license.

    Raises:
        UsageError: The user has not.
    """
    license = weights.license
    if not license and isinstance(weights, Checkpoint):
        try:
            license = published_license(weights)
        except (OSError, ValueError):
            return  # fetching it gives the better error
    own = weights.is_own and license == UNKNOWN
    if is_free(license) or own or license in accepted():
        return
    where = f"in {weights.path}" if weights.is_own else "on its page"
    raise UsageError(
        f"the weights {weights.id} of {stage} are under the license '{license}', which may forbid "
        f"some uses (often commercial ones); read it {where}, and if you agree add "
        f"--accept-license {license} once{_or(weights)}"
    )


def describe(weights: Weights) -> dict[str, Any]:
    """Return what the manifest says of the license of weights."""
    license = weights.license or UNKNOWN
    agreed = {} if is_free(license) else {"accepted": accepted().get(license)}
    return {"license": license, **{k: v for k, v in agreed.items() if v}}


def _or(weights: Weights) -> str:
    return f", or take {weights.instead}, which needs none" if weights.instead else ""


def _file() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    folder = os.environ.get("REEL3D_CONFIG") or os.path.join(config, "reel3d")
    return Path(folder).expanduser() / "licenses.json"
