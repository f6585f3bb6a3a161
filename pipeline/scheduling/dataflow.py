"""One stream on its way through the chain: which stage may take which parcel next.

A stream is a row of parcels: one for every clip, and one for what each stream-scoped stage makes
when the stream ends (`finish`). Every stage deals with every parcel: it takes it, or finds that
it has no business with it. It may do so once the stages that feed it have dealt with the parcel;
a stream-scoped stage takes its parcels in order. That is the order in which the local runner
hands them on, so the results are the same.

What a parcel holds is let go when nobody needs it any more, or is lost with a machine. Who needs
it again asks for it: the clip is decoded again from its name, the stages between are run again.

There is no clock, no Ray and no thread in here: the scheduler asks, and tells what has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.chain import HEAD, STREAM_LEVEL
from pipeline.contract.messages import Actions, Frames, Tracks
from pipeline.contract.source import Source
from pipeline.scheduling.tasks import FINISH, Call, Kind, Node, Outputs, Parcel, Verb
from pipeline.storage.plan import Job
from pipeline.worker.serialization import Packed

__all__ = ["FINISH", "Call", "Flow", "Node", "Outputs", "Parcel"]

AHEAD = 2
"""Parcels that are made again for a stage that was sent back, before it takes them."""


class Flow:
    """The parcels and stages of one stream."""

    def __init__(
        self,
        jobs: list[Job],
        source: Source,
        ready: Callable[[Call], None],
        let_go: Callable[[Packed], None],
        restart: Callable[[Node], None],
        passed: Callable[[Flow, Node, Parcel], None] | None = None,
        *,
        live: bool = False,
        priority: int = 0,
    ) -> None:
        """Wire the stages of one stream.

        Args:
            jobs: What the plan says, decode and sample first.
            source: Where the clips come from.
            ready: Takes every call that may now be made.
            let_go: Takes every message that nobody in this stream needs any more.
            restart: Takes a stream-scoped stage whose end must be made again by a new worker.
            passed: Takes every clip with which a stage has no business.
            priority: Calls of streams with a higher one go first.
            live: Clips cannot be decoded again, and are forgotten once dealt with.
        """
        self.source = source
        self.live = live
        self.priority = priority
        self.nodes = [Node(i, job, _kind(job)) for i, job in enumerate(_without_decode(jobs))]
        self.decode = jobs[0]
        self.parcels: dict[int, Parcel] = {}
        self.produced = 0
        """How many clips the head has made."""
        self.recalled = 0
        """How many of them an earlier process has led through every stage."""
        self.total: int | None = None
        """How many there are, once known."""
        self.told = False
        """Whether the run knows that every stage is through."""
        self._ready = ready
        self._let_go = let_go
        self._restart = restart
        self._tell_passed = passed
        self.open: set[int] = set()
        """Clips that some stage has not dealt with."""
        self._all = (1 << len(self.nodes)) - 1
        makers: dict[type, list[Node]] = {}
        for node in self.nodes:
            for read in node.job.link.ports.reads:
                for maker in makers.get(read, ()):
                    node.feeders |= maker.bit
                    node.ancestors |= maker.bit | maker.ancestors
                    if node not in maker.consumers:
                        maker.consumers.append(node)
            for made in node.job.link.ports.makes:
                makers.setdefault(made, []).append(node)
        self.origins = [n for n in self.nodes if n.kind == "fold" and n.job.link.ports.makes]
        """Stages whose `finish` makes a parcel."""

    @property
    def head(self) -> Node:
        """Decode and sample."""
        return self.nodes[0]

    @property
    def window(self) -> int:
        """How many clips have been made and are not through yet."""
        return len(self.open)

    @property
    def over(self) -> bool:
        """Whether every stage is through with the stream."""
        return all(node.settled for node in self.nodes)

    # What the scheduler tells -----------------------------------------------------------------

    def begin(self) -> None:
        """Start: hand out the calls that need no clip."""
        for origin in self.origins:
            if not origin.runs:
                self._end_of(origin)
        for node in self.nodes:
            if not node.runs:
                node.settled = node.finished = True
        if not self.head.runs:
            self.total = 0
        elif self.total is not None:
            self.head.finished = self.head.opened = True
        for parcel in list(self.parcels.values()):
            self._offer_all(parcel)
        self._advance_all()

    def add_clip(self, outputs: Outputs, name: str, remembered: Any) -> Parcel:
        """Take the next clip that the head has made."""
        parcel = Parcel(self.produced, name, remembered=remembered)
        parcel.done = self._standing()
        self.parcels[parcel.number] = parcel
        self.open.add(parcel.number)
        self.produced += 1
        self.head.dealt += 1
        self.head.opened = True
        parcel.done |= self.head.bit
        parcel.outputs[0] = outputs
        self._offer_all(parcel)
        return parcel

    def recall(
        self,
        name: str,
        remembered: Any,
        lost: set[str],
        held: dict[str, int] | None = None,
        anew: set[str] | None = None,
    ) -> None:
        """Take a clip that an earlier process has led through every stage, before `begin`.

        Args:
            name: Of the clip.
            remembered: What the head needs to make it again.
            lost: Stages that made nothing of it.
            held: Stream-scoped stages that go on from a snapshot, and its number.
            anew: Stream-scoped stages that begin their stream once more.
        """
        back = [node for node in self.nodes if node.name in (anew or ())]
        done = self._all & ~sum(node.bit for node in back)
        parcel = Parcel(self.produced, name, done=done, remembered=remembered)
        parcel.outputs[0] = {Frames: None}
        for node in self.nodes:
            if node.kind == "clip":
                made = () if node.name in lost else node.job.link.ports.makes
                parcel.outputs[node.index] = {kind: None for kind in made}
            node.dealt += node not in back
        self.parcels[parcel.number] = parcel
        if back:
            self.open.add(parcel.number)
        self.produced += 1
        self.recalled = self.produced
        self.head.opened = True
        for node in self.nodes:
            if node.kind == "fold" and node not in back:
                node.saved = node.sent = self.produced
                node.held = (held or {}).get(node.name, 0)
                node.opened = node.held > 0

    def end(self) -> None:
        """Take that the head has made the last clip."""
        self.total = self.produced
        self.head.finished = True
        self._advance_all()

    def completed(self, call: Call, outputs: Outputs) -> None:
        """Take what a call made."""
        node, parcel = call.node, call.parcel
        if call.verb == "finish":
            if node.over or not node.finishing:
                self._drop(outputs)
                return
            node.finished, node.finishing = True, False
            self._finish_parcel(node, outputs)
            return
        assert parcel is not None
        parcel.losses.pop((node.index, call.verb), None)
        parcel.queued &= ~node.bit
        again = bool(parcel.again & node.bit)
        parcel.again &= ~node.bit
        if again and parcel.done & node.bit:
            held = parcel.outputs.setdefault(node.index, {})
            self._fill(held, outputs)
            for kind in [kind for kind, packed in held.items() if packed is None]:
                # It cannot be made again: to the others it is as if it had never been.
                del held[kind]
            self._ask_again(parcel)
            self._offer_all(parcel)
            self._release(parcel)
            return
        if node.kind == "fold":
            node.out -= 1
        self._deal(node, parcel, outputs)

    def give_up(self, node: Node) -> None:
        """Take that a stage will take nothing more; what it made before stays."""
        node.over = True
        for parcel in list(self.parcels.values()):
            if not parcel.done & node.bit:
                parcel.queued &= ~node.bit
        if node.kind == "fold":
            # What is through of a camera is forgotten.
            node.sent = min(self.open, default=self.produced) if self.live else 0
            node.finishing = False
            self._advance(node)
        else:
            for parcel in list(self.parcels.values()):
                self._offer(node, parcel)

    def lost(self, call: Call) -> None:
        """Take that something a call was given is not there any more; it is made again."""
        assert call.parcel is not None
        parcel = call.parcel
        parcel.queued &= ~call.node.bit
        gone = set(map(id, call.arguments.values()))
        for outputs in parcel.outputs.values():
            for kind, packed in outputs.items():
                if packed is not None and packed.refs and id(packed) in gone:
                    self._let_go(packed)
                    outputs[kind] = None
        self.retry(call)

    def lost_kept(self, call: Call) -> None:
        """Take that a message was lost before it was written down; its maker makes it again."""
        assert call.parcel is not None
        held = call.parcel.outputs[call.node.index]
        for kind, packed in held.items():
            if packed is not None:
                self._let_go(packed)
                held[kind] = None
        self._make_again(call.node, call.parcel)

    def kept(self, parcel: Parcel) -> None:
        """Take that a message has been written down."""
        self._release(parcel)

    def retry(self, call: Call) -> None:
        """Offer a call that came to nothing again."""
        assert call.parcel is not None
        call.parcel.queued &= ~call.node.bit
        if call.parcel.again & call.node.bit:
            self._make_again(call.node, call.parcel)
        elif call.node.kind == "fold":
            # Calls behind it may have run already: it goes back, so that the order stays.
            self._restart(call.node)
        else:
            self._offer(call.node, call.parcel)

    def rewind(self, node: Node, place: int) -> None:
        """Send a stream-scoped stage back: its new worker's state ends before `place`."""
        if self.live:
            # What is through is forgotten: it goes on with the oldest clip there is.
            place = max(place, min(self.open, default=self.produced))
        node.saved = place
        node.passed.clear()
        node.out = node.turns = 0
        for position in range(place, node.sent):
            parcel = self._at(node, position)
            if parcel is not None:
                parcel.queued &= ~node.bit
                if parcel.done & node.bit:
                    parcel.done &= ~node.bit
                    node.dealt -= 1
                    if parcel.number < FINISH:
                        self.open.add(parcel.number)
        node.sent = min(place, node.sent)
        node.finishing = node.finished = False
        if place < self.recalled:
            # What others made of those clips in an earlier process is not known: once more.
            for maker in self.nodes:
                unknown = maker.kind == "fold" and maker.runs and node.feeders & maker.bit
                if unknown and maker.saved:
                    maker.saved = maker.held = 0
                    self._restart(maker)

    def stands(self, node: Node, place: int) -> None:
        """Take that a snapshot of a stream-scoped stage stands, taken after `place`."""
        node.saved = node.held = place + 1
        self._pass_over(node)

    def advance(self, node: Node) -> None:
        """Hand out the next calls of a stream-scoped stage."""
        self._advance(node)

    # Questions --------------------------------------------------------------------------------

    def origin_of(self, node: Node) -> Node | None:
        """Return the stage at whose `finish` the parcel begins in which `node` makes its part."""
        if node in self.origins:
            return node
        before = [origin for origin in self.origins if node.ancestors & origin.bit]
        return before[-1] if before else None

    @property
    def safe(self) -> int:
        """The clip up to which all work stands on the disk.

        A later process can go on from there, so the snapshots taken there must stay.
        """
        folds = [n for n in self.nodes if n.kind == "fold" and n.runs and not n.over]
        saved = (n.saved for n in folds if not (n.settled or n.forgetful))
        return min(self.produced, min(self.open, default=self.produced), *saved)

    def is_through(self, node: Node) -> bool:
        """Say whether a stage has dealt with everything and all it made is kept."""
        if self.total is None or node.keeping:
            return False
        ends = (self.parcels.get(FINISH + origin.index) for origin in self.origins)
        if any(parcel is not None and parcel.again & node.bit for parcel in ends):
            return False  # what was lost before it was written down
        if node.kind in ("head", "fold"):
            return node.finished
        return node.dealt >= self._expected(node)

    # The rules --------------------------------------------------------------------------------

    def _standing(self) -> int:
        return sum(node.bit for node in self.nodes if not node.runs)

    def _expected(self, node: Node) -> int:
        """How many parcels a stage deals with in all."""
        return (self.total or 0) + sum(origin.index < node.index for origin in self.origins)

    def _end_of(self, origin: Node) -> Parcel:
        """Make the parcel for what comes at the end, with what earlier runs have kept of it."""
        parcel = Parcel(FINISH + origin.index, f"{self.source.name}: {origin.name}")
        parcel.done = self._standing() | ((origin.bit << 1) - 1)
        for node in self.nodes:
            if node.job.action == "replay" and self.origin_of(node) is origin:
                parcel.outputs[node.index] = {kind: None for kind in _kept_types(node)}
        self.parcels[parcel.number] = parcel
        return parcel

    def _deal(self, node: Node, parcel: Parcel, outputs: Outputs) -> None:
        if parcel.done & node.bit:
            self._drop(outputs)
            return
        parcel.done |= node.bit
        node.dealt += 1
        held = parcel.outputs.get(node.index)
        if held:
            # It went back and made the same again: what still lies there is as good.
            for kind in outputs:
                held.setdefault(kind, None)
            self._fill(held, outputs)
            if node.over:
                # It makes no more: what is gone of it is as if it had never been.
                for kind in [kind for kind, packed in held.items() if packed is None]:
                    del held[kind]
        else:
            parcel.outputs[node.index] = outputs
        for consumer in node.consumers:
            self._offer(consumer, parcel)
        self._release(parcel)
        if node.kind == "fold":
            self._advance(node)

    def _drop(self, outputs: Outputs) -> None:
        for packed in outputs.values():
            if packed is not None:
                self._let_go(packed)

    def _fill(self, held: Outputs, outputs: Outputs) -> None:
        """Put what was made again where it lacks; drop the rest."""
        for kind, packed in outputs.items():
            if packed is None:
                continue
            if kind in held and held[kind] is None:
                held[kind] = packed
            else:
                self._let_go(packed)

    def _finish_parcel(self, origin: Node, outputs: Outputs) -> None:
        if origin not in self.origins:
            self._drop(outputs)
            return
        parcel = self.parcels.get(FINISH + origin.index) or self._end_of(origin)
        held = parcel.outputs.get(origin.index)
        if held is None:
            parcel.outputs[origin.index] = outputs
        else:
            # `finish` was called again, since what it made was lost.
            self._fill(held, outputs)
            for kind in [kind for kind, packed in held.items() if packed is None]:
                if parcel.again & origin.bit:
                    del held[kind]
        parcel.again &= ~origin.bit
        self._ask_again(parcel)
        self._offer_all(parcel)
        self._advance_all()
        self._release(parcel)

    def _offer_all(self, parcel: Parcel) -> None:
        for node in self.nodes[1:]:
            self._offer(node, parcel)

    def _offer(self, node: Node, parcel: Parcel) -> None:
        """See whether a stage may deal with a parcel now."""
        if not node.runs or node.bit & (parcel.done | parcel.queued):
            return
        if node.kind == "fold":
            self._advance(node)
            return
        if node.feeders & ~parcel.done:
            return
        taken = None if node.over else self._taken(node, parcel)
        if taken is None:
            if not node.over:
                self._told_passed(node, parcel)
            self._deal(node, parcel, {})
            return
        arguments = self._gather(taken, parcel)
        if arguments is not None:
            self._queue(node, parcel, arguments, parcel.number)

    def _advance_all(self) -> None:
        for node in self.nodes:
            if node.kind == "fold" and node.runs:
                self._advance(node)

    def _advance(self, node: Node) -> None:
        """Deal with as many parcels in a row as can be."""
        while not node.finished and not node.finishing:
            parcel = self._at(node, node.sent)
            if parcel is None:
                if self.live and node.sent < self.produced:
                    node.sent += 1  # it was through, and is forgotten
                    continue
                if self.total is None or node.sent < self.total:
                    return
                if node.sent < self.total + len(self.nodes):
                    origin = self.nodes[node.sent - self.total]
                    if origin in self.origins and origin.index < node.index:
                        return  # not finished yet
                    node.sent += 1
                    continue
                self._finish(node)
                return
            if node.bit & parcel.done:
                node.sent += 1
                continue
            if node.bit & parcel.queued:
                return
            if node.feeders & ~parcel.done:
                return
            place = node.sent
            given_up = node.over or place in node.poison
            taken = None if given_up else self._taken(node, parcel)
            if taken is None:
                node.sent += 1
                node.passed.add(place)
                self._pass_over(node)
                if not given_up:
                    self._told_passed(node, parcel)
                self._deal(node, parcel, {})
                continue
            gone = any(parcel.outputs[index][kind] is None for index, kind in taken.values())
            if gone and node.out >= AHEAD:
                return  # it is made again when the stage can soon take it
            arguments = self._gather(taken, parcel)
            if arguments is None:
                return
            node.sent += 1
            self._queue(node, parcel, arguments, place)

    def _pass_over(self, node: Node) -> None:
        """What a stage had no business with leaves its state as it was."""
        while node.saved in node.passed:
            node.passed.discard(node.saved)
            node.saved += 1

    def _told_passed(self, node: Node, parcel: Parcel) -> None:
        if self._tell_passed is not None and parcel.number < FINISH:
            self._tell_passed(self, node, parcel)

    def _finish(self, node: Node) -> None:
        if node.dealt < self._expected(node):
            return
        if node.over or not node.opened:
            node.finished = True
            self._finish_parcel(node, {})
            return
        node.finishing = True
        self._ready(Call(self, node, "finish", place=node.sent, turn=node.turns))
        node.turns += 1

    def _at(self, node: Node, place: int) -> Parcel | None:
        """Return the parcel at a place of the row that `node` takes."""
        if self.total is None or place < self.total:
            return self.parcels.get(place)
        index = place - self.total
        if index >= node.index:
            return None
        return self.parcels.get(FINISH + index)

    def _taken(self, node: Node, parcel: Parcel) -> dict[str, tuple[int, type]] | None:
        """Return what a stage takes of a parcel: parameter to (who made it, type); or None."""
        there: dict[type, tuple[int, type]] = {}
        for index in sorted(parcel.outputs):
            if index < node.index:
                there.update({kind: (index, kind) for kind in parcel.outputs[index]})
        return node.job.link.ports.take(there)

    def _gather(
        self, taken: dict[str, tuple[int, type]], parcel: Parcel
    ) -> dict[str, Packed] | None:
        """Return the messages, or have made again what is not there."""
        arguments: dict[str, Packed] = {}
        for name, (index, kind) in taken.items():
            packed = parcel.outputs[index][kind]
            if packed is None:
                self._make_again(self.nodes[index], parcel)
            else:
                arguments[name] = packed
        return arguments if len(arguments) == len(taken) else None

    def _make_again(self, node: Node, parcel: Parcel) -> None:
        if parcel.queued & node.bit:
            return
        begun = bool(parcel.again & node.bit)
        parcel.again |= node.bit
        if node.kind == "head":
            self._queue(node, parcel, {}, parcel.number, "remake")
        elif parcel.number >= FINISH and self._is_kept(node, parcel):
            self._queue(node, parcel, {}, parcel.number, "load")
        elif node.kind == "fold":
            # It goes back to its last snapshot, or where that is too late to the beginning.
            if parcel.number < FINISH:
                node.saved = node.held = 0
            if not begun:
                self._restart(node)
        else:
            taken = self._taken(node, parcel)
            if taken is None:
                # What it was made of is lost for good, and so is this.
                self.completed(Call(self, node, "process", parcel), {})
                return
            arguments = self._gather(taken, parcel)
            if arguments is not None:
                self._queue(node, parcel, arguments, parcel.number)

    def _is_kept(self, node: Node, parcel: Parcel) -> bool:
        """Whether what a stage made of the end of the stream can be read from the run folder."""
        names = node.job.entry.kept if node.job.entry else node.kept
        # Events are kept joined over the whole stream: that is not what `finish` made.
        alike = not node.runs or not {Actions, Tracks} & set(parcel.outputs.get(node.index, {}))
        return bool(names) and not node.keeping and alike

    def _ask_again(self, parcel: Parcel) -> None:
        """Something was made again: those that waited for it to make their part again, go on."""
        for node in self.nodes:
            if parcel.again & node.bit:
                self._make_again(node, parcel)

    def _queue(
        self,
        node: Node,
        parcel: Parcel,
        arguments: dict[str, Packed],
        place: int,
        verb: Verb = "process",
    ) -> None:
        parcel.queued |= node.bit
        call = Call(self, node, verb, parcel, arguments, place)
        if verb == "process":
            node.opened = True
            if node.kind == "fold":
                call.turn = node.turns
                node.turns += 1
                node.out += 1
        self._ready(call)

    def _release(self, parcel: Parcel) -> None:
        """Let go what no stage needs any more."""
        for node in self._holders(parcel):
            outputs = parcel.outputs[node.index]
            if parcel.again & node.bit:
                continue
            for kind, packed in outputs.items():
                # What holds no object costs nothing, and a stage sent back may ask for it.
                if packed is not None and packed.refs:
                    self._let_go(packed)
                    outputs[kind] = None
        if parcel.done == self._all and not parcel.again:
            self.open.discard(parcel.number)
            if self.live and parcel.number < FINISH:
                self.parcels.pop(parcel.number, None)

    def _holders(self, parcel: Parcel) -> Iterator[Node]:
        for index in list(parcel.outputs):
            node = self.nodes[index]
            waiting = any(not parcel.done & c.bit or parcel.again & c.bit for c in node.consumers)
            if not waiting and not (node.keeping and parcel.number >= FINISH):
                yield node


def _kind(job: Job) -> Kind:
    if job.link.step in HEAD:
        return "head"
    if job.link.stage.scope == "stream":
        return "fold"
    return "clip" if Frames in job.link.ports.reads else "whole"


def _without_decode(jobs: list[Job]) -> list[Job]:
    """Decode and sample are one node; sampling gives the clips their name."""
    return jobs[1:]


def _kept_names(node: Node) -> list[str]:
    return list(node.job.entry.kept) if node.job.entry else []


def _kept_types(node: Node) -> list[type]:
    """`pose.colmap.Views.0123.npz` names a `Views`."""
    names = {made.__name__: made for made in STREAM_LEVEL}
    return [names[file.split(".")[-3]] for file in _kept_names(node)]
