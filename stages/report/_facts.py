"""Reading a run folder and its manifest; missing or malformed parts do not stop the report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["EventRow", "Facts", "FrameTable", "StageSummary", "read_facts"]


@dataclass(frozen=True, slots=True)
class EventRow:
    """A line of `events.jsonl`."""

    start_s: float
    end_s: float
    label: str
    kind: str
    score: float | None
    model: str


@dataclass(frozen=True)
class StageSummary:
    """A stage's part of the manifest."""

    name: str
    state: str
    device: str
    weights: str
    license: str
    items: int
    seconds: float
    skipped: str
    warnings: list[str]
    losses: list[tuple[str, str]]
    metrics: dict[str, float]


@dataclass(frozen=True)
class FrameTable:
    """The columns of `frames.parquet` that the report plots, all of the same length."""

    pts_s: npt.NDArray[np.float64]
    sharpness: npt.NDArray[np.float64]
    motion_px: npt.NDArray[np.float64]
    """Motion of each frame in px; NaN where unknown."""
    keyframe: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Facts:
    """Content of the report."""

    folder: Path
    manifest: dict[str, Any]
    source: dict[str, Any]
    stages: list[StageSummary]
    events: list[EventRow]
    frames: FrameTable | None
    duration_s: float
    """Duration of the sampled part of the video, at least a millisecond."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Quality metrics of all stages, by name."""

    @property
    def shown(self) -> str:
        """Address of the source, with credentials masked."""
        return str(self.source.get("shown") or "unknown source")

    @property
    def title(self) -> str:
        """Name of the source: the last part of its address."""
        return self.shown.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1] or self.shown

    @property
    def losses(self) -> list[tuple[str, str, str]]:
        """Parts that could not be made, as (stage, what, why)."""
        return [(s.name, what, why) for s in self.stages for what, why in s.losses]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Warnings of all stages, as (stage, text)."""
        return [(s.name, text) for s in self.stages for text in s.warnings]


def read_facts(folder: Path, manifest: dict[str, Any]) -> Facts:
    """Read the manifest's parts and the tables of the folder; broken ones count as absent."""
    source = _dict(manifest.get("source"))
    source = {**_dict(source.get("probe")), **source}
    stages = [_stage(_dict(row)) for row in _list(manifest.get("stages"))]
    events = _events(folder / "events.jsonl")
    frames = _frames(folder / "frames.parquet")
    ends = [event.end_s for event in events]
    if frames is not None and len(frames.pts_s):
        ends.append(float(frames.pts_s[-1]))
    if not ends:
        ends.append(_number(source.get("duration_s")))
    metrics: dict[str, float] = {}
    for stage in stages:
        metrics |= stage.metrics
    duration_s = max(0.001, *ends, 0.001)
    return Facts(folder, manifest, source, stages, events, frames, duration_s, metrics)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if real and math.isfinite(value) else 0.0


def _stage(row: dict[str, Any]) -> StageSummary:
    metrics = {
        str(name): float(value)
        for name, value in _dict(row.get("metrics")).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    losses = [
        (str(_dict(loss).get("what", "")), str(_dict(loss).get("why", "")))
        for loss in _list(row.get("losses"))
    ]
    weights = [_dict(one) for one in _list(row.get("weights"))]
    licenses = sorted({str(one.get("license", "")) for one in weights})
    return StageSummary(
        name=f"{row.get('step', '?')}/{row.get('model', '?')}",
        state=str(row.get("state", "")),
        device=str(row.get("device", "")),
        weights=", ".join(str(one.get("id", "")) for one in weights) or "none",
        license=", ".join(licenses),
        items=int(_number(row.get("items"))),
        seconds=_number(row.get("seconds")),
        skipped=str(row.get("skipped", "")),
        warnings=[str(text) for text in _list(row.get("warnings"))],
        losses=losses,
        metrics=metrics,
    )


def _events(path: Path) -> list[EventRow]:
    try:
        with path.open(encoding="utf-8") as lines:
            return list(_event_rows(lines))
    except (OSError, UnicodeDecodeError):
        return []


def _event_rows(lines: Iterable[str]) -> Iterator[EventRow]:
    for line in lines:
        try:
            row = _dict(json.loads(line))
        except ValueError:
            continue
        start_s, end_s = _number(row.get("start_s")), _number(row.get("end_s"))
        score = row.get("score")
        # Interned, since a video of hours has many events with few distinct names.
        yield EventRow(
            start_s=start_s,
            end_s=max(start_s, end_s),
            label=intern(str(row.get("label", ""))),
            kind=intern(str(row.get("kind", "action"))),
            score=None if score is None else _number(score),
            model=intern(str(row.get("model", ""))),
        )


def _frames(path: Path) -> FrameTable | None:
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, columns=["pts_s", "sharpness", "motion_px", "keyframe"])
    except (OSError, pa.ArrowException, KeyError):
        return None

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)

    keyframe = np.asarray(table["keyframe"].to_numpy(zero_copy_only=False), dtype=bool)
    return FrameTable(column("pts_s"), column("sharpness"), column("motion_px"), keyframe)
