"""Translation between the scheduler and its workers: task to request, reply to result.

The scheduler speaks of tasks and message references, a stage host of requests and message headers.
Every backend whose workers are stage hosts translates here.
"""

from __future__ import annotations

from typing import Any

from pipeline.scheduling.backend import TaskResult, WorkerStarted
from pipeline.scheduling.pools import Worker
from pipeline.scheduling.tasks import Outputs, Task
from pipeline.worker import (
    FinishStream,
    ForwardedArray,
    LoadMessages,
    MakeReport,
    MessageRef,
    NextClip,
    Opened,
    OpenFailed,
    PersistMessages,
    ProcessItem,
    RedecodeClip,
    Reply,
    Request,
    RunLocation,
    kind_of,
)

__all__ = ["references_of", "request_of", "result_of", "started"]


def request_of(task: Task, location: RunLocation) -> Request:
    """Return the request of a task; its large arrays travel beside it (`references_of`)."""
    stage = task.stage
    about: dict[str, Any] = {"stage": stage.name, "location": location, "where": task.where}
    messages = tuple((name, message.header) for name, message in task.arguments.items())
    match task.kind:
        case "next_clip":
            return NextClip(**about, safe=task.safe)
        case "redecode":
            assert task.item is not None
            assert task.item.metadata is not None
            return RedecodeClip(**about, clip=task.item.metadata)
        case "process":
            return ProcessItem(
                **about,
                messages=messages,
                place=task.place,
                sequence=task.sequence,
                safe=task.safe,
            )
        case "finish":
            return FinishStream(**about, sequence=task.sequence)
        case "persist":
            return PersistMessages(**about, key=stage.planned.key, messages=messages)
        case "load":
            entry = stage.planned.entry
            return LoadMessages(**about, files=tuple(entry.kept if entry else stage.persisted))
        case "report":
            return MakeReport(**about, manifest=task.manifest)


def references_of(task: Task) -> list[Any]:
    """Return the references of a task's large arrays, in the order of its messages."""
    return [ref for message in task.arguments.values() for ref in message.refs]


def result_of(reply: Reply, made: list[Any], given: list[Any]) -> TaskResult:
    """Return the result of a reply.

    Args:
        reply: What the worker answered.
        made: References of the new arrays.
        given: References of the task's arrays; some of them may have been passed on.
    """
    outputs: Outputs = {}
    stored = 0
    for message in reply.messages:
        header, sizes = message.header, message.sizes
        refs = tuple(
            given[array.place] if isinstance(array, ForwardedArray) else made[array]
            for array in message.arrays
        )
        kind = kind_of(header.kind)
        outputs[kind] = MessageRef(kind, header.payload, header.array_fields, refs, sizes)
        stored += sum(
            size
            for array, size in zip(message.arrays, sizes, strict=True)
            if not isinstance(array, ForwardedArray)
        )
    return TaskResult(
        outcome=reply.outcome,
        outputs=outputs,
        events=reply.events,
        seconds=reply.seconds,
        stored_bytes=stored,
        meters=reply.meters,
        peak_memory_bytes=reply.peak_memory_bytes,
    )


def started(worker: Worker, reply: Reply) -> WorkerStarted:
    """Return the event of a worker whose stages have been opened, or could not be."""
    assert isinstance(reply.outcome, Opened | OpenFailed)
    return WorkerStarted(
        worker=worker, outcome=reply.outcome, events=reply.events, meters=reply.meters
    )
