"""Gaussian splats on CUDA: gsplat's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.contract import Context, Resources
from stages.splat._options import TrainingOptions
from stages.splat._stage import SplatStage

if TYPE_CHECKING:
    from stages.splat._contract import RenderBackend

__all__ = ["Config", "Model"]


class Config(TrainingOptions):
    """Options of `splat/cuda`."""

    steps: int | None = Field(
        7000, ge=0, le=10_000_000, description="number of training steps; null: limited by seconds"
    )
    seconds: float = Field(
        600.0, ge=0, description="stop after this time even if the steps are not done"
    )
    largest_px: int = Field(1600, ge=16, le=8192, description="longer side of training images, px")


class Model(SplatStage[Config]):
    """Trains with gsplat on an NVIDIA GPU, with the same loop as on the CPU."""

    @property
    def device(self) -> str:
        """Device on which it runs."""
        return "cuda"

    @property
    def resources(self) -> Resources:
        """Resources of one worker."""
        return Resources(cpus=1, gpus=1, memory_bytes=4_000_000_000)

    def backend(self, context: Context) -> RenderBackend:
        """Return the CUDA backend.

        Raises:
            PartNotMade: There is no CUDA device, or gsplat's kernels cannot be built.
        """
        del context
        from stages.splat._cuda import CudaBackend

        return CudaBackend()
