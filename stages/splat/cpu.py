"""Gaussian splats on the CPU: numba kernels with a backward pass by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.contract import Context
from stages.splat._options import TrainingOptions
from stages.splat._stage import SplatStage

if TYPE_CHECKING:
    from stages.splat._contract import RenderBackend

__all__ = ["Config", "Model"]


class Config(TrainingOptions):
    """Options of `splat/cpu`."""


class Model(SplatStage[Config]):
    """Trains on the CPU; equal seeds and steps give equal splats for any number of threads."""

    def backend(self, context: Context) -> RenderBackend:
        """Return the CPU backend."""
        from stages.splat._cpu import CpuBackend

        return CpuBackend(context.threads)
