"""Rows of events on their way into an `Actions` message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from pipeline.contract import Actions
from stages.action._recognized import Segment

__all__ = ["Row", "actions_of", "recognized_rows"]

Row = tuple[str, Literal["shot", "camera", "object", "action"], int, int, float, str]
"""Label, kind, start, end (ns), score and who said so."""


def actions_of(rows: list[Row]) -> Actions | None:
    """Return the message of some rows, in order of time; None for none."""
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: (row[2], row[3]))
    return Actions(
        start_ns=np.array([row[2] for row in rows], np.int64),
        end_ns=np.array([row[3] for row in rows], np.int64),
        score=np.array([row[4] for row in rows], np.float32),
        label=tuple(row[0] for row in rows),
        kind=tuple(row[1] for row in rows),
        model=tuple(row[5] for row in rows),
    )


def recognized_rows(segments: Iterable[Segment]) -> list[Row]:
    """Return the rows of recognized segments."""
    return [(s.label, "action", s.start_ns, s.end_ns, s.score, s.model) for s in segments]
