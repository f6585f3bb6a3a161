"""A small result made by hand for the tests of exports, report and viewer: exact and quick."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contract import (
    Actions,
    Artifact,
    Context,
    DepthMaps,
    Event,
    Frames,
    Keyframes,
    Motion,
    Points,
    Stage,
    Tracks,
    Views,
    Warn,
)
from pipeline.contract.stage import find, options_of, ports
from stages._geometry.transforms import invert, project, unproject

HEIGHT, WIDTH, COUNT = 48, 65, 12
"""Odd on purpose: 4:2:0 video wants even sides."""

K = np.array([[60.0, 0, 32.3], [0, 61.0, 24.1], [0, 0, 1]])


@dataclass
class Heard:
    """What a stage reported."""

    events: list[Event] = field(default_factory=list)

    @property
    def artifacts(self) -> dict[str, str]:
        return {e.path: e.kind for e in self.events if isinstance(e, Artifact)}

    @property
    def warnings(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Warn)]


def opened(step: str, model: str, folder: Path, **options: Any) -> tuple[Stage[Any], Heard]:
    heard = Heard()
    stage = find(step, model)(options_of(step, model)(**options))
    stage.open(Context(folder=folder, report=heard.events.append))
    return stage, heard


def export(model: str, folder: Path, parcels: Iterable[tuple[Any, ...]], **options: Any) -> Heard:
    """Run one exporter over parcels of messages, wired by type as the runner does."""
    stage, heard = opened("export", model, folder, **options)
    wires = ports(type(stage))
    try:
        for parcel in parcels:
            named = {type(message): message for message in parcel}
            wanted = {**wires.required, **wires.optional}
            arguments = {name: named[t] for name, t in wanted.items() if t in named}
            if arguments and set(wires.required) <= set(arguments):
                stage.process(**arguments)
        stage.finish()
    finally:
        stage.close()
    left = [p.name for p in folder.rglob(".writing-*")]
    assert left == [], "an exporter left a half-written file behind"
    return heard


def picture(seed: int) -> np.ndarray:
    """A smooth colorful picture: survives JPEG and H.264."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 9 + seed / 3), np.cos(y / 7 - seed / 5), np.sin((x + y) / 11)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def clips(
    count: int = COUNT, size: int = 5, flow: Callable[[int], np.ndarray] | None = None
) -> list[tuple[Frames, Motion]]:
    """Overlapping clips of irregularly timed frames; the flow of pair t is (t + 1, 0)."""
    made = []
    pts = pts_of(count)
    for first in range(0, max(count - 1, 1), size - 1):
        rows = np.arange(first, min(first + size, count))
        frames = Frames(
            clip=f"film/{rows[0]}-{rows[-1]}",
            images=np.stack([picture(int(i)) for i in rows]),
            pts_ns=pts[rows],
            index=rows * 3,
            sharpness=rows.astype(np.float32) + 0.5,
            overlap=1 if first else 0,
        )
        field = np.zeros((len(rows) - 1, HEIGHT, WIDTH, 2), np.float32)
        for n, t in enumerate(rows[:-1]):
            field[n] = flow(int(t)) if flow else (t + 1, 0)
        motion = Motion(
            clip=frames.clip, flow=field, confidence=np.ones(field.shape[:3], np.float32)
        )
        made.append((frames, motion))
    return made


def pts_of(count: int = COUNT) -> np.ndarray:
    gaps = np.where(np.arange(count) % 3 == 0, 50_000_000, 30_000_000)
    return np.cumsum(gaps) - gaps[0] + 200_000_000


def keyframes(index: Iterable[int] = (0, 9, 33)) -> Keyframes:
    index = np.array(list(index), dtype=np.int64)
    n = len(index)
    return Keyframes(
        images=np.zeros((n, HEIGHT, WIDTH, 3), np.uint8),
        pts_ns=index * 10_000_000,
        index=index,
        sharpness=np.ones(n, np.float32),
        shot=np.zeros(n, np.int32),
        parallax_px=np.ones(n, np.float32),
    )


def actions(*rows: tuple[float, float, str, str]) -> Actions:
    """Rows of (start_s, end_s, label, kind)."""
    return Actions(
        start_ns=np.array([round(r[0] * 1e9) for r in rows], np.int64),
        end_ns=np.array([round(r[1] * 1e9) for r in rows], np.int64),
        score=np.full(len(rows), 0.75, np.float32),
        label=tuple(r[2] for r in rows),
        kind=tuple(r[3] for r in rows),
        model=("action/motion",) * len(rows),
    )


def tracks(*rows: tuple[float, float, str, int]) -> Tracks:
    """Rows of (start_s, end_s, label, number)."""
    box = np.array([[r[3], 2, r[3] + 10, 20] for r in rows], np.float32).reshape(-1, 4)
    return Tracks(
        start_ns=np.array([round(r[0] * 1e9) for r in rows], np.int64),
        end_ns=np.array([round(r[1] * 1e9) for r in rows], np.int64),
        score=np.full(len(rows), 0.75, np.float32),
        label=tuple(r[2] for r in rows),
        kind=("object",) * len(rows),
        model=("segment/detection",) * len(rows),
        track=np.array([r[3] for r in rows], np.int64),
        start_box=box,
        end_box=box + 3,
    )


def poses(count: int = 6) -> np.ndarray:
    """Cameras on an arc that look at a wall about 3 away."""
    T = np.tile(np.eye(4), (count, 1, 1))
    for k, angle in enumerate(np.linspace(-0.3, 0.35, count)):
        tilt = 0.1 * k
        yaw = np.array(
            [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        )
        roll = np.array(
            [[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]]
        )
        T[k, :3, :3] = yaw @ roll
        T[k, :3, 3] = [-3 * np.sin(angle), 0.1 * k, 1 - np.cos(angle)]
    return T


def depth_maps(count: int = 6) -> DepthMaps:
    """A slanted wall; the left fifth of the first map is unknown."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    depth = np.tile((2.5 + x / WIDTH + 0.2 * y / HEIGHT).astype(np.float32), (count, 1, 1))
    depth[0, :, : WIDTH // 5] = np.nan
    return DepthMaps(depth=depth)


def views(count: int = 6, **changes: Any) -> Views:
    """Views of points that project exactly to where they were observed."""
    T = poses(count)
    rng = np.random.default_rng(0)
    world = unproject(np.full((HEIGHT, WIDTH), 3.0), K, T[0])
    points = world[rng.integers(5, HEIGHT - 5, 80), rng.integers(5, WIDTH - 5, 80)]
    seen: list[tuple[int, int, np.ndarray]] = []
    for k in range(count):
        uv, z = project(points, K, invert(T[k]))
        inside = (z > 0) & (uv > 0).all(axis=1) & (uv < [WIDTH, HEIGHT]).all(axis=1)
        seen += [(int(p), k, uv[p]) for p in np.flatnonzero(inside)]
    values: dict[str, Any] = {
        "images": np.stack([picture(k) for k in range(count)]),
        "pts_ns": pts_of(count),
        "index": np.arange(count) * 7,
        "intrinsics": np.tile(K, (count, 1, 1)),
        "T_world_camera": T,
        "points": points.astype(np.float32),
        "points_rgb": rng.integers(0, 256, (80, 3), np.uint8),
        "points_error_px": np.full(80, 0.25, np.float32),
        "observed_point": np.array([s[0] for s in seen], np.int32),
        "observed_view": np.array([s[1] for s in seen], np.int32),
        "observed_xy": np.array([s[2] for s in seen], np.float32),
        "candidates": count,
        "scale": "metric",
    }
    return Views(**{**values, **changes})


def points(mesh: bool = True, **changes: Any) -> Points:
    """The wall of the first depth map as a cloud of one point a pixel, and as triangles."""
    T = poses()[0]
    depth = np.asarray(depth_maps().depth[1], dtype=np.float64)
    xyz = unproject(depth, K, T).reshape(-1, 3).astype(np.float32)
    towards = T[:3, 3] - xyz
    normals = (towards / np.linalg.norm(towards, axis=1, keepdims=True)).astype(np.float32)
    rgb = picture(0).reshape(-1, 3)
    values: dict[str, Any] = {"xyz": xyz, "rgb": rgb, "normals": normals, "voxel_size": 0.04}
    if mesh:
        at = np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH)
        a, b, c = at[:-1, :-1].ravel(), at[:-1, 1:].ravel(), at[1:, :-1].ravel()
        values |= {
            "vertices": xyz,
            "vertices_rgb": rgb,
            "vertices_normals": normals,
            "triangles": np.stack([a, c, b], axis=1),
        }
    return Points(**{**values, **changes})
