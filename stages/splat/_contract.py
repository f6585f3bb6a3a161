"""What the training loop asks of a backend: one file each, `cpu` and `cuda`.

Gaussians are gsplat's own parameters, so that its strategies and optimizers work on them as they
are: `means` [N, 3] in the world, `quats` [N, 4] wxyz of any length, `scales` [N, 3] (logarithms),
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
    """What a camera sees."""

    image: Tensor
    """[H, W, 3], not clamped."""
    alpha: Tensor
    """[H, W]"""
    depth: Tensor | None
    """[H, W]: expected z in the camera's frame; 0 where nothing is. None if not asked for."""
    info: dict[str, Any] = field(repr=False)
    """What gsplat's strategies read: `means2d` [1, N, 2], `radii` [1, N, 2], `width`, `height`,
    `n_cameras`, `gaussian_ids`."""

    @property
    def seen(self) -> Tensor:
        """Return which Gaussians touch the image, bool [N]."""
        return self.info["radii"][0, :, 0] > 0


class Optimizer(Protocol):
    """What gsplat's strategies change when Gaussians come and go, after torch's optimizers."""

    param_groups: list[dict[str, Any]]
    """One group of one parameter, with its learning rate `lr`."""
    state: Any
    """Parameter to its moments, `exp_avg` and `exp_avg_sq`."""

    def step(self, visibility: Tensor) -> None:
        """Move the rows where `visibility`, bool [N], is true."""
        ...


class RenderBackend(Protocol):
    """Renders Gaussians with gradients, compares pictures and makes optimizers."""

    device: str
    """Where its tensors live."""

    @property
    def free_bytes(self) -> int:
        """Memory that is free there."""
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
            gaussians: The parameters, see above.
            view: [4, 4]: world to camera; may ask for a gradient.
            K: [3, 3] px.
            size: (width, height) px.
            degree: 0 to 3: how much of the harmonics to use.
            background: [3].
            antialiased: Whether a Gaussian pays with opacity for the blur (Mip-Splatting).
            depth: Whether to render depth too.
        """
        ...

    def loss(self, image: Tensor, target: Tensor, dssim: float) -> Tensor:
        """Return (1 - dssim) L1 + dssim (1 - SSIM) of two pictures [H, W, 3]."""
        ...

    def optimizer(self, parameter: Tensor, lr: float) -> Optimizer:
        """Return an optimizer of one parameter [N, ...]."""
        ...

    def step(self, optimizers: Iterable[Optimizer], seen: Tensor) -> None:
        """Let optimizers of this backend move the rows where `seen`, bool [N], is true."""
        ...

    def close(self) -> None:
        """Give threads and memory back."""
        ...
