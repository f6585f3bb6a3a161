"""Stage that trains Gaussians from posed keyframes and points, on the backend of a subclass.

Torch is imported when a stage is opened, so that listing models stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from pipeline.contract import Context, Points, Resources, Splats, Stage, Views
from pipeline.errors import PartNotMade
from stages.splat._options import TrainingOptions

if TYPE_CHECKING:
    from stages.splat._contract import RenderBackend

__all__ = ["SplatStage"]

O = TypeVar("O", bound=TrainingOptions)  # noqa: E741


class SplatStage(Stage[O]):
    """Trains Gaussians on the backend of a subclass."""

    isolated: ClassVar[bool] = True

    @property
    def resources(self) -> Resources:
        """Resources of one worker."""
        return Resources(cpus=2, memory_bytes=2_000_000_000)

    def backend(self, context: Context) -> RenderBackend:
        """Return the backend that renders."""
        raise NotImplementedError

    def open(self, context: Context) -> None:
        """Start the backend."""
        super().open(context)
        import torch

        # The kernels use their own threads, and OpenMP's would spin in addition.
        torch.set_num_threads(1)
        self._backend = self.backend(context)

    def close(self) -> None:
        """Release threads and memory."""
        if hasattr(self, "_backend"):
            self._backend.close()

    def process(self, views: Views, points: Points | None = None) -> Splats:
        """Return Gaussians trained to reproduce the views.

        Raises:
            PartNotMade: There are too few views, no points, or too little memory.
        """
        from stages.splat._session import Session

        if len(views.images) < 2:
            raise PartNotMade(
                f"splats need at least 2 posed views, got {len(views.images)}: a single image does "
                "not determine shape; give a longer video or more keyframes"
            )
        return Session(self, self._backend, views, points).run()
