"""Logging of the command and of its workers: plain text, or a line of JSON a record.

Only the command configures logging; the library says `logging.getLogger(__name__)`. A record
carries the ids of what was being worked on, taken from the context that it was logged in::

    with bound(stream="gate", clip="gate/000012000"):
        log.warning("the picture is gray")
    {"time": "2026-01-31T08:00:00.125Z", "level": "WARNING", "logger": "stages.flow.dis",
     "message": "the picture is gray", "job": "j7", "stream": "gate", "clip": "gate/000012000"}

Credentials in addresses are masked in every record, tracebacks included.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TextIO, cast, get_args

from pipeline.errors import UsageError
from pipeline.sources import masked

__all__ = ["IDS", "LogSettings", "bind", "bound", "configure"]

IDS = ("job", "stream", "clip", "stage", "node")
"""What a record may be bound to, in the order in which it is written."""

Form = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")
FORM_VARIABLE, LEVEL_VARIABLE = "REEL3D_LOG_FORMAT", "REEL3D_LOG_LEVEL"

_process_ids: dict[str, str] = {}
_context_ids: ContextVar[Mapping[str, str]] = ContextVar("reel3d_ids")


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """How a process logs; plain data, so that a worker gets those of its command."""

    form: Form = "text"
    level: str = "warning"

    def __post_init__(self) -> None:
        for what, got, allowed in (
            ("log format", self.form, get_args(Form)),
            ("log level", self.level, LEVELS),
        ):
            if got not in allowed:
                raise UsageError(f"{what} '{got}' is unknown; it is one of {', '.join(allowed)}")

    @classmethod
    def inherited(cls) -> LogSettings:
        """Return those of the command that started this process, or the defaults."""
        form = os.environ.get(FORM_VARIABLE, cls.form)
        return cls(form=cast(Form, form), level=os.environ.get(LEVEL_VARIABLE, cls.level))

    def environment(self) -> dict[str, str]:
        """Return the variables that hand these settings to a process on any node."""
        return {FORM_VARIABLE: self.form, LEVEL_VARIABLE: self.level}


def bind(**ids: str | None) -> None:
    """Bind every later record of this process, all threads, to ids; None takes one away."""
    for name, value in _checked(ids).items():
        if value is None:
            _process_ids.pop(name, None)
        else:
            _process_ids[name] = value


@contextmanager
def bound(**ids: str | None) -> Generator[None]:
    """Bind the records of this thread or task to ids, inside; None takes one away.

    A thread that is started inside begins with none: bind in it, or run it in a copied context.
    """
    merged: dict[str, str | None] = {**_context_ids.get({}), **_checked(ids)}
    token = _context_ids.set({name: value for name, value in merged.items() if value is not None})
    try:
        yield
    finally:
        _context_ids.reset(token)


def configure(settings: LogSettings | None = None, stream: TextIO | None = None) -> None:
    """Set up logging of this process: of the command, or of a worker, which inherits it.

    Args:
        settings: How; None takes those that the command left in the environment.
        stream: Where to; standard error by default.
    """
    settings = settings or LogSettings.inherited()
    handler = _Handler(stream)
    handler.setFormatter(_JsonLines() if settings.form == "json" else _Text())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    # Whatever this process starts logs in the same way.
    os.environ.update(settings.environment())


def _checked(ids: Mapping[str, str | None]) -> dict[str, str | None]:
    unknown = set(ids) - set(IDS)
    if unknown:
        raise TypeError(f"records are bound to {', '.join(IDS)}; got {', '.join(sorted(unknown))}")
    return {name: None if value is None else masked(value) for name, value in ids.items()}


class _Handler(logging.StreamHandler[TextIO]):
    """The handler of this package, the only one that `configure` replaces.

    It masks credentials and adds ids.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._standard = stream is None

    def emit(self, record: logging.LogRecord) -> None:
        # Whoever redirects standard error later means us too.
        if self._standard:
            self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        # A copy, since other handlers may log the record too.
        clean = logging.makeLogRecord(record.__dict__)
        clean.msg, clean.args = masked(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            clean.exc_text = logging.Formatter().formatException(record.exc_info)
        clean.exc_text = masked(clean.exc_text) if clean.exc_text else None
        clean.stack_info = masked(record.stack_info) if record.stack_info else None
        ids = {**_process_ids, **_context_ids.get({})}
        clean.__dict__["ids"] = {name: ids[name] for name in IDS if name in ids}
        return super().format(clean)


class _JsonLines(logging.Formatter):
    """One JSON object a line, ASCII only: no name can break a line or an encoding."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **record.__dict__["ids"],
        }
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line)


class _Text(logging.Formatter):
    """`logger: message (stream=gate clip=…)`; what does not print is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name}={value}" for name, value in record.__dict__["ids"].items())
        said = f"{record.name}: {record.getMessage()}" + (f" ({ids})" if ids else "")
        said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)
        return "\n".join(part for part in (said, record.exc_text, record.stack_info) if part)
