"""What goes wrong inside the work: exceptions, what was lost, clips and stages that are given up.

An exception ends as it does in the local runner. A clip that cannot be dealt with costs itself
only; a stage that fails as a whole costs its stream what it makes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.contract.events import Loss
from pipeline.errors import NAMED, OutputError, Reel3dError
from pipeline.scheduling.admission import Admission
from pipeline.scheduling.backend import Failure, Result
from pipeline.scheduling.dataflow import FINISH, Call, Node
from pipeline.scheduling.pools import Lane
from pipeline.scheduling.streams import Stream
from pipeline.scheduling.worker_manager import Workforce

__all__ = ["Failures", "take_back"]

LOSSES = 8
"""How often in a row what a stage needs of a clip may be lost before the run stops trying."""

log = logging.getLogger(__name__)


class Failures:
    """Decides what an exception, a loss or a hopeless call costs."""

    def __init__(
        self,
        workforce: Workforce,
        admission: Admission,
        end_stream: Callable[[Stream, Reel3dError], None],
    ) -> None:
        """Use these; `end_stream` stops a stream that cannot go on."""
        self._workforce = workforce
        self._admission = admission
        self._end_stream = end_stream

    def missing(self, stream: Stream, call: Call) -> None:
        """Something was lost from the object store."""
        parcel = call.parcel
        assert parcel is not None
        key = call.node.index, call.verb
        parcel.losses[key] = parcel.losses.get(key, 0) + 1
        if parcel.losses[key] >= LOSSES:
            why = f"what it needs of {call.where} was lost {LOSSES} times"
            self.cost(stream, call, why)
        elif call.verb == "keep":
            call.node.keeping -= 1
            stream.flow.lost_kept(call)
        else:
            stream.flow.lost(call)

    def fail(self, stream: Stream, node: Node, call: Call | None, failure: Failure) -> None:
        """Deal with an exception as the local runner does."""
        known = NAMED.get(failure.kind)
        job = node.job
        if known is not None and issubclass(known, OutputError):
            self._end_stream(stream, known(failure.text))
            return
        if call is not None and call.verb in ("remake", "load", "keep", "report"):
            self._fail_apart(stream, call, failure)
            return
        stream.lanes[node.index].failures += 1
        if call is not None and call.parcel is not None and call.parcel.again & node.bit:
            self._lose(stream, call, f"it could not be made again: {failure.text}", failure.detail)
            return
        if node.kind == "head":
            self.head_failed(stream, failure)
            return
        if known is None:
            why = f"a bug in {job.name}: {failure.kind}: {' '.join(failure.text.split())}"
            why += "; errors.jsonl holds the traceback"
            if call is not None and node.kind == "clip" and call.verb == "process":
                self._lose(stream, call, why, failure.detail)
                return
            self._give_up(stream, node, "failed", why, failure.detail)
        else:
            state = "not made" if failure.kind == "PartNotMade" else "failed"
            self._give_up(stream, node, state, failure.text)

    def _fail_apart(self, stream: Stream, call: Call, failure: Failure) -> None:
        """Deal with what went wrong beside the work of the stages."""
        node, flow = call.node, stream.flow
        if call.verb == "report":
            stream.hooks.reported(Result(failure=failure))
        elif call.verb == "remake":
            flow.decode.flawed = True
            self._lose(stream, call, f"it could not be decoded again: {failure.text}")
        elif call.verb == "load":
            self._end_stream(
                stream,
                OutputError(
                    f"what {node.name} kept of {flow.source.shown} in an earlier run cannot be "
                    f"read ({failure.text}): remove .reel3d in the output folder and run again"
                ),
            )
        else:
            # The run has it; another one with --resume would have to make it again.
            node.keeping -= 1
            node.job.flawed = True
            log.warning("%s: not kept for --resume: %s", node.name, failure.text)
            if call.parcel is not None:
                flow.kept(call.parcel)

    def cost(self, stream: Stream, call: Call, why: str) -> None:
        """Take that a call cannot be made: it costs its clip, or the stage its stream."""
        again = call.parcel is not None and bool(call.parcel.again & call.node.bit)
        whole = call.node.kind == "whole" and not again
        if call.node.kind in ("clip", "whole") and call.verb == "process" and not again:
            call.node.job.meter.items += not call.node.over
        if call.verb == "process" and not whole:
            self._lose(stream, call, why)
        else:
            self.fail(stream, call.node, call, Failure(kind="WorkerDied", text=why))

    def _lose(self, stream: Stream, call: Call, why: str, detail: str = "") -> None:
        """Give up one clip of one stage."""
        node, parcel = call.node, call.parcel
        assert parcel is not None
        loss = Loss(what=f"clip {parcel.name}", why=why, detail=detail)
        again = bool(parcel.again & node.bit)
        if not node.over:
            node.job.flawed = True
            (node.job.meter.losses if node.settled else node.lost).append(loss)
        if node.kind == "fold":
            node.poison.add(call.place)
        if node.kind in ("clip", "fold") and parcel.number < FINISH and not again:
            stream.hooks.dealt(node, parcel, 0.0, loss)
        stream.flow.completed(call, {})

    def _give_up(self, stream: Stream, node: Node, state: str, why: str, detail: str = "") -> None:
        if node.over or node.settled:
            return
        job = node.job
        job.state, job.flawed = state, state == "failed"
        node.lost.append(Loss(what=job.makes_shown, why=why, detail=detail))
        take_back(self._admission, stream.lanes[node.index], [node])
        stream.flow.give_up(node)

    def head_failed(self, stream: Stream, failure: Failure) -> None:
        """Deal with a decoder that cannot go on: what it has made stays."""
        flow = stream.flow
        known = NAMED.get(failure.kind)
        text = failure.text if known else f"{failure.kind}: {failure.text}"
        if not flow.produced:
            if known is None or failure.kind == "WorkerDied":
                text = f"{flow.source.shown} cannot be decoded: {text}"
                known = NAMED["SourceError"]
            self._end_stream(stream, known(text))
            return
        if flow.total is not None:
            return
        why = f"the decoder failed there: {text}"
        flow.head.lost.append(Loss(what="the rest of the video", why=why))
        flow.head.job.flawed = flow.decode.flawed = True
        # How many clips there are is not written down: a resumed run tries the decoder again.
        flow.end()


def take_back(admission: Admission, lane: Lane, nodes: list[Node]) -> None:
    """Drop the calls of stages that wait for a worker, or for room."""

    def theirs(call: Call) -> bool:
        return call.node in nodes and call.verb in ("process", "finish")

    lane.take_back(theirs)
    admission.take_back(theirs)
