"""Gaussian splats on the CPU: numba kernels with a hand-written backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.contract import Context
from stages._kernels.textured_plane import textured_plane
from stages.splat._options import TrainingOptions
from stages.splat._stage import SplatStage

if TYPE_CHECKING:
    from stages.splat._contract import RenderBackend

__all__ = ["Config", "Model"]


class Config(TrainingOptions):
    """Options of `splat/cpu`."""


class Model(SplatStage[Config]):
    """Trains on the CPU; same seed and steps give the same splats for any number of threads."""

    @classmethod
    def compile_kernels(cls) -> None:
        """Compile the kernels for training and rendering on a small scene."""
        from stages._gaussians.draw import draw

        views, points = textured_plane()
        model = cls(Config(steps=60))
        model.open(Context())
        splats = model.process(views, points)
        model.close()
        size = views.images.shape[2], views.images.shape[1]
        draw(splats, views.intrinsics[0], views.T_world_camera[0], size, depth=True)

    def backend(self, context: Context) -> RenderBackend:
        """Return the CPU backend."""
        from stages.splat._cpu import CpuBackend

        return CpuBackend(context.threads)
