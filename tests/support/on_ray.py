"""Runs over a real Ray in this process, with stages that misbehave and a record of what went on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import runner
from pipeline.cluster.connection import Cluster
from pipeline.cluster.runner import run_all
from pipeline.cluster.stream_run import Outcome
from pipeline.config import load
from pipeline.contract import Source, stage
from pipeline.errors import Reel3dError
from pipeline.lifecycle import prepare
from pipeline.scheduling import Scheduler, TaskDone, TaskResult, Worker, WorkerEvent, WorkerStarted
from pipeline.telemetry import SilentListener
from pipeline.worker import Opened
from tests.support.paths import MISBEHAVING, ROOT

SCRIPTED = MISBEHAVING / "scripted.yaml"

Made = dict[str, str]
"""`Frames.images` to the name of an object."""
Hook = Callable[["Recorded", WorkerEvent], None]


@contextlib.contextmanager
def misbehaving() -> Generator[pytest.MonkeyPatch]:
    """Let this process, and workers of a Ray started in the block, find the misbehaving stages."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([str(MISBEHAVING), str(ROOT)]))
    patch.syspath_prepend(str(MISBEHAVING))
    known = set(sys.modules)
    for folder in sorted((MISBEHAVING / "stages").iterdir()):
        package = __import__(f"stages.{folder.name}", fromlist=["x"])
        patch.setattr(package, "__path__", [*package.__path__, str(folder)])
    stage.models.cache_clear()
    try:
        yield patch
    finally:
        patch.undo()
        stage.models.cache_clear()
        for name in set(sys.modules) - known:
            if name.startswith("stages."):
                del sys.modules[name]


def film(folder: Path, name: str = "film", frames: int = 17, **more: Any) -> Source:
    """Describe a source of small pictures; the scripted sampler makes clips of three."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"frames": frames, **more}))
    return Source(uri=str(path), shown=path.name, name=name)


def _named(result: TaskResult) -> Made:
    return {
        f"{packed.kind.__name__}.{name}": ref.hex()
        for packed in result.outputs.values()
        if packed is not None
        for name, ref in zip(packed.array_fields, packed.refs, strict=True)
    }


class Recorded(Scheduler):
    """The scheduler, and what it has done."""

    last: Recorded
    """The newest one."""
    hook: Hook | None = None
    """Is called before anything that happens is dealt with."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Recorded.last = self
        self.pids: dict[int, int] = {}
        """Process of each worker."""
        self.made: dict[tuple[str, str], list[Made]] = {}
        """Stage and verb to what its calls made; the names of the objects do not hold them."""

    def _apply(self, event: WorkerEvent) -> None:
        if isinstance(event, WorkerStarted) and isinstance(event.outcome, Opened):
            self.pids[event.worker.number] = event.outcome.pid
        if isinstance(event, TaskDone):
            key = event.task.stage.name, event.task.kind
            self.made.setdefault(key, []).append(_named(event.result))
        if Recorded.hook is not None:
            Recorded.hook(self, event)
        super()._apply(event)

    @property
    def at_work(self) -> list[tuple[Worker, int]]:
        """Workers that are up, and their processes."""
        workers = [worker for pool in self.pools for worker in pool.workers]
        return [(w, self.pids[w.number]) for w in workers if w.number in self.pids]


def together(
    cluster: Cluster,
    wanted: list[tuple[Source, Path]],
    *words: str,
    preset: Path | None = SCRIPTED,
    resume: bool = False,
    hook: Hook | None = None,
) -> list[Outcome]:
    """Run sources into their folders over the cluster; return how each ended."""
    outcomes: dict[int, Outcome] = {}
    prepared: dict[int, Any] = {}
    for place, (source, out) in enumerate(wanted):
        config = load(file=preset, overrides=words, uri=source.uri)
        try:
            prepared[place] = prepare(source, config, out, resume=resume)
        except Reel3dError as error:
            outcomes[place] = error
    Recorded.hook = hook
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Scheduler", Recorded)
        ends = run_all(list(prepared.values()), [SilentListener()] * len(prepared), cluster)
    Recorded.hook = None
    outcomes |= dict(zip(prepared, ends, strict=True))
    return [outcomes[place] for place in range(len(wanted))]


def made_of(folder: Path, *but: str) -> dict[str, Any]:
    """Return all of a run folder that equal runs share."""
    manifest = json.loads((folder / "manifest.json").read_text())
    kinds = ("metrics", "errors", "configuration", "report", *but)
    rows = {a["path"]: a["sha256"] for a in manifest["artifacts"] if a["kind"] not in kinds}
    rows["exit"] = manifest["exit_code"]
    for row in manifest["stages"]:
        losses = [(loss["what"], loss["why"]) for loss in row["losses"]]
        name = f"{row['step']}/{row['model']}"
        rows[name] = (row["state"], row.get("items"), losses, row.get("metrics"))
    return rows


def living(pid: int) -> bool:
    """Say whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def store_stats() -> Any:
    """Return what the object stores of all machines hold and have spilled."""
    import ray
    from ray._private import internal_api

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    return internal_api.get_memory_info_reply(state).store_stats
