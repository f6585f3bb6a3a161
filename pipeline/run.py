"""One run of one source: folder, plan, runner, report, manifest."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.chain import NAMES, Chain, wire
from pipeline.config import RunConfig
from pipeline.errors import OutputError, Reel3dError, SourceError
from pipeline.local import Execution, Watch
from pipeline.messages import RunSummary
from pipeline.plan import Job, plan
from pipeline.source import Source
from pipeline.store import RunFolder, fingerprint
from pipeline.telemetry import Loss, Meter, peak_memory_bytes

__all__ = ["Result", "run", "version"]

LIBRARIES = ("av", "numpy", "numba", "open3d", "opencv-python-headless", "pycolmap", "scipy")


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    exit_code: int
    manifest: dict[str, Any]
    did_nothing: bool = False
    """Whether an earlier run had done all of it."""

    @property
    def losses(self) -> list[tuple[str, str]]:
        """What could not be made, and why."""
        stages = self.manifest["stages"]
        return [(loss["what"], loss["why"]) for stage in stages for loss in stage["losses"]]


def version() -> str:
    """Return the version of reel3d."""
    try:
        return importlib.metadata.version("reel3d")
    except importlib.metadata.PackageNotFoundError:
        return "0 (not installed)"


def run(
    source: Source,
    config: RunConfig,
    out: Path,
    watch: Watch,
    *,
    resume: bool = False,
) -> Result:
    """Turn one source into a run folder with the local runner.

    Args:
        source: What to read.
        config: Resolved for this source.
        out: The run folder; must not exist or be empty, unless `resume`.
        watch: Hears how it goes on.
        resume: Do only what is missing in `out`, or what other options outdate.

    Raises:
        UsageError: The configuration or the output folder is wrong, or the disk is full.
        SourceError: The source cannot be used; a folder made for it is removed again.
    """
    chain = wire(config.choices)
    source_hash = _identity(source)
    folder = RunFolder.create(out, resume=resume)
    try:
        return _run(source, source_hash, config, chain, folder, watch)
    except SourceError:
        if folder.fresh:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    finally:
        folder.close()


def _identity(source: Source) -> str:
    path = Path(source.uri)
    try:
        # A pipe or a device would block here for ever; whether it is allowed, decode says.
        return fingerprint(path) if path.is_file() or path.is_dir() else source.uri
    except OSError as error:
        raise SourceError(f"{source.shown} cannot be read: {error.strerror}") from None


def _run(
    source: Source,
    source_hash: str,
    config: RunConfig,
    chain: Chain,
    folder: RunFolder,
    watch: Watch,
) -> Result:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    began = time.perf_counter()
    _same_source(folder, source, source_hash)
    jobs = plan(chain, folder, source_hash, config.run.seed)
    tree = config.as_tree()
    finished = folder.manifest()
    same = finished is not None and finished.get("config") == tree
    if finished is not None and same and all(job.action == "skip" for job in jobs):
        return Result(folder.path, finished["exit_code"], finished, did_nothing=True)
    folder.write_facts({**folder.facts(), "source": source_hash, "shown": source.shown})
    folder.begin(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    execution = Execution(jobs, source, folder, config.run, watch)
    execution.run()
    probe = execution.probe.as_dict() if execution.probe else folder.facts().get("probe", {})
    folder.write_facts({"probe": probe, "source": source_hash, "shown": source.shown})
    stages = [_account(job) for job in jobs]
    manifest: dict[str, Any] = {
        "product": {"name": "reel3d", "version": version()},
        "versions": _versions(),
        "source": {"shown": source.shown, "fingerprint": source_hash, **probe},
        "preset": config.preset,
        "config": tree,
        "started": started,
        "seconds": round(time.perf_counter() - began, 3),
        "peak_memory_bytes": peak_memory_bytes() + execution.workers_peak_bytes,
        "stages": stages,
        "left_out": chain.left_out,
        "artefacts": [a for job in jobs for a in _artefacts(job, folder)],
    }
    manifest["exit_code"] = 4 if any(stage["losses"] for stage in stages) else 0
    _write_tables(folder, jobs)
    manifest["artefacts"] += [
        folder.describe("config.yaml", "configuration"),
        folder.describe("metrics.jsonl", "metrics"),
        folder.describe("errors.jsonl", "errors"),
    ]
    if chain.report is not None:
        _report(chain, execution, manifest, watch)
    folder.write_json("manifest.json", manifest)
    return Result(folder.path, manifest["exit_code"], manifest)


def _same_source(folder: RunFolder, source: Source, source_hash: str) -> None:
    """Refuse to replace the results of one video by those of another."""
    facts = folder.facts()
    if facts.get("source", source_hash) != source_hash:
        raise OutputError(
            f"{folder.path} was made from {facts.get('shown')}, and {source.shown} is not the same "
            "(or was changed since); choose another folder with --out"
        )


def _account(job: Job) -> dict[str, Any]:
    meter = job.meter
    account: dict[str, Any] = {
        "step": job.link.step,
        "model": job.link.choice.model,
        "state": job.state,
        "device": "cpu",
        "weights": "none",
        "items": meter.items,
        "seconds": round(meter.seconds, 3),
        "warnings": meter.warnings,
        "losses": [{"what": loss.what, "why": loss.why} for loss in meter.losses],
        "metrics": meter.metrics,
    }
    if job.state == "skipped":
        lacking = [NAMES[t] for t in job.link.ports.required.values() if t in NAMES]
        account["skipped"] = f"there is nothing to read: no {' or '.join(lacking)}"
    return account


def _artefacts(job: Job, folder: RunFolder) -> list[dict[str, Any]]:
    if job.entry is not None and job.action != "run":
        return job.entry.artefacts
    entry = folder.entries.get(job.name)
    if entry is not None:
        return entry.artefacts
    return [folder.describe(path, kind) for path, kind in job.meter.artefacts.items()]


def _write_tables(folder: RunFolder, jobs: list[Job]) -> None:
    rows: list[dict[str, Any]] = []
    for job in jobs:
        row = {"stage": job.name, "items": job.meter.items, "seconds": round(job.meter.seconds, 3)}
        rows.append({**row, **job.meter.metrics})
    folder.write_jsonl("metrics.jsonl", rows)
    losses = [{"stage": job.name, **asdict(loss)} for job in jobs for loss in job.meter.losses]
    folder.write_jsonl("errors.jsonl", losses)


def _report(chain: Chain, execution: Execution, manifest: dict[str, Any], watch: Watch) -> None:
    """Make the report; it is made anew each time, since it shows everything else."""
    link = chain.report
    assert link is not None
    meter = Meter()
    watch.began(link.name)
    stage = link.stage(link.choice.options)
    try:
        with meter.timed():
            stage.open(execution.context(link.name, meter.take))
            stage.process(RunSummary(manifest=manifest))
    except OutputError:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, Reel3dError) else f"{type(error).__name__}: {error}"
        meter.losses.append(Loss(what="report", why=why))
        manifest["exit_code"] = 4
    finally:
        stage.close()
    state = "failed" if meter.losses else "made"
    account: dict[str, Any] = {
        "step": link.step,
        "model": link.choice.model,
        "state": state,
        "seconds": round(meter.seconds, 3),
        "warnings": meter.warnings,
        "losses": [{"what": loss.what, "why": loss.why} for loss in meter.losses],
    }
    manifest["stages"].append(account)
    described = [execution.folder.describe(p, kind) for p, kind in meter.artefacts.items()]
    manifest["artefacts"] += described
    watch.ended(link.name, state, meter)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
