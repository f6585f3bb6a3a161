"""The scheduler with real workers in this process, on virtual time, while everything fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import packing, stage
from pipeline.cluster import _Stream
from pipeline.config import load
from pipeline.errors import Reel3dError
from pipeline.lanes import Lane
from pipeline.run import Begun, begin, run
from pipeline.scheduler import Limits, Scheduler
from pipeline.source import Source
from tests.faulty_backend import Faults, FaultyBackend, crashes_of

MISBEHAVING = Path(__file__).parent / "misbehaving"
PRESET = MISBEHAVING / "scripted.yaml"
MOST_STEPS = 20_000
SEEDS = int(os.environ.get("REEL3D_CHAOS_SEEDS", "2"))


class Silent:
    """A watch that wants to know nothing."""

    def began(self, stage: str) -> None: ...
    def reached(self, seconds: float, total_s: float | None) -> None: ...
    def progress(self, stage: str, done: float, total: float, note: str) -> None: ...
    def ended(self, stage: str, state: str, meter: Any) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def scripted() -> Iterator[None]:
    """Let the scripted stages be found, and messages of a few bytes be objects of their own."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(MISBEHAVING))
    patch.setattr(packing, "INLINE_BYTES", 64)
    for step in sorted(path.name for path in (MISBEHAVING / "stages").iterdir()):
        package = __import__(f"stages.{step}", fromlist=["x"])
        patch.setattr(package, "__path__", [*package.__path__, str(MISBEHAVING / "stages" / step)])
    stage.models.cache_clear()
    yield
    patch.undo()
    for name in [n for n in sys.modules if n.startswith("stages.") and n.endswith(".scripted")]:
        del sys.modules[name]
    stage.models.cache_clear()


def film(folder: Path, name: str = "film", frames: int = 17, **more: Any) -> Source:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"frames": frames, **more}))
    return Source(uri=str(path), shown=path.name, name=name)


class Job:
    """Some sources through the scheduler over the faulty backend."""

    def __init__(
        self,
        sources: list[Source],
        out: Path,
        faults: Faults | None = None,
        *words: str,
        resume: bool = False,
        cores: float = 4,
        budget_bytes: int = 1 << 20,
    ) -> None:
        self.backend = FaultyBackend(faults or Faults())
        limits = Limits(cores=cores, budget_bytes=budget_bytes, attempts=3, backlog=2)
        self.scheduler = Scheduler(self.backend, limits)
        self.backend.scheduler = self.scheduler
        self.begun: list[Begun] = []
        self.streams: list[_Stream] = []
        standing: Any = SimpleNamespace(reached={}, dropped={})
        pools: dict[str, Lane] = {}
        for source in sources:
            config = load(file=PRESET, overrides=words, uri=source.uri)
            begun = begin(source, config, out / source.name, resume=resume)
            self.begun.append(begun)
            if begun.done is not None:
                continue
            stream = _Stream(begun, Silent(), self.scheduler, 0, standing)
            self.streams.append(stream)
            self.backend.at_home(stream.flow, stream.home)
            stream.begin(pools, alone=len(sources) == 1)
        self.steps = 0

    def go(self, until_s: float = float("inf")) -> list[Any]:
        """Run to the end, or abandon everything at a time, as a killed driver does."""
        while self.scheduler.busy and self.backend.clock < until_s:
            self.scheduler.step(0.25)
            self.steps += 1
            assert self.steps < MOST_STEPS, self.stuck()
        if self.scheduler.busy:
            for begun in self.begun:
                begun.folder.close()
            return []
        assert self.scheduler.budget.used_bytes == 0, "objects are held for ever"
        left = [p.worker.lane.name for p in self.backend.processes.values() if p.alive]
        assert not left, "workers are left"
        ends = [stream.outcome for stream in self.streams]
        for stream in self.streams:
            stream.leave()
        return ends

    def stuck(self) -> str:
        rows = []
        for stream in self.scheduler.streams:
            for node in stream.flow.nodes:
                rows.append(
                    f"{node.name} settled={node.settled} over={node.over} dealt={node.dealt} "
                    f"sent={node.sent} finished={node.finished} keeping={node.keeping}"
                )
            rows.append(f"total={stream.flow.total} open={sorted(stream.flow.open)[:5]}")
        rows += [f"{x.name}: {x.backlog} wait, {len(x.workers)} work" for x in self.scheduler.lanes]
        return "it stands still:\n" + "\n".join(rows)


def outcome(folder: Path) -> dict[str, Any]:
    """Return all of a run folder that two equal runs share."""
    manifest = json.loads((folder / "manifest.json").read_text())
    kinds = ("metrics", "errors", "configuration")
    return {
        "exit": manifest["exit_code"],
        "artefacts": {
            a["path"]: a["sha256"] for a in manifest["artefacts"] if a["kind"] not in kinds
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
    """Return what the local runner makes of a film, once a film and options."""
    known: dict[Any, dict[str, Any]] = {}

    def of(source: Source, *words: str) -> dict[str, Any]:
        key = (Path(source.uri).read_text(), source.name, words)
        if key not in known:
            out = tmp_path_factory.mktemp("local") / "out"
            run(source, load(file=PRESET, overrides=words, uri=source.uri), out, Silent())
            known[key] = outcome(out)
        return known[key]

    return of


def test_without_faults_the_run_equals_the_local_one(tmp_path: Path, local: Any) -> None:
    source = film(tmp_path)
    job = Job([source], tmp_path / "out")
    job.go()
    assert outcome(tmp_path / "out" / "film") == local(source)
    assert {n for (_, verb, _), n in job.backend.done.items() if verb != "next"} == {1}
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
    job = Job([source], tmp_path / "out", Faults(seed=seed, **mix))
    job.go()
    made = outcome(tmp_path / "out" / "film")
    if mix.get("damages"):
        without_warnings(made)
    assert differences(made, local(source)) == []
    assert job.backend.injected or seed > 1, "nothing went wrong: the test shows nothing"


def differences(made: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Say in what two runs differ."""
    rows: list[str] = []
    for part in ("exit", "source"):
        if made[part] != expected[part]:
            rows.append(f"{part}: {made[part]} != {expected[part]}")
    for part in ("artefacts", "stages"):
        for name in sorted(made[part].keys() | expected[part].keys()):
            one, other = made[part].get(name), expected[part].get(name)
            if one != other:
                rows.append(f"{name}: {one} != {other}")
    return rows


def without_warnings(made: dict[str, Any]) -> None:
    """Drop the one warning that a damaged snapshot brings."""
    for name, (state, items, warnings, *rest) in made["stages"].items():
        kept = [text for text in warnings if "its snapshot cannot be used" not in text]
        made["stages"][name] = (state, items, kept, *rest)


assert Reel3dError
