"""Calls as they go to a worker and answers as they come back: plain data and references.

The scheduler speaks of calls and messages, a worker's host of orders and parcels. Every backend
whose workers are hosts translates here.
"""

from __future__ import annotations

from typing import Any

from pipeline.scheduling.backend import Failure, Result
from pipeline.scheduling.dataflow import Call
from pipeline.worker.protocol import Home, Order, Reply
from pipeline.worker.serialization import Forward, Packed, kind_of

__all__ = ["given_to", "order_of", "result_of"]


def order_of(call: Call, home: Home) -> Order:
    """Return what a worker is told of a call; what it is given goes beside it."""
    verb, node, message = call.verb, call.node, call.message
    if verb == "keep":
        message = (node.name, node.job.key)
    elif verb == "load":
        message = node.job.entry.kept if node.job.entry else node.kept
    elif verb == "remake":
        assert call.parcel is not None
        message = call.parcel.remembered
    return Order(
        verb=verb,
        stage=node.name,
        where=call.where,
        place=call.place,
        turn=call.turn,
        safe=call.flow.safe,
        home=home,
        parcels=tuple(
            (name, (packed.kind.__name__, packed.head, packed.names))
            for name, packed in call.arguments.items()
        ),
        message=message,
    )


def given_to(call: Call) -> list[Any]:
    """Return the references of what a call is given, in the order of its parcels."""
    return [ref for packed in call.arguments.values() for ref in packed.refs]


def result_of(reply: Reply, made: list[Any], given: list[Any]) -> Result:
    """Return what a worker has answered.

    Args:
        reply: The answer.
        made: References of the new arrays.
        given: References of what the call was given; some of it may have been handed on.
    """
    outputs: dict[type, Packed | None] = {}
    stored = 0
    for (kind, head, names), places, sizes in reply.made:
        refs = tuple(given[p.place] if isinstance(p, Forward) else made[p] for p in places)
        outputs[kind_of(kind)] = Packed(kind_of(kind), head, names, refs, sizes)
        stored += sum(z for p, z in zip(places, sizes, strict=True) if not isinstance(p, Forward))
    failure = reply.failure and Failure(
        kind=reply.failure[0], text=reply.failure[1], detail=reply.failure[2]
    )
    return Result(
        outputs=outputs,
        events=reply.events,
        seconds=reply.seconds,
        stored_bytes=stored,
        failure=failure or None,
        meters=reply.meters,
        saved=reply.saved,
        extra=reply.extra,
        peak_memory_bytes=reply.peak_memory_bytes,
    )
