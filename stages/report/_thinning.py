"""Thinning of too many events to draw: time slots with the label that fills most of each."""

from __future__ import annotations

from collections import defaultdict

from stages.report._facts import EventRow
from stages.report._formatting import clock, plural

__all__ = ["THIN_SLOTS", "thinned"]

THIN_SLOTS = 160
"""Number of time slots, about 6 px each on a wide screen, the narrowest for a pointer."""


def thinned(
    events: list[EventRow], duration_s: float, *, numbered: bool
) -> list[tuple[EventRow, str]]:
    """Return at most `THIN_SLOTS` blocks that represent all events of one kind, with titles.

    A block has the label that takes up most of its slot; consecutive slots with the same label are
    one block. For shots (`numbered`) the label gives the numbers of those that begin in the slot.
    """
    step_s = duration_s / THIN_SLOTS
    last_slot = THIN_SLOTS - 1
    taken_s = [defaultdict[str, float](float) for _ in range(THIN_SLOTS)]
    begun: list[list[int]] = [[] for _ in range(THIN_SLOTS)]
    for number, event in enumerate(sorted(events, key=lambda e: e.start_s), 1):
        first = min(int(event.start_s / step_s), last_slot)
        begun[first].append(number)
        for slot in range(first, min(int(event.end_s / step_s), last_slot) + 1):
            inside_s = min(event.end_s, (slot + 1) * step_s) - max(event.start_s, slot * step_s)
            # Count events of zero length too.
            taken_s[slot][event.label] += max(inside_s, 1e-9)
    runs: list[tuple[int, int, str, int]] = []
    for slot, taken in enumerate(taken_s):
        if not taken:
            continue
        label = max(taken, key=lambda name: taken[name])
        if numbered:
            label = _numbers(begun[slot], runs[-1][2] if runs else "shot")
        first, count = slot, len(begun[slot])
        if runs and runs[-1][1] == slot and runs[-1][2] == label:
            first, _, _, before = runs.pop()
            count += before
        runs.append((first, slot + 1, label, count))
    blocks: list[tuple[EventRow, str]] = []
    for first, end, label, count in runs:
        start_s, end_s = first * step_s, end * step_s
        title = f"{label}, {clock(start_s)} to {clock(end_s)}"
        if not numbered:
            title = f"mostly {title} ({plural(count, 'event')})"
        blocks.append((EventRow(start_s, end_s, label, events[0].kind, None, ""), title))
    return blocks


def _numbers(begun: list[int], before: str) -> str:
    if not begun:
        return before
    if len(begun) == 1:
        return f"shot {begun[0]}"
    return f"shots {begun[0]}\u2013{begun[-1]}"
