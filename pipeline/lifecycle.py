"""One run of one source: folder, plan, runner, report, manifest."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.chain import NAMES, Chain, wire
from pipeline.config import RunConfig
from pipeline.contract import Loss, Probe, RunSummary, Source
from pipeline.errors import OutputError, Reel3dError, SourceError
from pipeline.local import LocalRunner
from pipeline.sources import cache as fetch
from pipeline.storage import PlannedStage, RunFolder, fingerprint
from pipeline.storage.plan import plan
from pipeline.telemetry import Meter, ProgressListener, peak_memory_bytes
from pipeline.version import version
from pipeline.weights import licenses, sha256_of

__all__ = ["PreparedRun", "RunResult", "build_manifest", "finalize", "prepare", "release", "run"]

log = logging.getLogger(__name__)

LIBRARIES = ("av", "numpy", "numba", "open3d", "opencv-python-headless", "pycolmap", "scipy")


@dataclass(frozen=True)
class RunResult:
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


@dataclass(eq=False)
class PreparedRun:
    """A run whose folder is open and whose work is planned."""

    source: Source
    source_hash: str
    config: RunConfig
    chain: Chain
    folder: RunFolder
    planned_stages: list[PlannedStage]
    done: RunResult | None
    """How it ended, where an earlier run had done all of it."""
    started: str
    began: float


def prepare(source: Source, config: RunConfig, out: Path, *, resume: bool = False) -> PreparedRun:
    """Open the run folder and plan what is to be done; `release` must follow, whatever happens.

    Args:
        source: What to read.
        config: Resolved for this source.
        out: The run folder; must not exist or be empty, unless `resume`.
        resume: Do only what is missing in `out`, or what other options outdate.

    Raises:
        UsageError: The configuration or the output folder is wrong, or the disk is full.
        SourceError: The source cannot be used.
    """
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    began = time.perf_counter()
    chain = wire(config.choices)
    for link in (*chain.head, *chain.body):
        # Weights that cannot be had are reported before anything is made.
        stage = link.stage(link.choice.options)
        for weights in stage.weights:
            licenses.check(weights, link.name)
        stage.fetch()
    source_hash = _identity(source)
    folder = RunFolder.create(out, resume=resume)
    try:
        _same_source(folder, source, source_hash)
        planned_stages = plan(chain, folder, source_hash, config.run.seed)
        outdated = [planned.name for planned in planned_stages if planned.outdated]
        if folder.has_old_names and outdated:
            log.warning(
                "%s was made before names of options changed: these begin again, with what they "
                "need: %s",
                folder.path,
                ", ".join(outdated),
            )
        tree = config.as_tree()
        finished = folder.manifest()
        same = finished is not None and finished.get("config") == tree
        done = None
        if (
            finished is not None
            and same
            and all(planned.action == "skip" for planned in planned_stages)
        ):
            done = RunResult(folder.path, finished["exit_code"], finished, did_nothing=True)
        else:
            folder.write_facts({**folder.facts(), "source": source_hash, "shown": source.shown})
            folder.begin(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    except BaseException:
        folder.close()
        raise
    return PreparedRun(
        source, source_hash, config, chain, folder, planned_stages, done, started, began
    )


def release(prepared: PreparedRun, error: BaseException | None = None) -> None:
    """Let go of the run folder; one that was made for a source that is none is removed."""
    if isinstance(error, SourceError) and prepared.folder.fresh:
        shutil.rmtree(prepared.folder.path, ignore_errors=True)
    prepared.folder.close()


def build_manifest(prepared: PreparedRun, probe: Probe | None, peak_bytes: int) -> dict[str, Any]:
    """Write the tables once every stage has ended; return the manifest without the report."""
    folder, planned_stages, source = prepared.folder, prepared.planned_stages, prepared.source
    probed = probe.as_dict() if probe else folder.facts().get("probe", {})
    folder.write_facts({"probe": probed, "source": prepared.source_hash, "shown": source.shown})
    stages = [_account(planned) for planned in planned_stages]
    manifest: dict[str, Any] = {
        "product": {"name": "reel3d", "version": version()},
        "versions": _versions(),
        "source": {"shown": source.shown, "fingerprint": prepared.source_hash, **probed},
        "preset": prepared.config.preset,
        "config": prepared.config.as_tree(),
        "started": prepared.started,
        "seconds": round(time.perf_counter() - prepared.began, 3),
        "peak_memory_bytes": peak_bytes,
        "stages": stages,
        "left_out": prepared.chain.left_out,
        "artifacts": [a for planned in planned_stages for a in _artifacts(planned, folder)],
    }
    manifest["exit_code"] = 4 if any(stage["losses"] for stage in stages) else 0
    _write_tables(folder, planned_stages)
    manifest["artifacts"] += [
        folder.describe("config.yaml", "configuration"),
        folder.describe("metrics.jsonl", "metrics"),
        folder.describe("errors.jsonl", "errors"),
    ]
    return manifest


def finalize(
    prepared: PreparedRun,
    manifest: dict[str, Any],
    report: Meter | None,
    listener: ProgressListener,
) -> RunResult:
    """Write the manifest, with the meter of the report: the run is complete."""
    link = prepared.chain.report
    if link is not None and report is not None:
        state = "failed" if report.losses else "made"
        manifest["stages"].append(
            {
                "step": link.step,
                "model": link.choice.model,
                "state": state,
                "seconds": round(report.seconds, 3),
                "warnings": report.warnings,
                "losses": [{"what": loss.what, "why": loss.why} for loss in report.losses],
            }
        )
        described = [prepared.folder.describe(p, kind) for p, kind in report.artifacts.items()]
        manifest["artifacts"] += described
        if report.losses:
            manifest["exit_code"] = 4
        listener.on_stage_end(link.name, state, report)
    prepared.folder.write_json("manifest.json", manifest)
    return RunResult(prepared.folder.path, manifest["exit_code"], manifest)


def run(
    source: Source,
    config: RunConfig,
    out: Path,
    listener: ProgressListener,
    *,
    resume: bool = False,
) -> RunResult:
    """Turn one source into a run folder with the local runner; see `prepare` for the arguments.

    Raises:
        UsageError: The configuration or the output folder is wrong, or the disk is full.
        SourceError: The source cannot be used; a folder made for it is removed again.
    """
    prepared = prepare(source, config, out, resume=resume)
    try:
        if prepared.done is not None:
            return prepared.done
        copy = fetch.local(
            source, lambda done, whole: listener.on_progress("fetch", done, whole or done, "")
        )
        execution = LocalRunner(
            prepared.planned_stages, copy, prepared.folder, config.run, listener
        )
        execution.run()
        peak_bytes = peak_memory_bytes() + execution.workers_peak_bytes
        manifest = build_manifest(prepared, execution.probe, peak_bytes)
        report = _report(prepared.chain, execution, manifest, listener)
        return finalize(prepared, manifest, report, listener)
    except SourceError as error:
        release(prepared, error)
        raise
    finally:
        release(prepared)


def _identity(source: Source) -> str:
    if fetch.is_remote(source.uri):
        return fetch.fingerprint(source)
    path = Path(source.uri)
    try:
        # A pipe or a device would block here for ever; whether it is allowed, decode says.
        return fingerprint(path) if path.is_file() or path.is_dir() else source.shown
    except OSError as error:
        raise SourceError(f"{source.shown} cannot be read: {error.strerror}") from None


def _same_source(folder: RunFolder, source: Source, source_hash: str) -> None:
    """Refuse to replace the results of one video by those of another."""
    facts = folder.facts()
    if facts.get("source", source_hash) != source_hash:
        raise OutputError(
            f"{folder.path} was made from {facts.get('shown')}, and {source.shown} is not the same "
            "(or was changed since); choose another folder with --out"
        )


def _account(planned: PlannedStage) -> dict[str, Any]:
    meter = planned.meter
    stage = planned.link.stage(planned.link.choice.options)
    weights = [
        {"id": one.id, "sha256": sha256_of(one), **licenses.describe(one)} for one in stage.weights
    ]
    account: dict[str, Any] = {
        "step": planned.link.step,
        "model": planned.link.choice.model,
        "state": planned.state,
        "device": stage.device,
        "weights": weights or "none",
        "items": meter.items,
        "seconds": round(meter.seconds, 3),
        "warnings": meter.warnings,
        "losses": [{"what": loss.what, "why": loss.why} for loss in meter.losses],
        "metrics": meter.metrics,
    }
    if planned.state == "skipped":
        lacking = [NAMES[t] for t in planned.link.ports.required.values() if t in NAMES]
        account["skipped"] = f"there is nothing to read: no {' or '.join(lacking)}"
    return account


def _artifacts(planned: PlannedStage, folder: RunFolder) -> list[dict[str, Any]]:
    if planned.entry is not None and planned.action != "run":
        return planned.entry.artifacts
    entry = folder.entries.get(planned.name)
    if entry is not None:
        return entry.artifacts
    return [folder.describe(path, kind) for path, kind in planned.meter.artifacts.items()]


def _write_tables(folder: RunFolder, planned_stages: list[PlannedStage]) -> None:
    rows: list[dict[str, Any]] = []
    for planned in planned_stages:
        row = {
            "stage": planned.name,
            "items": planned.meter.items,
            "seconds": round(planned.meter.seconds, 3),
        }
        rows.append({**row, **planned.meter.metrics})
    folder.write_jsonl("metrics.jsonl", rows)
    losses = [
        {"stage": planned.name, **asdict(loss)}
        for planned in planned_stages
        for loss in planned.meter.losses
    ]
    folder.write_jsonl("errors.jsonl", losses)


def _report(
    chain: Chain, execution: LocalRunner, manifest: dict[str, Any], listener: ProgressListener
) -> Meter | None:
    """Make the report; it is made again each time, since it shows everything else."""
    link = chain.report
    if link is None:
        return None
    meter = Meter()
    listener.on_stage_start(link.name)
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
    finally:
        stage.close()
    return meter


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
