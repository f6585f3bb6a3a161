"""Hold a run folder against the exact truth of the film that it was made from.

Everything is read from the files that a user gets, in their public formats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import pyarrow.parquet as pq

from tests.support.scenes import (
    CloudScore,
    SpanScore,
    TrajectoryError,
    Truth,
    cloud_score,
    depth_error,
    flow_error,
    span_score,
    trajectory_error,
    true_cloud,
)

CLOUD_THRESHOLD_M = 0.05
CLOUD_FRAMES = 12
"""How many keyframes say which part of the room can be seen at all."""


@dataclass(frozen=True)
class Verdict:
    """How good a run is; None where the run has no such part."""

    flow_epe_px: float | None
    keyframes_posed: float | None
    """Share of the keyframes that got a pose."""
    trajectory: TrajectoryError | None
    depth_abs_rel: float | None
    depth_known: float | None
    cloud: CloudScore | None
    camera: SpanScore | None
    objects: SpanScore | None


def judge(folder: Path, truth: Truth) -> Verdict:
    """Compare flow, poses, depth, cloud and events with the truth; poses after a Sim3 fit."""
    views = _views(folder)
    frames = pq.read_table(folder / "frames.parquet").to_pydict()
    tried = sum(frames["keyframe"])
    trajectory = depth = cloud = None
    if views:
        indices = [i for i, _ in views]
        poses = np.stack([T for _, T in views])
        whole = np.linalg.norm(np.diff(truth.T_world_camera[:, :3, 3], axis=0), axis=1).sum()
        trajectory = trajectory_error(poses, truth.T_world_camera[indices], length_m=float(whole))
        depth = _depth(folder, truth, indices, trajectory.alignment.scale)
        cloud = _cloud(folder, truth, indices, trajectory)
    spans = [(e["kind"], (e["label"], e["start_s"], e["end_s"])) for e in _events(folder)]
    moving = [s for s in truth.segments if s[0] == "object-moving"]
    filmed = [s for s in truth.segments if s[0] != "object-moving"]
    return Verdict(
        flow_epe_px=_flow(folder, truth, frames["index"]),
        keyframes_posed=len(views) / tried if tried else None,
        trajectory=trajectory,
        depth_abs_rel=depth[0] if depth else None,
        depth_known=depth[1] if depth else None,
        cloud=cloud,
        camera=span_score([s for kind, s in spans if kind == "camera"], filmed),
        objects=span_score([s for kind, s in spans if kind == "object"], moving),
    )


def _events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def _views(folder: Path) -> list[tuple[int, np.ndarray]]:
    """Read (source frame, pose in OpenCV axes) of each view from transforms.json."""
    path = folder / "transforms.json"
    if not path.is_file():
        return []
    frames = json.loads(path.read_text())["frames"]
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    found = [(int(Path(f["file_path"]).stem), np.array(f["transform_matrix"])) for f in frames]
    return sorted((index, T @ flip) for index, T in found) if found else []


def _flow(folder: Path, truth: Truth, sampled: Sequence[int]) -> float | None:
    files = sorted((folder / "flow").glob("*.flo"))
    errors: list[tuple[float, int]] = []
    after = dict(pairwise(sampled))
    for file in files:
        i = int(file.stem)
        true, visible = truth.flow_and_visible(i, after[i])
        estimated = cv2.readOpticalFlow(str(file))
        valid = visible & (np.abs(estimated) < 1e8).all(axis=-1)
        errors.append((flow_error(estimated, true, valid).epe_px, int(valid.sum())))
    if not errors:
        return None
    epe, pixels = zip(*errors, strict=True)
    return float(np.average(epe, weights=pixels))


def _depth(
    folder: Path, truth: Truth, indices: list[int], scale: float
) -> tuple[float, float] | None:
    """Return AbsRel off the moving object and the share of known pixels."""
    if not (folder / "depth" / "scale.json").is_file():
        return None
    step = json.loads((folder / "depth" / "scale.json").read_text())["unit_per_step"]
    rel, known = [], []
    for i in indices[:: max(1, len(indices) // CLOUD_FRAMES)]:
        raw = cv2.imread(str(folder / "depth" / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED)
        estimated = np.where(raw > 0, raw.astype(np.float64) * step * scale, np.nan)
        error = depth_error(estimated, truth.depth(i), ~truth.ball(i))
        rel.append(error.abs_rel)
        known.append(error.complete)
    return float(np.mean(rel)), float(np.mean(known))


def _cloud(
    folder: Path, truth: Truth, indices: list[int], trajectory: TrajectoryError
) -> CloudScore | None:
    path = folder / "points.ply"
    if not path.is_file():
        return None
    points = np.asarray(o3d.io.read_point_cloud(str(path)).points)
    chosen = indices[:: max(1, len(indices) // CLOUD_FRAMES)]
    true = true_cloud(truth, chosen, voxel_m=0.02, every=2)
    return cloud_score(trajectory.alignment(points), true, CLOUD_THRESHOLD_M)
