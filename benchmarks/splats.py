"""Splats on the CPU: quality for a budget of CPU time, on a rendered room and on real photographs.

    python -m benchmarks.splats room [SECONDS ...]    rendered, 30 training views of 320x180
    python -m benchmarks.splats fox [SECONDS ...]     21 training photographs of 270x480
    python -m benchmarks.splats threads               one thread against two, same steps
    python -m benchmarks.splats clips [NAME ...]      real clips, with what `reel3d run` estimates

Seconds are of CPU time on one thread. Every 8th view is held out. "cloud" is what one gets without
training: the point cloud's own colors drawn into the held-out views, holes closed with the
nearest color.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.paths import DATA

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

from benchmarks.pose import keyframes_of
from pipeline.cli.main import main as reel3d
from pipeline.contract import Context, Points, Views
from pipeline.contract.stage import find, options_of
from pipeline.storage import STATE, RunFolder
from stages._geometry.transforms import invert, project, scale_intrinsics
from stages._rendering.point_renderer import splat as draw_discs
from stages.splat._cpu import CpuBackend
from stages.splat._initial import initial_gaussians, scene_points
from stages.splat._options import TrainingOptions
from stages.splat._schedule import Budget
from stages.splat._session import scene_scale, usual_count
from stages.splat._train import Trainer
from stages.splat._training_views import HELD_OUT_EVERY, TrainingViews
from tests.support.posed import posed_views
from tests.support.scenes import film
from tests.support.scenes.paths import Segment

CLIPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "apple": ("sfm-clips-cotracker/apple.mp4", ()),
    "ramen": ("sfm-clips-anysplat/fillerbuster_ramen.mp4", ()),
    "horns": ("sfm-clips-anysplat/llff_horns.mp4", ()),
    "fox": ("sfm-fox/images", ("sample.model=dense", "keyframe.model=every")),
    "kitchen": ("rgbd-redkitchen-a", ()),
}
UP_TO_CLOUD = ("splat.model=none", "export.splats=none", "export.splat_video=none")
UP_TO_CLOUD += ("export.held_out=none",)


def room(seed: int = 0) -> Views:
    """35 views of a room, 320x180, with 10,000 points on its surfaces, noise 2 cm."""
    side, back = (("right", "left"), ("left", "right"))[seed % 2]
    path = [(f"truck-{side}", 2.2), (f"pan-{back}", 1.2), ("dolly-in", 1.8)]
    path += [(f"truck-{back}", 2.2), ("dolly-out", 1.6)]
    truth = film([Segment(*part) for part in path], seed, width=320, height=180, fps=10)
    frames = np.linspace(0, len(truth) - 1, 35).round().astype(int).tolist()
    parts = [truth.points(i, every=4) for i in frames]
    rng = np.random.default_rng(7)
    xyz, rgb = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    rows = rng.choice(len(xyz), 10_000, replace=False)
    noisy = xyz[rows] + rng.normal(0, 0.02, (len(rows), 3))
    return _with_points(posed_views(truth, frames, points=False), noisy, rgb[rows])


def _with_points(views: Views, xyz: Any, rgb: Any) -> Views:
    return replace(
        views,
        points=xyz.astype(np.float32),
        points_rgb=rgb,
        points_error_px=np.zeros(len(xyz), np.float32),
        observed_point=np.zeros(0, np.int32),
        observed_view=np.zeros(0, np.int32),
        observed_xy=np.zeros((0, 2), np.float32),
    )


def fox() -> Views:
    """The fox with the poses that came with it, its points triangulated from them, 270x480."""
    context = Context(threads=2)
    keyframes, _ = keyframes_of(str(DATA / "sfm-fox"), context, sample="dense", keyframe="every")
    stage = find("pose", "given")(options_of("pose", "given")())
    stage.open(context)
    views: Views = stage.process(keyframes)
    stage.close()
    height, width = views.images.shape[1:3]
    size = (270, 480)
    images = [cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in views.images]
    K = [scale_intrinsics(K, size[0] / width, size[1] / height) for K in views.intrinsics]
    return replace(views, images=np.stack(images), intrinsics=np.stack(K))


def train(
    views: Views,
    seconds: float,
    *,
    points: Points | None = None,
    threads: int = 1,
    steps: int | None = None,
    clock: Callable[[], float] = time.process_time,
) -> tuple[Trainer, dict[str, float]]:
    """Train by CPU time (or by steps) as `splat/cpu` does; return what came out."""
    options = TrainingOptions()
    backend = CpuBackend(threads)
    training_views = TrainingViews(views, options.largest_px, "cpu")
    most = usual_count(training_views)
    xyz, rgb = scene_points(views, points, most, 0)
    began = clock()
    trainer = Trainer(
        backend,
        training_views,
        initial_gaussians(xyz, rgb, options.degree, "cpu"),
        options,
        scale=scene_scale(views, xyz),
        budget=Budget(steps, seconds, clock),
        most=most,
        limit=most,
        seed=0,
        warn=print,
    )
    trainer.run()
    spent = clock() - began
    psnr, ssim = trainer.measure(training_views.held_out)
    backend.close()
    found = {"steps": trainer.step, "splats": trainer.count, "PSNR": psnr, "SSIM": ssim}
    return trainer, {**found, "spent_s": spent}


def cloud_psnr(views: Views, points: Points | None) -> float:
    """Return the PSNR in dB of the colored cloud in the held-out views."""
    xyz, rgb = (views.points, views.points_rgb) if points is None else (points.xyz, points.rgb)
    errors = []
    for number in range(0, len(views.images), HELD_OUT_EVERY):
        image = views.images[number]
        uv, z = project(xyz, views.intrinsics[number], invert(views.T_world_camera[number]))
        depth = np.full(image.shape[:2], np.inf, np.float32)
        index = np.full(image.shape[:2], -1, np.int32)
        radius = np.full(len(z), 1.0, np.float32)
        draw_discs(uv.astype(np.float32), z.astype(np.float32), radius, depth, index)
        hole = (index < 0).astype(np.uint8)
        _, nearest = cv2.distanceTransformWithLabels(
            hole, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        owner = np.zeros(nearest.max() + 1, np.int64)
        owner[nearest[hole == 0]] = index[hole == 0]
        drawn = rgb[owner[nearest]].astype(np.float64)
        errors.append(-10 * np.log10(np.mean((drawn / 255 - image / 255) ** 2)))
    return float(np.mean(errors))


def by_budget(name: str, views: Views, budgets: list[float]) -> None:
    """Print a row a budget."""
    train(views, 1e9, steps=3)
    print(f"{name}: cloud {cloud_psnr(views, None):.1f} dB")
    print("| CPU-s | steps | splats | held-out PSNR dB | SSIM |\n|---|---|---|---|---|")
    for seconds in budgets:
        _, found = train(views, seconds)
        print(
            f"| {seconds:g} | {found['steps']} | {found['splats']} | {found['PSNR']:.2f} "
            f"| {found['SSIM']:.3f} |",
            flush=True,
        )


def by_threads(views: Views, steps: int = 800) -> None:
    """Print how much faster two threads are, in wall time, and that the results are equal."""
    times: dict[int, list[float]] = {1: [], 2: []}
    means = {}
    for _ in range(3):
        for threads in times:
            trainer, found = train(
                views, 1e9, threads=threads, steps=steps, clock=time.perf_counter
            )
            times[threads].append(found["spent_s"])
            means[threads] = trainer.gaussians["means"].detach().numpy()
    assert np.array_equal(means[1], means[2])
    one, two = min(times[1]), min(times[2])
    print(f"{steps} steps: 1 thread {one:.1f} s, 2 threads {two:.1f} s: {one / two:.2f} x")


def by_clip(budgets: list[float], names: list[str]) -> None:
    """Print a row a clip: cameras and cloud straight from the command, then the training."""
    heads = " | ".join(f"PSNR / SSIM at {b:g} CPU-s (steps)" for b in budgets)
    print(f"| clip | views | size | cloud dB | {heads} |\n" + "|---" * (4 + len(budgets)) + "|")
    with tempfile.TemporaryDirectory(prefix="reel3d-splats-") as folder:
        for name in names:
            path, words = CLIPS[name]
            out = Path(folder) / name
            reel3d(["run", str(DATA / path), "--out", str(out), "--quiet", *words, *UP_TO_CLOUD])
            views, points = kept(out)
            height, width = views.images.shape[1:3]
            cells = [name, f"{len(views.images)}", f"{width}x{height}"]
            cells += [f"{cloud_psnr(views, points):.1f}"]
            train(views, 1e9, steps=3)
            for seconds in budgets:
                _, found = train(views, seconds, points=points)
                cells += [f"{found['PSNR']:.2f} / {found['SSIM']:.3f} ({found['steps']})"]
            print("| " + " | ".join(cells) + " |", flush=True)


def kept(run: Path) -> tuple[Views, Points | None]:
    """Return the cameras and the cloud that a run keeps."""
    folder = RunFolder(run)
    found = {p.name.split(".")[-3]: p.name for p in (run / STATE).glob("*.npz")}
    views = folder.kept(found["Views"])
    points = folder.kept(found["Points"]) if "Points" in found else None
    assert isinstance(views, Views)
    assert points is None or isinstance(points, Points)
    return views, points


def main() -> None:
    """Run what the command line asks for."""
    torch.set_num_threads(1)
    what, *rest = sys.argv[1:] or ["room"]
    budgets = [float(word) for word in rest if word[0].isdigit()]
    if what == "clips":
        by_clip(budgets or [60.0, 300.0], [w for w in rest if w in CLIPS] or list(CLIPS))
    elif what == "threads":
        by_threads(room())
    else:
        by_budget(what, {"room": room, "fox": fox}[what](), budgets or [60.0, 120.0, 300.0])


if __name__ == "__main__":
    main()
