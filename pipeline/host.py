"""The inside of a worker of the Ray runner: builds stages and answers calls, without Ray.

A host holds the stage of a pool, the decoder and sampler of a stream, a stream-scoped stage, or a
stream's exporters. Messages come as parcels and arrays (`pipeline.packing`) and leave the same
way. An exception of a stage is an answer; only a crash ends the worker.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import fetch
from pipeline.chain import STREAM_LEVEL
from pipeline.lanes import StageSpec
from pipeline.messages import Actions, Array, Frames, Message, RunSummary, Tracks
from pipeline.packing import Forward, Parcel, pack, unpack
from pipeline.snapshots import Snapshots
from pipeline.source import Probe, Source
from pipeline.stage import Context, Stage, find, iterate, options_of
from pipeline.store import RunFolder
from pipeline.telemetry import Event, Loss, Meter, Progress, peak_memory_bytes

__all__ = ["Home", "Host", "Order", "Reply", "mark_home", "meter_of"]

HOME = "home"
"""File in a run's state that tells whether a machine sees the folder, or another of its name."""

NOTHING: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where a stream's results go."""

    folder: str
    mark: str
    """What its `home` file holds."""
    source: Source = field(repr=False)

    def run_folder(self) -> RunFolder | None:
        """Return the run folder, or None where this machine does not see it."""
        folder = RunFolder(Path(self.folder))
        try:
            seen = (folder.scratch("").parent / HOME).read_text(encoding="utf-8")
        except OSError:
            return None
        return folder if seen == self.mark else None


def mark_home(folder: RunFolder, source: Source) -> Home:
    """Leave a mark in a run folder, by which a worker knows that it sees it."""
    mark = os.urandom(16).hex()
    path = folder.scratch("").parent / HOME
    path.write_text(mark, encoding="utf-8")
    return Home(folder=str(folder.path.resolve()), mark=mark, source=source)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One call."""

    verb: str
    stage: str
    where: str = ""
    """The clip or part that it is about, for logs."""
    place: int = 0
    turn: int | None = None
    """Stream-scoped stages: how many calls of it this worker got before; None: not checked."""
    safe: int = 0
    """Snapshots before this place are not needed any more."""
    home: Home
    parcels: tuple[tuple[str, Parcel], ...] = NOTHING
    """Parameter and message, its arrays left out: they come beside the order, in this order."""
    message: Any = None
    """`remake`: what was remembered of the clip. `load`: file names. `report`: the manifest."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to a call; the new arrays go beside it."""

    made: tuple[tuple[Parcel, tuple[Forward | int, ...], tuple[int, ...]], ...] = NOTHING
    """Messages; for each array a place among those given or made; and the bytes of each."""
    events: tuple[tuple[str, Event], ...] = NOTHING
    seconds: float = 0.0
    failure: tuple[str, str, str] | None = None
    """Name of the exception, its text, a traceback."""
    meters: dict[str, Meter] | None = None
    saved: bool = False
    extra: Any = None
    peak_memory_bytes: int = 0


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
        self._head: _Head | None = None
        self._kept: dict[str, _KeptActions] = {}
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
                self._head = _Head(self._stages[decode], self._stages[sample], home.source)
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

    def _kept_actions(self, name: str) -> _KeptActions:
        if name not in self._kept:
            snapshots = self._snapshots.get(name)
            self._kept[name] = _KeptActions(snapshots.folder if snapshots else None)
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
        told = {"meter": _meter_out(self._meters[name]), "actions": length}
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
            self._meters[name] = meter_of(told["meter"])
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


class _Head:
    """Decoder and sampler of one stream: makes its clips in order, and any of them again."""

    def __init__(self, decode: Stage[Any], sample: Stage[Any], source: Source) -> None:
        self._decode = decode
        self._sample = sample
        self._source = source
        self._reader: Any = None
        self._clips: Iterator[Frames] = iter(())
        self._again: Any = None
        """A reader of its own for clips that are made again: the first one reads on."""

    def open(
        self,
        place: int,
        snapshots: Snapshots | None,
        meters: dict[str, Meter],
        decode: str,
        sample: str,
    ) -> Probe:
        self._snapshots, self._meters, self._names = snapshots, meters, (decode, sample)
        self._made = 0
        self._source = fetch.local(self._source)
        self._reader = self._decode.process(self._source)
        probe: Probe = self._reader.probe
        if place < 0:
            # All clips are known: it only makes some of them again.
            return probe
        if place and probe.kind != "camera":
            self._go_to(place)
        elif snapshots is not None:
            snapshots.clear()
        if not self._made:
            self._clips = iter(self._sample.process(self._reader))
        while self._made < place and probe.kind != "camera":
            # Nobody wrote down where the sampler stood: it chooses once more from the beginning.
            if self.next() is None:
                break
        return probe

    def _go_to(self, place: int) -> None:
        if self._snapshots is None or place not in self._snapshots.numbers:
            return
        try:
            state, told = self._snapshots.load(place)
        except ValueError:
            return
        self._sample.restore(state)
        for name in self._names:
            self._meters[name].__dict__.update(vars(meter_of(told[name])))
        self._clips = iter(self._sample.process(self._reader))
        self._made = place

    def next(self) -> Frames | None:
        """Return the next clip, or None at the end."""
        decode, sample = (self._meters[name] for name in self._names)
        with decode.timed():
            clip = next(self._clips, None)
        if clip is not None:
            self._made += 1
            sample.items += len(clip.images) - clip.overlap
            decode.items = sample.items
        return clip

    def save(self, safe: int) -> None:
        if self._snapshots is None:
            return
        state = self._sample.snapshot()
        if state is not None:
            told = {name: _meter_out(self._meters[name]) for name in self._names}
            self._snapshots.save(self._made, state, told, needed_from=safe)

    def remake(self, remembered: dict[str, Any]) -> Frames:
        """Decode the frames of a clip again."""
        if self._again is None:
            self._again = self._decode.process(self._source)
        index = [int(i) for i in remembered["index"]]
        pictures = [(p.rgb(), p.depth(), p.right()) for p in self._again.pictures(index)]
        if len(pictures) != len(index):
            raise ValueError(
                f"{self._source.shown}: {len(pictures)} of {len(index)} frames could be decoded "
                "again"
            )
        image, depth, right = (list(of_all) for of_all in zip(*pictures, strict=True))
        return recalled(remembered, np.stack(image), whole(depth), whole(right))

    def stop(self) -> None:
        self._reader.stop()

    def close(self) -> None:
        for reader in (self._reader, self._again):
            if reader is not None:
                reader.close()


class _KeptActions:
    """The events of a stream until its end: in memory, and beside the snapshots on the disk."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder.with_name(folder.name + ".actions.jsonl") if folder else None
        self._parts: list[Actions] = []

    @property
    def length(self) -> int:
        """How many messages there are."""
        return len(self._parts)

    def add(self, actions: Actions) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._parts:
                self._path.unlink(missing_ok=True)
            values = {part.name: getattr(actions, part.name) for part in fields(actions)}
            row = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self._parts.append(actions)

    def cut(self, length: int) -> None:
        """Read back the first `length` messages; what a crash left after them is dropped."""
        assert self._path is not None
        rows = self._path.read_text(encoding="utf-8").splitlines()[:length]
        if len(rows) < length:
            raise ValueError(f"{self._path} holds {len(rows)} of {length} events")
        for row in map(json.loads, rows):
            made = Tracks if "track" in row else Actions
            for name, (dtype, shape) in made.SPEC.items():
                # No rows at all have lost their length.
                row[name] = np.array(row[name], dtype).reshape(-1, *map(int, shape.split()[1:]))
            names = {key: tuple(row.pop(key)) for key in ("label", "kind", "model")}
            self._parts.append(made(**names, **row))
        self._path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")

    def joined(self) -> Actions | None:
        return type(self._parts[0]).concat(self._parts) if self._parts else None


def remember(clip: Frames) -> dict[str, Any]:
    """Return all of a clip but its pictures, as plain data: they can be decoded again."""
    return {
        "clip": clip.clip,
        "pts_ns": clip.pts_ns.tolist(),
        "index": clip.index.tolist(),
        "sharpness": clip.sharpness.tolist(),
        "shot": clip.shot,
        "overlap": clip.overlap,
        "metric": clip.metric,
        "baseline_m": clip.baseline_m,
        "intrinsics": None if clip.intrinsics is None else clip.intrinsics.tolist(),
        "T_world_camera": None if clip.T_world_camera is None else clip.T_world_camera.tolist(),
    }


def whole(parts: list[Array | None]) -> Array | None:
    """Stack what every frame has; None where one has nothing."""
    there = [part for part in parts if part is not None]
    return np.stack(there) if len(there) == len(parts) else None


def recalled(
    remembered: dict[str, Any],
    images: Array,
    depth: Array | None = None,
    right: Array | None = None,
) -> Frames:
    """Return the clip of which this was remembered, with its pictures, depth and right views."""
    given = dict(remembered)
    dtypes = {"pts_ns": np.int64, "index": np.int64, "sharpness": np.float32}
    dtypes |= {"intrinsics": np.float64, "T_world_camera": np.float64}
    for name, dtype in dtypes.items():
        if given[name] is not None:
            given[name] = np.array(given[name], dtype)
    return Frames(images=images, depth=depth, right=right, **given)


def _meter_out(meter: Meter) -> dict[str, Any]:
    return asdict(meter)


def meter_of(tree: dict[str, Any]) -> Meter:
    """Return a meter that was written down with a snapshot."""
    given = dict(tree)
    losses = [Loss(**loss) for loss in given.pop("losses")]
    return Meter(losses=losses, **given)


def _describe(error: Exception) -> tuple[str, str, str]:
    return type(error).__name__, str(error) or "no reason given", traceback.format_exc()
