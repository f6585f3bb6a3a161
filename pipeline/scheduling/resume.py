"""Resume of an interrupted stream: fast-forward to the last consistent clip.

A stage without memory is consistent up to the clip that the journal says it has processed, a
stateful one where a snapshot was taken, or where it has skipped the clips since.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.scheduling.dataflow import Dataflow
from pipeline.scheduling.tasks import StageState
from pipeline.storage import JournalState
from pipeline.worker import ClipMetadata

__all__ = ["fast_forward"]


def fast_forward(
    dataflow: Dataflow, state: JournalState, snapshots_of: Callable[[StageState], list[int]]
) -> int:
    """Bring a dataflow that has not begun to the last clip that every stage has processed.

    Args:
        dataflow: Dataflow of the stream.
        state: What the journal of the interrupted run says.
        snapshots_of: Returns the numbers of the snapshots of a stateful stage.

    Returns:
        Number of clips that need not be processed again.
    """
    working = [stage for stage in dataflow.stages[1:] if stage.runs]
    clips = len(state.clips) if dataflow.source_stage.runs and not dataflow.info.live else 0
    for stage in working:
        if stage.kind == "clip":
            known = _unaffected(state, stage)
            clips = min(clips, next(n for n in range(clips + 1) if n not in known))
    restarted = _restarted(dataflow)
    stateful = [s for s in working if s.kind == "stateful" and s.name not in restarted]
    taken = {stage.name: set(snapshots_of(stage)) for stage in stateful}
    snapshots: dict[str, int] = {}
    while clips:
        found = {s.name: _snapshot(taken[s.name], _unaffected(state, s), clips) for s in stateful}
        snapshots = {name: number for name, number in found.items() if number is not None}
        if len(snapshots) == len(found):
            break
        clips -= 1
    for number in range(clips):
        _fast_forward_clip(dataflow, state, working, number, snapshots, restarted)
    return clips


def _restarted(dataflow: Dataflow) -> set[str]:
    """Return the stateful stages that must process their stream again from the beginning.

    What a finished stage has made clip by clip arrives again, all at the end: stages that have
    taken it from the clips would have it twice.
    """
    stateful = [stage for stage in dataflow.stages if stage.kind == "stateful"]
    replayed = sum(stage.bit for stage in stateful if stage.planned.action == "replay")
    back = [stage for stage in stateful if stage.runs and stage.feeders & replayed]
    for stage in back:
        # What its feeders made of those clips is not known: they restart with it.
        back += [s for s in stateful if s.runs and stage.feeders & s.bit and s not in back]
    return {stage.name for stage in back}


def _unaffected(state: JournalState, stage: StageState) -> set[int]:
    """Return the clips that the journal has for a stage.

    A stage without memory has processed or skipped them; a stateful one has skipped them or given
    them up, and its state is the same before and after.
    """
    key = stage.planned.key
    return state.skipped.get(key, set()) | set(state.processed.get(key, {}))


def _snapshot(taken: set[int], unaffected: set[int], clips: int) -> int | None:
    """Return the snapshot that holds a stage's state after so many clips; 0 for the initial one."""
    place = clips
    while place and place not in taken:
        if place - 1 not in unaffected:
            return None
        place -= 1
    return place


def _fast_forward_clip(
    dataflow: Dataflow,
    state: JournalState,
    working: list[StageState],
    number: int,
    snapshots: dict[str, int],
    restarted: set[str],
) -> None:
    empty: set[str] = set()
    """Stages that made nothing of the clip."""
    for stage in working:
        record = state.processed.get(stage.planned.key, {}).get(number)
        if record is None:
            if stage.kind == "clip":
                empty.add(stage.name)
            continue
        stage.opened = True
        if stage.kind == "clip":
            stage.planned.meter.items += 1
            stage.planned.meter.seconds += record.seconds
        if record.lost is not None:
            stage.lost.append(record.lost)
            stage.planned.tainted = True
            empty.add(stage.name)
            if stage.kind == "stateful":
                stage.poison.add(number)
    dataflow.fast_forward(ClipMetadata(state.clips[number]), empty, snapshots, restarted)
