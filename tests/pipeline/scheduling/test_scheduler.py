"""The scheduler with real workers in this process, on virtual time, while everything fails."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster.stream_run import StreamRun
from pipeline.config import load
from pipeline.contract import Source, stage
from pipeline.errors import SourceError
from pipeline.lifecycle import PreparedRun, prepare, release, run
from pipeline.local import runner as local_runner
from pipeline.scheduling.backend import Limits
from pipeline.scheduling.pools import WorkerPool
from pipeline.scheduling.scheduler import Scheduler
from pipeline.scheduling.stage_failures import MOST_LOSSES
from pipeline.telemetry import SilentListener
from pipeline.worker import child_process as worker
from pipeline.worker import serialization as packing
from tests.support.faulty_backend import Faults, FaultyBackend, crashes_of
from tests.support.paths import MISBEHAVING

PRESET = MISBEHAVING / "scripted.yaml"
MOST_STEPS = 20_000
SEEDS = int(os.environ.get("REEL3D_CHAOS_SEEDS", "2"))


@pytest.fixture(scope="module", autouse=True)
def scripted() -> Iterator[None]:
    """Let the scripted stages be found, and messages of a few bytes be objects of their own."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(MISBEHAVING))
    patch.setattr(packing, "INLINE_BYTES", 64)
    patch.setattr(local_runner, "ChildProcess", InThisProcess)
    for step in sorted(path.name for path in (MISBEHAVING / "stages").iterdir()):
        package = __import__(f"stages.{step}", fromlist=["x"])
        patch.setattr(package, "__path__", [*package.__path__, str(MISBEHAVING / "stages" / step)])
    stage.models.cache_clear()
    yield
    patch.undo()
    for name in [n for n in sys.modules if n.startswith("stages.") and n.endswith(".scripted")]:
        del sys.modules[name]
    stage.models.cache_clear()


class InThisProcess:
    """What the local runner uses of a `ChildProcess`, without the second that a process takes."""

    peak_memory_bytes = 0

    def __init__(self, stages: list[Any], specs: Any, silence_s: float | None = None) -> None:
        self._stages = stages

    def open(self, context: Any, reports: list[Any]) -> None:
        for one, report in zip(self._stages, reports, strict=True):
            one.open(dataclasses.replace(context, report=report))

    def process(self, messages: dict[str, Any]) -> Iterator[Any]:
        stopping: Any = SimpleNamespace(watch=lambda reader: None)
        return worker._process(self._stages, messages, stopping)

    def close(self) -> None:
        pass


def film(folder: Path, name: str = "film", frames: int = 17, **more: Any) -> Source:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"frames": frames, **more}))
    return Source(uri=str(path), shown=path.name, name=name)


class FaultyRun:
    """Some sources through the scheduler over the faulty backend."""

    def __init__(
        self,
        sources: list[Source],
        out: Path,
        faults: Faults | None = None,
        *words: str,
        resume: bool = False,
        live: bool = False,
        cores: float = 4,
        budget_bytes: int = 1 << 20,
    ) -> None:
        self.backend = FaultyBackend(faults or Faults())
        limits = Limits(cores=cores, budget_bytes=budget_bytes, attempts=3, backlog=2)
        self.scheduler = Scheduler(self.backend, limits)
        self.backend.scheduler = self.scheduler
        self.prepared: list[PreparedRun] = []
        self.shown: dict[str, list[str]] = {}
        """Names of the clips that the heads have made, by source."""
        self.streams: list[StreamRun] = []
        standing: Any = SimpleNamespace(positions={})
        shared: dict[str, WorkerPool] = {}
        for source in sources:
            config = load(file=PRESET, overrides=words, uri=source.uri)
            prepared = prepare(source, config, out / source.name, resume=resume)
            self.prepared.append(prepared)
            if prepared.done is not None:
                release(prepared)
                continue
            stream = StreamRun(prepared, SilentListener(), self.scheduler, 0, standing)
            self.streams.append(stream)
            stream.dataflow.info = dataclasses.replace(stream.dataflow.info, live=live)
            self._note_clips(stream, self.shown.setdefault(source.name, []))
            self.backend.set_location(stream.dataflow.info, stream.location)
            stream.begin(shared, alone=len(sources) == 1)
        self.steps = 0

    def _note_clips(self, stream: StreamRun, names: list[str]) -> None:
        take = stream.on_clip

        def clip(item: Any, result: Any) -> None:
            names.append(item.name)
            take(item, result)

        stream.on_clip = clip

    def go(self, until_s: float = float("inf")) -> list[Any]:
        """Run to the end, or abandon everything at a time, as a killed driver does."""
        while self.scheduler.busy and self.backend.clock < until_s:
            self.scheduler.step(2.0)
            self.steps += 1
            assert self.steps < MOST_STEPS, self.stuck()
        if self.scheduler.busy:
            for stream in self.streams:
                stream._journal.close()
            for prepared in self.prepared:
                prepared.folder.close()
            return []
        assert self.scheduler.budget.used_bytes == 0, "objects are held for ever"
        left = [p.worker.pool.name for p in self.backend.processes.values() if p.alive]
        assert not left, "workers are left"
        ends = [stream.outcome for stream in self.streams]
        for stream in self.streams:
            stream.leave()
        return ends

    def stuck(self) -> str:
        rows = []
        for stream in self.scheduler.streams:
            rows += [
                f"{s.name} finalized={s.finalized} stopped={s.stopped} processed={s.processed} "
                f"sent={s.sent} finished={s.finished} persisting={s.persisting}"
                for s in stream.dataflow.stages
            ]
            rows.append(f"total={stream.dataflow.total} open={sorted(stream.dataflow.open)[:5]}")
        rows += [f"{x.name}: {x.backlog} wait, {len(x.workers)} work" for x in self.scheduler.pools]
        return "it stands still:\n" + "\n".join(rows)


def outcome(folder: Path) -> dict[str, Any]:
    """Return all of a run folder that two equal runs share."""
    manifest = json.loads((folder / "manifest.json").read_text())
    kinds = ("metrics", "errors", "configuration")
    return {
        "exit": manifest["exit_code"],
        "artifacts": {
            a["path"]: a["sha256"] for a in manifest["artifacts"] if a["kind"] not in kinds
        },
        "stages": {
            f"{s['step']}/{s['model']}": (
                s["state"],
                s.get("items"),
                s["warnings"],
                [(loss["what"], loss["why"]) for loss in s["losses"]],
                s.get("metrics"),
            )
            for s in manifest["stages"]
        },
        "source": {k: v for k, v in manifest["source"].items()},
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what the local runner makes of a film, with these options one after the other."""
    known: dict[Any, Any] = {}

    def of(source: Source, *history: tuple[str, ...]) -> Any:
        key = (Path(source.uri).read_text(), source.name, history)
        if key not in known:
            out = tmp_path_factory.mktemp("local") / "out"
            for words in history or ((),):
                config = load(file=PRESET, overrides=words, uri=source.uri)
                try:
                    run(source, config, out, SilentListener(), resume=True)
                    known[key] = outcome(out)
                except SourceError as error:
                    known[key] = str(error)
        return known[key]

    return of


def test_without_faults_the_run_equals_the_local_one(tmp_path: Path, local: Any) -> None:
    source = film(tmp_path)
    job = FaultyRun([source], tmp_path / "out")
    job.go()
    assert outcome(tmp_path / "out" / "film") == local(source)
    assert {n for (_, kind, _), n in job.backend.done.items() if kind != "next_clip"} == {1}
    assert not crashes_of(tmp_path / "out" / "film")


MIXES = [
    {"dies": 0.15},
    {"idles": 0.2, "dies": 0.05},
    {"loses": 0.3},
    {"hangs": 0.05, "dies": 0.05},
    {"starves": 0.1, "fails_to_start": 0.2},
    {"node_goes": 0.08, "loses": 0.1},
    {"dies": 0.1, "damages": 0.5},
    {"dies": 0.08, "idles": 0.1, "loses": 0.1, "hangs": 0.03, "node_goes": 0.03, "damages": 0.2},
]


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "-".join(mix))
@pytest.mark.parametrize("seed", range(SEEDS))
def test_faults_change_nothing(
    seed: int, mix: dict[str, float], tmp_path: Path, local: Any
) -> None:
    source = film(tmp_path)
    job = FaultyRun([source], tmp_path / "out", Faults(seed=seed, **mix))
    job.go()
    made = outcome(tmp_path / "out" / "film")
    if mix.get("damages"):
        without_warnings(made)
    assert differences(made, local(source)) == ""
    assert job.backend.injected or seed > 1, "nothing went wrong: the test shows nothing"


def test_events_that_were_taken_from_the_clips_are_not_taken_again(
    tmp_path: Path, local: Any
) -> None:
    """A run ends between the end of `action` and that of the exporter that reads it."""
    source = film(tmp_path)
    slow = Faults(slow={"export/clips": 3.0})
    FaultyRun([source], tmp_path / "out", slow).go(15.0)
    job = FaultyRun([source], tmp_path / "out", resume=True)
    actions = {job.name: job.action for job in job.prepared[0].planned_stages}
    assert actions["action/scripted"] == "replay"
    job.go()
    made = outcome(tmp_path / "out" / "film")
    assert made["artifacts"] == local(source)["artifacts"]


POISON = {
    "clip": ("flow/scripted", "film/4-6", "clip film/4-6"),
    "fold": ("action/scripted", "film/4-6", "clip film/4-6"),
    "whole": ("pose/scripted", "film: keyframe/scripted", "camera poses"),
    "finish": ("keyframe/scripted", "film", "keyframes"),
    "head": ("sample/scripted", "clip 4", "the rest of the video"),
}


@pytest.mark.parametrize("kind", POISON)
def test_poison_costs_itself_only(kind: str, tmp_path: Path, local: Any) -> None:
    source = film(tmp_path)
    stage_name, where, what = POISON[kind]
    job = FaultyRun([source], tmp_path / "out", Faults(poison={(stage_name, where)}))
    job.go()
    made = outcome(tmp_path / "out" / "film")
    assert made["exit"] == 4
    told_by = "decode/scripted" if kind == "head" else stage_name
    ((found, why),) = made["stages"][told_by][3]
    assert found == what
    assert "segfault" in why
    rows = (tmp_path / "out" / "film" / "errors.jsonl").read_text().splitlines()
    assert [json.loads(row)["stage"] for row in rows] == [told_by]
    # Nothing else is worse for it.
    if kind == "clip":
        expected = local(source, ("flow.fault=bug", "flow.at=4"))
        assert made["artifacts"] == expected["artifacts"]
    elif kind == "head":
        assert made["artifacts"] == local(film(tmp_path, "film", 9))["artifacts"]
    else:
        assert made["artifacts"]["clips.txt"] == local(source)["artifacts"]["clips.txt"]
    if kind == "fold":
        assert made["stages"][stage_name][4] == {"clips_count": 7.0}


def test_what_is_lost_again_and_again_is_given_up(tmp_path: Path, local: Any) -> None:
    source = film(tmp_path)
    job = FaultyRun([source], tmp_path / "out", Faults(vanishes={("flow/scripted", "film/4-6")}))
    job.go()
    made = outcome(tmp_path / "out" / "film")
    assert made["exit"] == 4
    assert made["stages"]["flow/scripted"][3] == [
        ("clip film/4-6", f"what it needs of film/4-6 was lost {MOST_LOSSES} times")
    ]
    assert made["artifacts"] == local(source, ("flow.fault=bug", "flow.at=4"))["artifacts"]


@pytest.mark.parametrize("seed", range(SEEDS * 2))
def test_a_camera_loses_no_clip_but_what_was_lost_in_the_store(seed: int, tmp_path: Path) -> None:
    """What a camera has shown does not come again; what is there is dealt with, in order."""
    draw = random.Random(seed)
    chances = {"dies": 0.1, "idles": 0.1} | ({"loses": 0.1} if seed % 2 else {})
    source = film(tmp_path, frames=draw.choice((5, 17, 33)), camera=True)
    job = FaultyRun([source], tmp_path / "out", Faults(seed=seed, **chances), live=True)
    job.go()
    made = outcome(tmp_path / "out" / "film")
    names = [line.split()[0] for line in (tmp_path / "out/film/clips.txt").read_text().splitlines()]
    lost = {what.removeprefix("clip ") for row in made["stages"].values() for what, _ in row[3]}
    shown = job.shown["film"]
    # A decoder that begins anew may give a clip the name of one before.
    rest = iter(shown)
    assert all(name in rest for name in names), "in order, once"
    assert set(Counter(shown) - Counter(names)) <= lost
    if "loses" not in chances:
        assert names == shown


def test_a_resumed_run_still_says_that_the_decoder_failed(tmp_path: Path, local: Any) -> None:
    source = film(tmp_path, breaks_at=8)
    FaultyRun([source], tmp_path / "out", Faults(slow={"export/clips": 3.0})).go(8.0)
    FaultyRun([source], tmp_path / "out", resume=True).go()
    assert differences(outcome(tmp_path / "out" / "film"), local(source)) == ""


def chance_of(draw: random.Random) -> dict[str, float]:
    """Choose what goes wrong, and how often."""
    kinds = ("dies", "idles", "loses", "hangs", "starves", "fails_to_start", "node_goes", "damages")
    return {kind: draw.uniform(0, 0.15) for kind in draw.sample(kinds, draw.randint(0, 4))}


def words_of(draw: random.Random) -> tuple[str, ...]:
    """Choose some options."""
    all_words = [
        f"sample.clip_frames={draw.randint(2, 5)}",
        "sample.remembers=false",
        "keyframe.remembers=false",
        "action.warns=true",
        "flow.fault=bug flow.at=4",
        "action.bug_at=4",
        "pose.refuses=true",
        "fuse.scale=2",
    ]
    chosen = draw.sample(all_words, draw.choice((0, 1, 1, 2)))
    return tuple(word for words in sorted(chosen) for word in words.split())


@pytest.mark.parametrize("seed", [*range(SEEDS * 4), 219])
def test_any_job_equals_the_local_runner(seed: int, tmp_path: Path, local: Any) -> None:
    """Films, options, budgets, faults, abandoned drivers and changed options, all by chance."""
    draw = random.Random(seed)
    sources = [
        film(
            tmp_path,
            f"film{i}",
            draw.choice((2, 3, 5, 9, 17, 24)),
            breaks_at=draw.choice((-1, -1, -1, -1, 0, 4, 9)),
        )
        for i in range(draw.randint(1, 3))
    ]
    history: list[tuple[str, ...]] = []
    more: dict[str, Any] = {
        "cores": draw.randint(1, 6),
        "budget_bytes": draw.choice((1 << 20, 40_000, 8_000)),
    }
    resume = False
    for _ in range(draw.choice((1, 1, 2, 3))):
        words = words_of(draw)
        history.append(words)
        for _ in range(draw.choice((0, 0, 1, 2, 3))):
            faults = Faults(seed=draw.random(), **chance_of(draw))
            job = FaultyRun(sources, tmp_path / "out", faults, *words, resume=resume, **more)
            job.go(draw.uniform(0.5, 15))
            resume = True
        faults = Faults(seed=draw.random(), **chance_of(draw))
        job = FaultyRun(sources, tmp_path / "out", faults, *words, resume=resume, **more)
        ends = job.go()
        resume = True
        ended = {s.prepared.source.name: end for s, end in zip(job.streams, ends, strict=True)}
        for source in sources:
            expected = local(source, *history)
            if isinstance(expected, str):
                assert str(ended[source.name]) == expected
                continue
            made = outcome(tmp_path / "out" / source.name)
            without_warnings(made)
            # In how many messages events come depends on what was done in which run.
            for one in (made, expected):
                state, _, *more_of = one["stages"]["export/summary"]
                one["stages"]["export/summary"] = (state, None, *more_of)
            assert differences(made, expected) == "", f"{source.name} {history}"


def differences(made: dict[str, Any], expected: dict[str, Any]) -> str:
    """Say in what two runs differ."""
    rows: list[str] = []
    for part in ("exit", "source"):
        if made[part] != expected[part]:
            rows.append(f"{part}: {made[part]} != {expected[part]}")
    for part in ("artifacts", "stages"):
        for name in sorted(made[part].keys() | expected[part].keys()):
            one, other = made[part].get(name), expected[part].get(name)
            if one != other:
                rows.append(f"{name}: {one} != {other}")
    return "\n".join(rows)


def without_warnings(made: dict[str, Any]) -> None:
    """Drop the one warning that a damaged snapshot brings."""
    for name, (state, items, warnings, *rest) in made["stages"].items():
        kept = [text for text in warnings if "its snapshot cannot be used" not in text]
        made["stages"][name] = (state, items, kept, *rest)
