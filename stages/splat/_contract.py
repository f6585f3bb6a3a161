"""Interface of the training backends, `cpu` and `cuda`.

Gaussians are gsplat's own parameters, so that its strategies and optimizers work unchanged:
`means` [N, 3] in the world, `quats` [N, 4] wxyz of any length, `scales` [N, 3] (logarithms),
`opacities` [N] (logits), `sh0` [N, 1, 3] and `shN` [N, K, 3] (spherical harmonics).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Optimizer", "RenderBackend", "Rendering"]


@dataclass(frozen=True, slots=True)
class Rendering:
    """Rendering of one camera."""

    image: Tensor
    """[H, W, 3], not clamped."""
    alpha: Tensor
    """[H, W]"""
    depth: Tensor | None
    """[H, W]: expected z in the camera's frame; 0 where nothing is. None if not requested."""
    info: dict[str, Any] = field(repr=False)
    """Input of gsplat's strategies: `means2d` [1, N, 2], `radii` [1, N, 2], `width`, `height`,
    `n_cameras`, `gaussian_ids`."""

    @property
    def seen(self) -> Tensor:
        """Return which Gaussians contribute to the image, bool [N]."""
        return self.info["radii"][0, :, 0] > 0


class Optimizer(Protocol):
    """Optimizer interface modified by gsplat's strategies when Gaussians are added or removed."""

    param_groups: list[dict[str, Any]]
    """One group of one parameter, with its learning rate `lr`."""
    state: Any
    """Parameter to its moments, `exp_avg` and `exp_avg_sq`."""

    def step(self, visibility: Tensor) -> None:
        """Update the rows where `visibility`, bool [N], is true."""
        ...


class RenderBackend(Protocol):
    """Renders Gaussians with gradients, computes the image loss and creates optimizers."""

    device: str
    """torch device of its tensors."""

    @property
    def free_bytes(self) -> int:
        """Free memory of the device in bytes."""
        ...

    def render(
        self,
        gaussians: Mapping[str, Tensor],
        view: Tensor,
        K: Tensor,
        size: tuple[int, int],
        *,
        degree: int,
        background: Tensor,
        antialiased: bool = False,
        depth: bool = False,
    ) -> Rendering:
        """Render one camera.

        Args:
            gaussians: The parameters, see the module docstring.
            view: [4, 4]: world to camera; may require a gradient.
            K: [3, 3] px.
            size: (width, height) px.
            degree: Degree of the spherical harmonics to use, 0 to 3.
            background: [3].
            antialiased: Whether opacity is reduced to compensate for the blur (Mip-Splatting).
            depth: Whether to render depth too.
        """
        ...

    def loss(self, image: Tensor, target: Tensor, dssim: float) -> Tensor:
        """Return (1 - dssim) L1 + dssim (1 - SSIM) of two images [H, W, 3]."""
        ...

    def optimizer(self, parameter: Tensor, lr: float) -> Optimizer:
        """Return an optimizer of one parameter [N, ...]."""
        ...

    def step(self, optimizers: Iterable[Optimizer], seen: Tensor) -> None:
        """Step optimizers of this backend on the rows where `seen`, bool [N], is true."""
        ...

    def close(self) -> None:
        """Release threads and memory."""
        ...
