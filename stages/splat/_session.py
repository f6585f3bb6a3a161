"""One training run of a stage: budget, rounds, checkpoints and progress reports."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from pipeline.contract import Points, Splats, Stage, Views
from pipeline.errors import OutputError
from stages._geometry.transforms import invert, project
from stages.splat._checkpoint import key_of, read, write
from stages.splat._contract import RenderBackend
from stages.splat._initial import initial_gaussians, scene_points
from stages.splat._memory import fits
from stages.splat._options import TrainingOptions
from stages.splat._schedule import Budget
from stages.splat._train import Quality, Trainer
from stages.splat._training_views import TrainingViews

__all__ = ["Session", "scene_scale", "usual_count"]

CHECKPOINT = ".reel3d/splat.checkpoint"
CHECKPOINT_EVERY_S = 20.0
REPORT_EVERY_S = 2.0
BYTES_EACH = 1600
"""Memory of a Gaussian of degree 3 in training: 59 floats, their gradients and both moments, and
temporarily as much again when the number grows."""
A_PIXEL_OF_SIDE = 125
"""Default number of Gaussians per pixel of the image side (the root of its area). Measured at
320x180 and 640x360: half as many lose 1.2 and 0.6 dB, more only cost time."""
FEWEST, MOST = 10_000, 500_000
"""Bounds of the default number of Gaussians."""
RISES_DB = 0.1
"""With `until_best`, training ends when a round improves PSNR by less."""
Tensors = dict[str, torch.Tensor]
ROUND_FROM = 0.45
"""Share at which later rounds begin: full resolution, and growth nearly over."""


class Session:
    """Trains the Gaussians of one stream."""

    def __init__(
        self, stage: Stage[Any], backend: RenderBackend, views: Views, points: Points | None
    ) -> None:
        self._stage, self._views = stage, views
        self._options: TrainingOptions = stage.config
        options, seed = self._options, stage.context.seed
        training_views = TrainingViews(views, options.largest_px, backend.device)
        most, limit = self._most(training_views, backend.free_bytes)
        xyz, rgb = scene_points(views, points, most, seed)
        self.trainer = Trainer(
            backend,
            training_views,
            initial_gaussians(xyz, rgb, options.degree, backend.device),
            options,
            scale=scene_scale(views, xyz),
            budget=Budget(options.steps, options.seconds),
            most=most,
            limit=limit,
            seed=seed,
            warn=stage.warn,
        )
        folder = stage.context.folder
        scene = [views.images, views.intrinsics, views.T_world_camera, xyz, rgb]
        scene += [] if views.masks is None else [views.masks]
        self._path = None if folder is None else folder / CHECKPOINT
        self._key = key_of(options, seed, scene)
        self._reported_at = self._checkpointed_at = time.monotonic()
        self._loss, self._psnr = math.nan, ""
        self._best: tuple[Quality, Tensors, dict[str, Any]] | None = None

    def run(self) -> Splats:
        """Train, from a checkpoint if there is one, and return the Gaussians."""
        self.trainer.warm_up()
        if self._path is not None:
            state, why = read(self._path, self._key)
            if state is not None:
                self._restore(state)
            elif why:
                self._stage.warn(f"a checkpoint was found but {why}: training starts from scratch")
        quality = self._rounds()
        self._report_metrics(quality)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        return _message(self.trainer, self._views)

    def _most(self, training_views: TrainingViews, free_bytes: int) -> tuple[int, int]:
        """Return the number of Gaussians to grow to, and its limit in further rounds."""
        wanted = self._options.gaussians or usual_count(training_views)
        fits = int(0.5 * free_bytes / BYTES_EACH)
        if wanted > fits:
            self._stage.warn(f"{wanted} splats do not fit into memory: growing to at most {fits}")
        return min(wanted, fits), min(self._options.gaussians or fits, fits)

    def _rounds(self) -> Quality | None:
        """Train once, or until a round of twice the steps adds too little; return the quality."""
        trainer = self.trainer
        held_out = trainer.training_views.held_out
        if len(held_out) == 0:
            self._stage.warn(
                f"with {len(trainer.training_views.trained)} views none is held out, so the "
                "quality of the splats is not measured"
            )
        while True:
            trainer.run(self._on_step)
            quality = self._quality(held_out)
            spent = trainer.budget.elapsed_s >= trainer.budget.seconds
            if not self._options.until_best or quality is None:
                break
            if not self._improved(quality) or spent:
                quality = self._restore_best()
                break
            trainer.begin_round(ROUND_FROM)
        if trainer.budget.cut_short:
            self._stage.warn(
                f"the time limit was reached after {trainer.step} steps; a larger splat.seconds "
                "gives better splats, and the same on every computer"
            )
        return quality

    def _report_metrics(self, quality: Quality | None) -> None:
        trainer, measure = self.trainer, self._stage.measure
        if trainer.count == 0:
            self._stage.warn("no splats are left: the images are entirely black")
        measure("gaussians", trainer.count)
        if quality is not None:
            measure("held_out_psnr_db", quality[0])
            measure("held_out_ssim", quality[1])
        trained = trainer.training_views.trained
        usual = self._quality(trained[:: max(1, len(trained) // 8)])
        if usual is not None:
            measure("train_psnr_db", usual[0])
        measure("steps", trainer.step)
        measure("seconds", trainer.budget.elapsed_s)

    def _on_step(self, p: float) -> None:
        """Report progress and write a checkpoint after a step, if due."""
        trainer, now = self.trainer, time.monotonic()
        first = math.isnan(self._loss)
        self._loss = trainer.loss if first else 0.98 * self._loss + 0.02 * trainer.loss
        if now - self._reported_at > REPORT_EVERY_S:
            note = f"{trainer.count} splats, loss {self._loss:.4f}{self._psnr}"
            self._stage.progress(p, 1.0, note)
            self._reported_at = now
        if now - self._checkpointed_at > CHECKPOINT_EVERY_S:
            quality = self._quality(trainer.training_views.held_out[:2])
            self._psnr = "" if quality is None else f", {quality[0]:.1f} dB"
            self._write_checkpoint()
            self._checkpointed_at = time.monotonic()

    def _write_checkpoint(self) -> None:
        if self._path is None:
            return
        try:
            write(self._path, self._key, {"trainer": self.trainer.state(), "best": self._best})
        except OutputError as error:
            self._stage.warn(f"no checkpoint could be written ({error}); training continues")
            self._path = None

    def _quality(self, numbers: np.ndarray[Any, Any]) -> Quality | None:
        """Return the quality over some views; None if there are none or memory runs out."""
        if len(numbers) == 0:
            return None
        found: list[Quality] = []
        if fits(lambda: found.append(self.trainer.measure(numbers))):
            # NaN if the views are completely masked.
            return found[0] if math.isfinite(found[0][0]) else None
        self._stage.warn("memory ran out while measuring the splats: a metric is left out")
        return None

    def _restore(self, state: dict[str, Any]) -> None:
        self.trainer.restore(state["trainer"])
        best = state["best"]
        self._best = None if best is None else (tuple(best[0]), best[1], best[2])

    def _improved(self, quality: Quality) -> bool:
        """Return whether a round improved the quality enough, and store the best state."""
        before = self._best
        if before is None or quality[0] > before[0][0]:
            values = {name: p.detach().clone() for name, p in self.trainer.gaussians.items()}
            self._best = (quality, values, self.trainer.corrections.state())
        return before is None or quality[0] > before[0][0] + RISES_DB

    def _restore_best(self) -> Quality:
        assert self._best is not None
        for name, value in self._best[1].items():
            self.trainer.gaussians[name] = torch.nn.Parameter(value)
        self.trainer.corrections.restore(self._best[2])
        return self._best[0]


def usual_count(training_views: TrainingViews) -> int:
    """Return the default number of Gaussians for images of this size."""
    width, height = training_views.size
    return min(max(round(A_PIXEL_OF_SIDE * math.sqrt(width * height)), FEWEST), MOST)


def scene_scale(views: Views, xyz: np.ndarray[Any, Any]) -> float:
    """Return the scene's scale in world units: the footprint of 100 px of a 320 px wide image."""
    footprints = []
    for K, T in zip(views.intrinsics[::4], views.T_world_camera[::4], strict=True):
        uv, z = project(xyz, K, invert(T))
        size = views.images.shape[2:0:-1]
        inside = (z > 0) & (uv >= 0).all(axis=1) & (uv < size).all(axis=1)
        if inside.any():
            # Independent of the resolution: footprints are those of an image 320 px wide.
            footprints.append(float(np.median(z[inside])) / K[0, 0] * max(size) / 320)
    return 100 * float(np.median(footprints)) if footprints else 1.0


def _message(trainer: Trainer, views: Views) -> Splats:
    arrays = {name: p.detach().cpu().numpy() for name, p in trainer.gaussians.items()}
    whole = np.ones(trainer.count, np.bool_)
    for array in arrays.values():
        whole &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    quats = arrays["quats"][whole]
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    height, width = views.images.shape[1:3]
    return Splats(
        means=arrays["means"][whole],
        quats=quats / np.maximum(length, np.float32(1e-12)),
        log_scales=arrays["scales"][whole],
        opacity_logits=arrays["opacities"][whole],
        sh=np.concatenate([arrays["sh0"], arrays["shN"]], axis=1)[whole],
        intrinsics=views.intrinsics,
        T_world_camera=trainer.poses(views),
        held_out=trainer.training_views.held_out.astype(np.int32),
        size=(width, height),
        antialiased=trainer.options.antialiased,
    )
