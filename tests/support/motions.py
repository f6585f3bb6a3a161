"""Clips and exact flows for the tests of flow and action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.contract import Actions, Context, Frames, Motion, Stage
from pipeline.contract.stage import find, options_of
from tests.support.scenes import Truth

Image = np.ndarray
Pair = tuple[np.ndarray, np.ndarray]
"""Flow [H, W, 2] and confidence [H, W]."""


def opened(step: str, name: str, report: Any = None, **options: Any) -> Stage[Any]:
    """A model ready to work."""
    stage = find(step, name)(options_of(step, name)(**options))
    stage.open(Context(report=report) if report else Context())
    return stage


def clip_of(
    images: np.ndarray, pts_ns: np.ndarray | None = None, shot: int = 0, overlap: int = 0
) -> Frames:
    """A clip of images, 10 a second where no times are given."""
    count = len(images)
    times = np.arange(count) * 100_000_000 if pts_ns is None else pts_ns
    return Frames(
        clip=f"film/{times[0]}-{times[-1]}",
        images=np.ascontiguousarray(images),
        pts_ns=np.asarray(times, np.int64),
        index=np.arange(count),
        sharpness=np.ones(count, np.float32),
        shot=shot,
        overlap=overlap,
    )


def texture(height: int, width: int, seed: int = 0) -> Image:
    """Smooth noise that a flow can hold on to, RGB."""
    rng = np.random.default_rng(seed)
    fine = rng.normal(size=(height + 16, width + 16))
    kernel = np.hanning(9) / np.hanning(9).sum()
    for axis in (0, 1):
        fine = np.apply_along_axis(np.convolve, axis, fine, kernel, "valid")
    fine = fine[:height, :width]
    gray = np.clip(128 + 45 * fine / fine.std(), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def exact_pairs(truth: Truth) -> list[Pair]:
    """The true flow of every pair, trusted wherever the point stays visible."""
    pairs = []
    for i in range(len(truth) - 1):
        flow, visible = truth.flow_and_visible(i)
        pairs.append((flow, visible.astype(np.float32)))
    return pairs


def parcels(
    pairs: list[Pair],
    pts_ns: np.ndarray,
    *,
    length: int = 9,
    overlap: int = 1,
    shot: int = 0,
) -> Iterator[tuple[Frames, Motion]]:
    """Cut pairs into clips of `length` frames that share `overlap` frames."""
    height, width = pairs[0][1].shape
    image = texture(height, width)
    first, count = 0, len(pairs) + 1
    while True:
        last = min(first + length, count)
        times = pts_ns[first:last]
        shared = overlap if first else 0
        frames = clip_of(np.repeat(image[None], last - first, axis=0), times, shot, shared)
        part = pairs[first : last - 1]
        flow = np.stack([p[0] for p in part]) if part else np.zeros((0, height, width, 2))
        trust = np.stack([p[1] for p in part]) if part else np.zeros((0, height, width))
        yield (
            frames,
            Motion(
                clip=frames.clip,
                flow=flow.astype(np.float32),
                confidence=trust.astype(np.float32),
            ),
        )
        if last == count:
            return
        first = last - overlap


def told(stage: Stage[Any], stream: Iterator[tuple[Frames, Motion]]) -> Actions:
    """Everything that action/motion says of a stream."""
    parts = [stage.process(frames, motion) for frames, motion in stream]
    parts.append(stage.finish())
    return Actions.concat([part for part in parts if part is not None])


def rows(actions: Actions, kind: str) -> list[tuple[str, float, float]]:
    """Label, start and end in seconds of one kind."""
    table = zip(actions.label, actions.kind, actions.start_ns, actions.end_ns, strict=True)
    return [(label, a / 1e9, b / 1e9) for label, of, a, b in table if of == kind]


def overlap_of(first: tuple[str, float, float], second: tuple[str, float, float]) -> float:
    """Intersection over union in time."""
    shared = min(first[2], second[2]) - max(first[1], second[1])
    return max(shared, 0.0) / (max(first[2], second[2]) - min(first[1], second[1]))


def found(actions: Actions, truth: Truth) -> list[tuple[str, str, float]]:
    """For each true segment: its label, that of the best match in time, and their overlap."""
    answer = []
    for segment in truth.segments:
        kind = "object" if segment[0] == "object-moving" else "camera"
        said = rows(actions, kind) or [("nothing", -1.0, 0.0)]
        best = max(said, key=lambda row: overlap_of(row, segment))
        answer.append((segment[0], best[0], overlap_of(best, segment)))
    return answer
