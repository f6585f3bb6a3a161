"""What a stage reports beside its messages: progress, warnings, losses, metrics, artifacts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a long call has come; any unit."""

    done: float
    total: float
    note: str = ""
    """State in a few words, such as `12400 splats, 27.3 dB`."""


@dataclass(frozen=True, kw_only=True)
class Warn:
    """A fallback or a doubt."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A piece of the source, or a part of the result, that could not be made."""

    what: str
    why: str
    detail: str = ""
    """A traceback, for `errors.jsonl` only."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of quality with its unit in its name."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file or folder of the run folder is whole."""

    path: str
    """Relative to the run folder."""
    kind: str
    """What it is, such as `point cloud`."""


Event = Progress | Warn | Loss | Metric | Artifact
