"""How far an interrupted run had come: the last clip up to which the work of all stages stands.

A stage without memory stands where the journal says that it has dealt with every clip, a
stream-scoped one where a snapshot was taken, or where it had no business with the clips since.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.scheduling.dataflow import Flow, Node
from pipeline.storage.journal import Standing

__all__ = ["recall"]


def recall(flow: Flow, standing: Standing, numbers: Callable[[Node], list[int]]) -> int:
    """Bring a flow that has not begun to the last clip up to which all work stands.

    Args:
        flow: Of the stream.
        standing: What the journal of the interrupted run says.
        numbers: Gives the snapshots there are of a stream-scoped stage.

    Returns:
        How many clips need not be gone through again.
    """
    working = [node for node in flow.nodes[1:] if node.runs]
    clips = len(standing.clips) if flow.head.runs and not flow.live else 0
    for node in working:
        if node.kind == "clip":
            known = _known(standing, node)
            clips = min(clips, next(n for n in range(clips + 1) if n not in known))
    anew = _begin_anew(flow)
    folds = [node for node in working if node.kind == "fold" and node.name not in anew]
    there = {node.name: set(numbers(node)) for node in folds}
    held: dict[str, int] = {}
    while clips:
        found = {n.name: _snapshot(there[n.name], _idle(standing, n), clips) for n in folds}
        held = {name: number for name, number in found.items() if number is not None}
        if len(held) == len(found):
            break
        clips -= 1
    for number in range(clips):
        _recall_clip(flow, standing, working, number, held, anew)
    return clips


def _begin_anew(flow: Flow) -> set[str]:
    """Return the stream-scoped stages that must begin their stream once more.

    What a stage that is through has made clip by clip comes once more, all at the end: those that
    have taken it from the clips would have it twice.
    """
    folds = [node for node in flow.nodes if node.kind == "fold"]
    replayed = sum(node.bit for node in folds if node.job.action == "replay")
    back = [node for node in folds if node.runs and node.feeders & replayed]
    for node in back:
        # What others gave it of those clips is not known: they begin anew with it.
        back += [m for m in folds if m.runs and node.feeders & m.bit and m not in back]
    return {node.name for node in back}


def _known(standing: Standing, node: Node) -> set[int]:
    key = node.job.key
    return set(standing.dealt.get(key, {})) | standing.passed.get(key, set())


def _idle(standing: Standing, node: Node) -> set[int]:
    """Return the clips that left a stream-scoped stage as it was."""
    key = node.job.key
    return standing.passed.get(key, set()) | set(standing.dealt.get(key, {}))


def _snapshot(there: set[int], idle: set[int], clips: int) -> int | None:
    """Return the snapshot that stands for a stage's state after so many clips; 0 for none yet."""
    place = clips
    while place and place not in there:
        if place - 1 not in idle:
            return None
        place -= 1
    return place


def _recall_clip(
    flow: Flow,
    standing: Standing,
    working: list[Node],
    number: int,
    held: dict[str, int],
    anew: set[str],
) -> None:
    nothing: set[str] = set()
    for node in working:
        key = node.job.key
        dealt = standing.dealt.get(key, {}).get(number)
        if node.kind == "clip" and dealt is None:
            nothing.add(node.name)  # passed over
        if dealt is None:
            continue
        node.opened = True
        if node.kind == "clip":
            node.job.meter.items += 1
            node.job.meter.seconds += dealt.seconds
        if dealt.lost is not None:
            node.lost.append(dealt.lost)
            node.job.flawed = True
            nothing.add(node.name)
            if node.kind == "fold":
                node.poison.add(number)
    remembered: dict[str, Any] = standing.clips[number]
    flow.recall(remembered["clip"], remembered, nothing, held, anew)
