"""Fit the cost model of a chain from two profiles on this machine.

A short video runs through the chain at two sizes (`pipeline.capacity.profiler`), which separates
the part of a cost that depends on the size. The video is synthetic unless one is given; what a
sampler selects, and so the cost of a second of video, depends on its content.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.capacity.cost_model import (
    Costs,
    FilmCosts,
    LinearCost,
    OutputSize,
    RuntimeCosts,
    StageCosts,
)
from pipeline.capacity.profiler import Profile, StageProfile, profile_run
from pipeline.config import RunConfig
from pipeline.contract import Probe
from pipeline.errors import UsageError

__all__ = ["costs_of", "make_film", "measure"]

START = """
import resource, sys
import ray, pipeline.cluster.stage_actor
from pipeline.contract.stage import Context, find, options_of
for word in sys.argv[1:]:
    step, model = word.split("/")
    stage = find(step, model)(options_of(step, model)())
    stage.fetch()
    if step not in ("export", "report"):
        stage.open(Context())
"""
"""What a worker does until it is up, in a process of its own: imports are paid once a process."""


def make_film(path: Path, *, width: int, height: int, fps: float, seconds: float) -> None:
    """Film a textured wall from a hand that wanders, with some grain; H.264.

    Args:
        path: An .mp4 file to write.
        width: px, even.
        height: px, even.
        fps: Frames a second.
        seconds: How long.
    """
    import av

    rng = np.random.default_rng(0)
    tall, wide = height + 256, width + 256
    wall = sum(
        np.kron(rng.random((tall // cell + 1, wide // cell + 1, 3)), np.ones((cell, cell, 1)))[
            :tall, :wide
        ]
        * weight
        for cell, weight in ((64, 110.0), (16, 70.0), (4, 40.0))
    )
    wall = np.asarray(wall, np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=round(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast", "g": "60"}
        for number in range(round(fps * seconds)):
            t = number / fps
            x = int(128 + 110 * np.sin(0.9 * t) + 10 * np.sin(5 * t))
            y = int(128 + 90 * np.sin(0.7 * t + 1) + 8 * np.sin(6 * t))
            image = np.ascontiguousarray(wall[y : y + height, x : x + width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def measure(
    config: RunConfig, film: Path, small: Path, *, alone: bool, runtime: RuntimeCosts | None = None
) -> Costs:
    """Run the chain on a video in two sizes; return the costs of its stages.

    Args:
        config: The chain and its options.
        film: The video.
        small: The same in a smaller size, or another; where it is as large, costs are taken to be
            proportional to the pixels.
        alone: A run has this stream only: its decoder may have all threads.
        runtime: What Ray and the driver add, where it is known.

    Raises:
        Reel3dError: The video cannot be used, or a stage fails on it.
    """
    with tempfile.TemporaryDirectory(prefix="reel3d-plan-") as folder:
        # The first run loads libraries and compiles: it is thrown away.
        profile_run(config, small, Path(folder) / "warm", alone=alone)
        less = profile_run(config, small, Path(folder) / "small", alone=alone)
        more = profile_run(config, film, Path(folder) / "full", alone=alone)
    decode = config.choices[0].name
    return costs_of(
        less, more, config, runtime or RuntimeCosts(), lambda name: _start_s(name, decode)
    )


def costs_of(
    less: Profile,
    more: Profile,
    config: RunConfig,
    runtime: RuntimeCosts,
    starts: Callable[[str], float],
) -> Costs:
    """Fit the cost model to the profiles of two videos.

    Args:
        less: Profile of the smaller video.
        more: What the larger one took.
        config: Their chain.
        runtime: What Ray and the driver add.
        starts: Gives the CPU seconds of the start of a stage's worker.
    """
    probe = more.probe
    fps = probe.fps or 0.0
    more_s, less_s = (_length_s(trial.probe, config) for trial in (more, less))
    if not (more.clips and fps and more_s):
        raise UsageError(
            "the costs cannot be measured on a video with unknown duration or frame rate; give "
            "another one with --like FILM"
        )
    head = next(name for name in more.stages if name.startswith("sample/"))
    stages: dict[str, StageCosts] = {}
    for name, spent in more.stages.items():
        other = less.stages.get(name, StageProfile())
        if name == head:
            frames = less_s * (less.probe.fps or 0.0), more_s * fps
            pixels = [p.source_width * p.source_height / 1e6 for p in (less.probe, probe)]
        else:
            frames = less.frames, more.frames
            pixels = [p.width * p.height / 1e6 for p in (less.probe, probe)]
        at = (pixels[0], pixels[1])
        delivered = more.frames * probe.width * probe.height
        stages[name] = StageCosts(
            clip=_law((other.clip_s, spent.clip_s), frames, at),
            end=_law((other.end_s, spent.end_s), frames, at),
            start_s=starts(name),
            width=min(max(1.0, spent.clip_s / max(spent.wall_s, 1e-9)), 1024.0),
            makes={
                kind: OutputSize(
                    share=min(1.0, count / more.clips), per_pixel_bytes=size / delivered
                )
                for kind, (count, size) in spent.made.items()
            },
            ends={
                kind: OutputSize(per_pixel_bytes=size / delivered)
                for kind, size in spent.ended.items()
            },
        )
    side = getattr(config.choices[0].options, "max_side", max(probe.width, probe.height))
    film = FilmCosts(
        width=probe.source_width,
        height=probe.source_height,
        fps=fps,
        clip_s=more_s / more.clips,
        clip_frames=more.frames / more.clips,
        max_side=side,
    )
    return Costs(made_on=_machine(), film=film, runtime=runtime, stages=stages)


def _length_s(probe: Probe, config: RunConfig) -> float:
    """Return the seconds of a video that were decoded."""
    options = config.choices[0].options
    until_s = getattr(options, "end_s", None)
    since_s = getattr(options, "start_s", 0.0)
    length_s = probe.duration_s or 0.0
    return max(0.0, (length_s if until_s is None else min(length_s, until_s)) - since_s)


def _law(
    seconds: tuple[float, float], frames: tuple[float, float], megapixels: tuple[float, float]
) -> LinearCost:
    """Return what explains both measurements: a part for each frame, and one for its pixels."""
    less, more = (s / max(n, 1e-9) for s, n in zip(seconds, frames, strict=True))
    apart = megapixels[1] - megapixels[0]
    slope = (more - less) / apart if apart > 1e-3 and less else more / max(megapixels[1], 1e-9)
    slope = min(max(0.0, slope), more / max(megapixels[1], 1e-9))
    return LinearCost(per_frame_s=max(0.0, more - slope * megapixels[1]), per_megapixel_s=slope)


def _start_s(name: str, decode: str) -> float:
    """Return the CPU seconds of a worker's start beyond those of Ray's own."""
    words = [decode, name] if name.startswith("sample/") else [name]
    bare = _child_s([])
    return max(0.0, _child_s(words) - bare)


_children: dict[tuple[str, ...], float] = {}


def _child_s(words: list[str]) -> float:
    if tuple(words) not in _children:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", START, *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        _children[tuple(words)] = spent
    return _children[tuple(words)]


def _machine() -> str:
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}"
