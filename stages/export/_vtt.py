"""WebVTT: the format of chapters and previews in video players."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

__all__ = ["chapters", "timestamp"]


def chapters(events: Iterable[dict[str, Any]]) -> str:
    """Return the events as WebVTT chapters.

    Chapters must nest (HTML, "WebVTT file using only nested cues"): an event that crosses the
    end of one that began before it is cut there and goes on as a second cue.
    """
    queue = [
        (_milliseconds(e["start_s"]), -_milliseconds(e["end_s"]), n, _cue_text(e["label"]))
        for n, e in enumerate(events)
    ]
    heapq.heapify(queue)
    cues: list[str] = []
    enclosing: list[int] = []
    while queue:
        start, minus_end, n, text = heapq.heappop(queue)
        end = max(-minus_end, start + 1)
        while enclosing and enclosing[-1] <= start:
            enclosing.pop()
        if enclosing and end > enclosing[-1]:
            heapq.heappush(queue, (enclosing[-1], -end, n, text))
            end = enclosing[-1]
        enclosing.append(end)
        cues.append(f"{timestamp(start)} --> {timestamp(end)}\n{text}\n")
    return "\n".join(["WEBVTT\n", *cues])


def _milliseconds(time_s: float) -> int:
    return max(0, round(time_s * 1000))


def timestamp(time_ms: int) -> str:
    """Return `HH:MM:SS.mmm`."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}"


def _cue_text(label: str) -> str:
    """Escape a label: one line, no tag, and no arrow, which would begin another cue."""
    line = " ".join(label.split()) or "unnamed"
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
