"""Runs inside a worker: opens stages and answers requests, without Ray.

A host holds the stage of a pool, the decoder and sampler of a stream, a stream-scoped stage, or a
stream's exporters. Messages arrive and leave as headers and arrays
(`pipeline.worker.serialization`). A stage's exception is a reply; only a crash ends the worker.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.chain import STREAM_LEVEL
from pipeline.contract.events import Event, Progress
from pipeline.contract.messages import Actions, Array, Message, RunSummary
from pipeline.contract.stage import Context, Stage, find, iterate, options_of
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.snapshots import Snapshots
from pipeline.telemetry.meter import Meter, meter_from_dict, meter_to_dict, peak_memory_bytes
from pipeline.worker.clip_source import ClipSource, remember
from pipeline.worker.event_log import EventLog
from pipeline.worker.protocol import Home, Order, Reply, StageSpec
from pipeline.worker.serialization import Forward, Parcel, pack, unpack

__all__ = ["Host"]


class Host:
    """The stages of one worker."""

    def __init__(self, progress: Callable[[str, Progress], None] | None = None) -> None:
        """Hold nothing yet; `progress` takes what long calls tell of themselves."""
        self._progress = progress
        self._stages: dict[str, Stage[Any]] = {}
        self._specs: dict[str, StageSpec] = {}
        self._snapshots: dict[str, Snapshots] = {}
        self._scratch: dict[str, Path] = {}
        self._meters: dict[str, Meter] = {}
        self._events: list[tuple[str, Event]] = []
        self._own = False
        """Whether the stages belong to one stream and count by themselves."""
        self._head: ClipSource | None = None
        self._kept: dict[str, EventLog] = {}
        self._turns: dict[str, int] = {}
        """Stage name to the calls that it has got."""
        self._folders: dict[str, RunFolder | None] = {}
        """Run folders by their mark."""

    def open(
        self,
        specs: tuple[StageSpec, ...],
        context: Context,
        home: Home | None,
        places: dict[str, int],
    ) -> Reply:
        """Build and open the stages; those of one stream go on from the snapshot at their place.

        Args:
            specs: Decode and sample, one stage, or a stream's exporters.
            context: Seed and threads.
            home: Of the stream that the stages belong to; None for a pool.
            places: Stage name to the snapshot that it should go on from, 0 for none; of the
                sampler the clip, -1 where clips are only made again.
        """
        began = time.perf_counter()
        self._own = home is not None
        standing: dict[str, Any] = {}
        name = None
        try:
            for spec in specs:
                name = spec.name
                config = options_of(spec.step, spec.model).model_validate(spec.options)
                stage = find(spec.step, spec.model)(config)
                self._stages[name], self._specs[name] = stage, spec
                self._meters[name] = Meter()
                own = replace(context, report=self._reporter(name))
                folder = home.run_folder() if home else None
                if home is not None and folder is not None:
                    own = replace(own, folder=folder.path, scratch=folder.scratch(name))
                    self._scratch[name] = folder.scratch(name)
                    where = folder.scratch(name).parent.parent / "snapshots"
                    where = where / name.replace("/", ".") / spec.key[:16]
                    self._snapshots[name] = Snapshots(where)
                    if not places.get(name):
                        self._forget(name)
                stage.fetch()
                stage.open(own)
                if home is not None and spec.step not in ("decode", "sample"):
                    standing[name] = self._restore(name, places.get(name, 0))
            if home is not None and specs and specs[0].step == "decode":
                name = None
                decode, sample = (spec.name for spec in specs)
                self._head = ClipSource(self._stages[decode], self._stages[sample], home.source)
                standing["probe"] = self._head.open(
                    places.get(sample, 0), self._snapshots.get(sample), self._meters, decode, sample
                )
        except Exception as error:
            return self._reply(began, failure=_describe(error), extra=name)
        return self._reply(began, extra=standing)

    def call(self, order: Order, arrays: tuple[Array, ...]) -> tuple[Reply, list[Array]]:
        """Answer one call; return the answer and the new arrays."""
        began = time.perf_counter()
        saved, extra = False, None
        messages: list[Message] = []
        try:
            if order.verb == "next":
                assert self._head is not None
                made = self._head.next()
                if made is not None:
                    messages = [made]
                    extra = (made.clip, remember(made))
                    self._head.save(order.safe)
            elif order.verb == "remake":
                assert self._head is not None
                messages = [self._head.remake(order.message)]
            elif order.verb == "load":
                folder = self._folder(order)
                messages = [folder.kept(file) for file in order.message]
            elif order.verb == "keep":
                folder = self._folder(order)
                name, key = order.message
                given = self._given(order, arrays).values()
                extra = [folder.keep(name, key, message) for message in given]
            else:
                messages, saved, extra = self._work(order, arrays)
        except Exception as error:
            return self._reply(began, failure=_describe(error)), []
        parcels: list[tuple[Parcel, tuple[Forward | int, ...], tuple[int, ...]]] = []
        fresh: list[Array] = []
        # As in a parcel of the local runner, the last of a kind counts.
        for message in {type(message): message for message in messages}.values():
            parcel, found = pack(message, arrays)
            places: list[Forward | int] = []
            sizes: list[int] = []
            for array in found:
                if isinstance(array, Forward):
                    places.append(array)
                    sizes.append(arrays[array.place].nbytes)
                else:
                    places.append(len(fresh))
                    sizes.append(array.nbytes)
                    fresh.append(array)
            parcels.append((parcel, tuple(places), tuple(sizes)))
        return self._reply(began, made=tuple(parcels), saved=saved, extra=extra), fresh

    def end(self) -> None:
        """End a camera; from any thread."""
        if self._head is not None:
            self._head.stop()

    def close(self) -> None:
        """Close the stages."""
        if self._head is not None:
            self._head.close()
        for stage in reversed(self._stages.values()):
            stage.close()

    # ------------------------------------------------------------------------------------------

    def _work(self, order: Order, arrays: tuple[Array, ...]) -> tuple[list[Message], bool, Any]:
        stage, spec = self._stages[order.stage], self._specs[order.stage]
        if self._own and order.verb != "report" and order.turn is not None:
            # What one call was given may be lost with a machine. Those behind it have been sent
            # and arrive; a state that lacks a clip must never come to be.
            turn = self._turns.get(order.stage, 0)
            if order.turn != turn:
                raise ValueError(f"{order.stage} has got {turn} calls and this one is {order.turn}")
            self._turns[order.stage] = turn + 1
        if not self._own:
            folder = self._seen(order.home)
            stage.context = replace(
                stage.context,
                folder=folder.path if folder else None,
                scratch=folder.scratch(order.stage) if folder else None,
            )
        meter = self._meters[order.stage]
        with meter.timed():
            if order.verb == "report":
                result = stage.process(RunSummary(manifest=order.message))
            elif order.verb == "finish":
                result = stage.finish()
            else:
                meter.items += 1
                result = stage.process(**self._given(order, arrays))
            messages: list[Message] = list(iterate(result))
        saved, kept = False, None
        if self._own and order.verb != "report":
            kept = self._keep(order, spec, messages)
        if self._own and order.verb == "process":
            saved = self._save(order)
        return messages, saved, kept

    def _keep(self, order: Order, spec: StageSpec, messages: list[Message]) -> list[str] | None:
        """Write down what stands for the whole stream; events are gathered until its end."""
        names: list[str] = []
        for message in messages:
            if isinstance(message, Actions):
                self._kept_actions(order.stage).add(message)
            elif type(message) in STREAM_LEVEL:
                names.append(self._folder(order).keep(spec.name, spec.key, message))
        if order.verb != "finish":
            return None
        if order.stage in self._kept:
            joined = self._kept[order.stage].joined()
            if joined is not None:
                names.append(self._folder(order).keep(spec.name, spec.key, joined))
        return names

    def _kept_actions(self, name: str) -> EventLog:
        if name not in self._kept:
            snapshots = self._snapshots.get(name)
            self._kept[name] = EventLog(snapshots.folder if snapshots else None)
        return self._kept[name]

    def _save(self, order: Order) -> bool:
        name = order.stage
        snapshots = self._snapshots.get(name)
        if snapshots is None:
            return False
        state = self._stages[name].snapshot()
        if state is None:
            return False
        length = self._kept[name].length if name in self._kept else 0
        told = {"meter": meter_to_dict(self._meters[name]), "actions": length}
        snapshots.save(order.place + 1, state, told, needed_from=order.safe)
        return True

    def _restore(self, name: str, place: int) -> int:
        """Bring a stage to a place of the row; return the place where it stands, or 0."""
        snapshots = self._snapshots.get(name)
        if snapshots is None or not place:
            return 0
        try:
            state, told = snapshots.load(place)
            self._stages[name].restore(state)
            self._meters[name] = meter_from_dict(told["meter"])
            if told["actions"]:
                self._kept_actions(name).cut(told["actions"])
        except Exception as error:
            # What is damaged may say anything; the clips are there, and are gone through again.
            self._rebuild(name)
            why = f"its stream was begun anew, since its snapshot cannot be used: {error}"
            self._stages[name].warn(why)
            return 0
        return place

    def _rebuild(self, name: str) -> None:
        """Replace a stage that a bad snapshot may have left half restored."""
        stage, spec = self._stages[name], self._specs[name]
        context = stage.context
        stage.close()
        self._forget(name)
        config = options_of(spec.step, spec.model).model_validate(spec.options)
        self._stages[name] = find(spec.step, spec.model)(config)
        self._meters[name] = Meter()
        self._stages[name].open(context)

    def _forget(self, name: str) -> None:
        """Remove what an earlier worker has left of a stage that begins its stream anew."""
        if name in self._snapshots:
            self._snapshots[name].clear()
            self._kept.pop(name, None)
        scratch = self._scratch.get(name)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def _given(self, order: Order, arrays: tuple[Array, ...]) -> dict[str, Message]:
        given: dict[str, Message] = {}
        at = 0
        for name, parcel in order.parcels:
            count = len(parcel[2])
            given[name] = unpack(parcel, arrays[at : at + count])
            at += count
        return given

    def _seen(self, home: Home) -> RunFolder | None:
        if home.mark not in self._folders:
            self._folders[home.mark] = home.run_folder()
        return self._folders[home.mark]

    def _folder(self, order: Order) -> RunFolder:
        folder = self._seen(order.home)
        if folder is None:
            raise FileNotFoundError(f"this machine does not see the run folder {order.home.folder}")
        return folder

    def _reporter(self, name: str) -> Callable[[Event], None]:
        def report(event: Event) -> None:
            if isinstance(event, Progress):
                if self._progress is not None:
                    self._progress(name, event)
                return
            self._meters[name].take(event)
            self._events.append((name, event))

        return report

    def _reply(self, began: float, **more: Any) -> Reply:
        events, self._events = tuple(self._events), []
        return Reply(
            events=events,
            seconds=time.perf_counter() - began,
            meters=dict(self._meters) if self._own else None,
            peak_memory_bytes=peak_memory_bytes(),
            **more,
        )


def _describe(error: Exception) -> tuple[str, str, str]:
    return type(error).__name__, str(error) or "no reason given", traceback.format_exc()
