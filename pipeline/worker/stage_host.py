"""Runs inside a worker: opens stages and answers requests, without Ray.

A host holds the stage of a pool, the decoder and sampler of a stream, a stream-scoped stage, or a
stream's exporters. Messages arrive and leave as headers and arrays
(`pipeline.worker.serialization`). A stage's exception is a reply; only a crash ends the worker.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.chain import STREAM_LEVEL
from pipeline.contract import (
    Actions,
    Array,
    Context,
    Event,
    Message,
    Probe,
    Progress,
    RunSummary,
    Stage,
)
from pipeline.contract.stage import find, iterate, options_of
from pipeline.storage import RunFolder, Snapshots
from pipeline.telemetry import Meter, meter_from_dict, meter_to_dict, peak_memory_bytes
from pipeline.worker.clip_metadata import ClipMetadata
from pipeline.worker.clip_source import ClipSource
from pipeline.worker.event_log import EventLog
from pipeline.worker.protocol import (
    ClipDecoded,
    EndOfStream,
    Failed,
    Failure,
    Finished,
    FinishStream,
    LoadMessages,
    MakeReport,
    NextClip,
    Opened,
    OpenFailed,
    Outcome,
    Persisted,
    PersistMessages,
    Processed,
    ProcessItem,
    ProducedMessage,
    RedecodeClip,
    Reply,
    Request,
    RunLocation,
    StageSpec,
)
from pipeline.worker.serialization import ForwardedArray, MessageHeader, pack, unpack

__all__ = ["StageHost"]


class StageHost:
    """The stages of one worker."""

    def __init__(self, progress: Callable[[str, Progress], None] | None = None) -> None:
        """Hold no stage yet; `progress` receives the progress of long calls."""
        self._progress = progress
        self._stages: dict[str, Stage[Any]] = {}
        self._specs: dict[str, StageSpec] = {}
        self._snapshots: dict[str, Snapshots] = {}
        self._scratch: dict[str, Path] = {}
        self._meters: dict[str, Meter] = {}
        self._events: list[tuple[str, Event]] = []
        self._own = False
        """Whether the stages belong to one stream and count by themselves."""
        self._clips: ClipSource | None = None
        self._event_logs: dict[str, EventLog] = {}
        self._sequence: dict[str, int] = {}
        """Stage name to the number of requests that it has got."""
        self._folders: dict[str, RunFolder | None] = {}
        """Run folders by their mark."""

    def open(
        self,
        specs: tuple[StageSpec, ...],
        context: Context,
        location: RunLocation | None,
        places: dict[str, int],
    ) -> Reply:
        """Build and open the stages; those of one stream go on from the snapshot at their place.

        Args:
            specs: Decode and sample, one stage, or a stream's exporters.
            context: Seed and threads.
            location: Of the stream that the stages belong to; None for a pool.
            places: Stage name to the snapshot that it should go on from, 0 for none; of the
                sampler the clip, -1 where clips are only made again.
        """
        began = time.perf_counter()
        self._own = location is not None
        snapshots: dict[str, int] = {}
        probe: Probe | None = None
        name = None
        try:
            for spec in specs:
                name = spec.name
                config = options_of(spec.step, spec.model).model_validate(spec.options)
                stage = find(spec.step, spec.model)(config)
                self._stages[name], self._specs[name] = stage, spec
                self._meters[name] = Meter()
                own = replace(context, report=self._reporter(name))
                folder = location.run_folder() if location else None
                if location is not None and folder is not None:
                    own = replace(own, folder=folder.path, scratch=folder.scratch(name))
                    self._scratch[name] = folder.scratch(name)
                    where = folder.scratch(name).parent.parent / "snapshots"
                    where = where / name.replace("/", ".") / spec.key[:16]
                    self._snapshots[name] = Snapshots(where)
                    if not places.get(name):
                        self._discard(name)
                stage.fetch()
                stage.open(own)
                if location is not None and spec.step not in ("decode", "sample"):
                    snapshots[name] = self._restore(name, places.get(name, 0))
            if location is not None and specs and specs[0].step == "decode":
                name = None
                decode, sample = (spec.name for spec in specs)
                self._clips = ClipSource(
                    self._stages[decode], self._stages[sample], location.source
                )
                probe = self._clips.open(
                    places.get(sample, 0), self._snapshots.get(sample), self._meters, decode, sample
                )
        except Exception as error:
            return self._reply(began, OpenFailed(stage=name, failure=Failure.of(error)))
        return self._reply(began, Opened(snapshots=snapshots, probe=probe))

    def handle(self, request: Request, arrays: tuple[Array, ...]) -> tuple[Reply, list[Array]]:
        """Carry out a request; return the reply and the new arrays."""
        began = time.perf_counter()
        try:
            messages, outcome = self._carry_out(request, arrays)
        except Exception as error:
            return self._reply(began, Failed(failure=Failure.of(error))), []
        produced: list[ProducedMessage] = []
        fresh: list[Array] = []
        # As in the local runner, the last message of a type counts.
        for message in {type(message): message for message in messages}.values():
            header, found = pack(message, arrays)
            places: list[ForwardedArray | int] = []
            sizes: list[int] = []
            for array in found:
                if isinstance(array, ForwardedArray):
                    places.append(array)
                    sizes.append(arrays[array.place].nbytes)
                else:
                    places.append(len(fresh))
                    sizes.append(array.nbytes)
                    fresh.append(array)
            produced.append(
                ProducedMessage(header=header, arrays=tuple(places), sizes=tuple(sizes))
            )
        return self._reply(began, outcome, tuple(produced)), fresh

    def end(self) -> None:
        """End a camera; from any thread."""
        if self._clips is not None:
            self._clips.stop()

    def close(self) -> None:
        """Close the stages."""
        if self._clips is not None:
            self._clips.close()
        for stage in reversed(self._stages.values()):
            stage.close()

    # ------------------------------------------------------------------------------------------

    def _carry_out(
        self, request: Request, arrays: tuple[Array, ...]
    ) -> tuple[list[Message], Outcome]:
        match request:
            case NextClip():
                assert self._clips is not None
                clip = self._clips.next()
                if clip is None:
                    return [], EndOfStream()
                self._clips.save(request.safe)
                return [clip], ClipDecoded(clip=ClipMetadata.of(clip))
            case RedecodeClip():
                assert self._clips is not None
                return [self._clips.redecode(request.clip)], Processed()
            case LoadMessages():
                folder = self._folder(request)
                return [folder.kept(file) for file in request.files], Processed()
            case PersistMessages():
                folder = self._folder(request)
                given = _unpacked(request.messages, arrays).values()
                files = [folder.keep(request.stage, request.key, message) for message in given]
                return [], Persisted(files=tuple(files))
            case MakeReport():
                summary = RunSummary(manifest=request.manifest)
                return self._call(request, lambda stage: stage.process(summary)), Processed()
            case FinishStream():
                self._check_sequence(request)
                messages = self._call(request, lambda stage: stage.finish())
                return messages, Finished(files=self._persist(request, messages))
            case ProcessItem():
                self._check_sequence(request)
                given = _unpacked(request.messages, arrays)
                self._meters[request.stage].items += 1
                messages = self._call(request, lambda stage: stage.process(**given))
                if not self._own:
                    return messages, Processed()
                self._persist(request, messages)
                return messages, Processed(snapshot_saved=self._save(request))

    def _check_sequence(self, request: ProcessItem | FinishStream) -> None:
        """Refuse a request whose predecessor did not arrive.

        What one request was given may be lost with a machine, and those behind it arrive all the
        same; a state that lacks a clip must never come to be.
        """
        if self._own and request.sequence is not None:
            expected = self._sequence.get(request.stage, 0)
            if request.sequence != expected:
                raise ValueError(
                    f"{request.stage} has got {expected} requests and this one is "
                    f"{request.sequence}"
                )
            self._sequence[request.stage] = expected + 1

    def _call(self, request: Request, call: Callable[[Stage[Any]], Any]) -> list[Message]:
        """Call a stage; a shared one first learns whose run folder it works for."""
        stage = self._stages[request.stage]
        if not self._own:
            folder = self._seen(request.location)
            stage.context = replace(
                stage.context,
                folder=folder.path if folder else None,
                scratch=folder.scratch(request.stage) if folder else None,
            )
        with self._meters[request.stage].timed():
            return list(iterate(call(stage)))

    def _persist(
        self, request: ProcessItem | FinishStream, messages: list[Message]
    ) -> tuple[str, ...]:
        """Keep messages about the whole stream; events are collected until its end."""
        if not self._own:
            return ()
        spec = self._specs[request.stage]
        files: list[str] = []
        for message in messages:
            if isinstance(message, Actions):
                self._event_log(request.stage).add(message)
            elif type(message) in STREAM_LEVEL:
                files.append(self._folder(request).keep(spec.name, spec.key, message))
        if isinstance(request, FinishStream) and request.stage in self._event_logs:
            joined = self._event_logs[request.stage].joined()
            if joined is not None:
                files.append(self._folder(request).keep(spec.name, spec.key, joined))
        return tuple(files)

    def _event_log(self, name: str) -> EventLog:
        if name not in self._event_logs:
            snapshots = self._snapshots.get(name)
            self._event_logs[name] = EventLog(snapshots.folder if snapshots else None)
        return self._event_logs[name]

    def _save(self, request: ProcessItem) -> bool:
        name = request.stage
        snapshots = self._snapshots.get(name)
        if snapshots is None:
            return False
        state = self._stages[name].snapshot()
        if state is None:
            return False
        length = self._event_logs[name].length if name in self._event_logs else 0
        beside = {"meter": meter_to_dict(self._meters[name]), "actions": length}
        snapshots.save(request.place + 1, state, beside, needed_from=request.safe)
        return True

    def _restore(self, name: str, place: int) -> int:
        """Restore a stage from the snapshot of a place; return that place, or 0 if it cannot be."""
        snapshots = self._snapshots.get(name)
        if snapshots is None or not place:
            return 0
        try:
            state, beside = snapshots.load(place)
            self._stages[name].restore(state)
            self._meters[name] = meter_from_dict(beside["meter"])
            if beside["actions"]:
                self._event_log(name).cut(beside["actions"])
        except Exception as error:
            # A damaged file may hold anything; the clips are there, and are processed again.
            self._rebuild(name)
            why = f"its stream was processed again, since its snapshot cannot be used: {error}"
            self._stages[name].warn(why)
            return 0
        return place

    def _rebuild(self, name: str) -> None:
        """Replace a stage that a bad snapshot may have left half restored."""
        stage, spec = self._stages[name], self._specs[name]
        context = stage.context
        stage.close()
        self._discard(name)
        config = options_of(spec.step, spec.model).model_validate(spec.options)
        self._stages[name] = find(spec.step, spec.model)(config)
        self._meters[name] = Meter()
        self._stages[name].open(context)

    def _discard(self, name: str) -> None:
        """Remove what an earlier worker has left of a stage that begins its stream again."""
        if name in self._snapshots:
            self._snapshots[name].clear()
            self._event_logs.pop(name, None)
        scratch = self._scratch.get(name)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def _seen(self, location: RunLocation) -> RunFolder | None:
        if location.mark not in self._folders:
            self._folders[location.mark] = location.run_folder()
        return self._folders[location.mark]

    def _folder(self, request: Request) -> RunFolder:
        folder = self._seen(request.location)
        if folder is None:
            raise FileNotFoundError(
                f"this machine does not see the run folder {request.location.folder}"
            )
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

    def _reply(
        self, began: float, outcome: Outcome, messages: tuple[ProducedMessage, ...] = ()
    ) -> Reply:
        events, self._events = tuple(self._events), []
        return Reply(
            outcome=outcome,
            messages=messages,
            events=events,
            seconds=time.perf_counter() - began,
            meters=dict(self._meters) if self._own else None,
            peak_memory_bytes=peak_memory_bytes(),
        )


def _unpacked(
    messages: tuple[tuple[str, MessageHeader], ...], arrays: tuple[Array, ...]
) -> dict[str, Message]:
    """Return the messages by parameter name, put together with the arrays beside them."""
    given: dict[str, Message] = {}
    at = 0
    for name, header in messages:
        count = len(header.array_fields)
        given[name] = unpack(header, arrays[at : at + count])
        at += count
    return given
