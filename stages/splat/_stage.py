"""The stage: posed keyframes and points in, trained Gaussians out; backends differ in one line.

Torch is imported when a stage is opened, so that listing models stays quick.
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
        """What one worker needs."""
        return Resources(cpus=2, memory_bytes=2_000_000_000)

    def backend(self, context: Context) -> RenderBackend:
        """Return what renders."""
        raise NotImplementedError

    def open(self, context: Context) -> None:
        """Start the backend."""
        super().open(context)
        import torch

        # The kernels have threads of their own, and OpenMP's would spin beside them.
        torch.set_num_threads(1)
        self._backend = self.backend(context)

    def close(self) -> None:
        """Give threads and memory back."""
        if hasattr(self, "_backend"):
            self._backend.close()

    def process(self, views: Views, points: Points | None = None) -> Splats:
        """Return Gaussians that look like the views.

        Raises:
            PartNotMade: There are too few views, no points, or too little memory.
        """
        from stages.splat._session import Session

        if len(views.images) < 2:
            raise PartNotMade(
                f"splats need at least 2 posed views, got {len(views.images)}: one picture alone "
                "tells nothing of the shape; give a longer video or more keyframes"
            )
        return Session(self, self._backend, views, points).run()
