"""Densification of Gaussians with gsplat's strategies, on either backend.

`default` is gsplat's `DefaultStrategy` (Kerbl et al. 2023) except for the threshold: the Gaussians
with the largest image-plane gradients are densified, as many as the schedule has room for (Mallick
et al. 2024, Taming 3DGS), so that a scene's cost is known in advance. `mcmc` is gsplat's
`MCMCStrategy` (Kheradmand et al. 2024), whose operations need CUDA kernels in gsplat 1.5.3;
written in torch they run everywhere.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import _update_param_with_optimizer
from torch import Tensor
from torch.nn import Parameter

from stages.splat._contract import Optimizer, Rendering

__all__ = ["Growth", "growth"]

Parameters = dict[str, Parameter]
Optimizers = dict[str, Optimizer]

FADED = 0.005
"""Opacity below which Gaussians are removed or relocated (3DGS)."""


class Growth(Protocol):
    """Accumulates the gradients of each step, and refines the Gaussians when called."""

    def before(self, rendering: Rendering) -> None:
        """Process a rendering before its backward pass."""
        ...

    def after(self, rendering: Rendering, lr: float, growing: bool) -> None:
        """Process a rendering after its backward pass; `lr` is the learning rate of the means.

        `growing` is False when there will be no further refinement.
        """
        ...

    def refine(self, wanted: int) -> None:
        """Remove transparent Gaussians and grow toward `wanted` Gaussians."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state kept between refinements."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        ...


def growth(
    kind: Literal["default", "mcmc"], gaussians: Parameters, optimizers: Optimizers, scale: float
) -> Growth:
    """Return a strategy that changes `gaussians` and `optimizers` in place.

    Args:
        kind: Name of the strategy.
        gaussians: See `stages.splat._contract`.
        optimizers: One per parameter.
        scale: Scale of the scene in world units: Gaussians smaller than a hundredth of it are
            cloned, larger ones are split.
    """
    return (_Default if kind == "default" else _Mcmc)(gaussians, optimizers, scale)


class _Default:
    def __init__(self, gaussians: Parameters, optimizers: Optimizers, scale: float) -> None:
        self._gaussians, self._optimizers = gaussians, optimizers
        # The caller decides when: it passes step 2 to refine (every 2 steps), else step 1.
        self._strategy = DefaultStrategy(
            prune_opa=FADED,
            refine_start_iter=0,
            refine_stop_iter=1 << 60,
            refine_every=2,
            reset_every=1 << 59,
        )
        self._strategy.check_sanity(gaussians, optimizers)
        self._state = self._strategy.initialize_state(scene_scale=scale)

    def before(self, rendering: Rendering) -> None:
        self._strategy.step_pre_backward(
            self._gaussians, self._optimizers, self._state, 1, rendering.info
        )

    def after(self, rendering: Rendering, lr: float, growing: bool) -> None:
        """Accumulate the gradients like `_update_state`, in a fifth of its time on the CPU.

        That one first selects the visible Gaussians; the gradients of the others are 0 anyway.
        """
        del lr
        if not growing:
            return
        info, state = rendering.info, self._state
        gradient = info["means2d"].grad[0]
        half = gradient.new_tensor([info["width"] / 2, info["height"] / 2])
        strength = torch.linalg.vector_norm(gradient * half, dim=-1)
        seen = rendering.seen.to(strength.dtype)
        if state["grad2d"] is None:
            state["grad2d"], state["count"] = strength, seen
        else:
            state["grad2d"].add_(strength)
            state["count"].add_(seen)

    def refine(self, wanted: int) -> None:
        count, state = len(self._gaussians["means"]), self._state
        if state["grad2d"] is None:
            # No step since a refinement that failed.
            return
        gradients = state["grad2d"] / state["count"].clamp_min(1)
        fading = torch.sigmoid(self._gaussians["opacities"]) < FADED
        room = min(max(wanted - count + int(fading.sum()), 0), count)
        # The threshold selects the `room` largest scores.
        threshold = math.inf if room == 0 else float(torch.topk(gradients, room).values[-1])
        self._strategy.grow_grad2d = threshold * (1 - 1e-6)
        self._strategy._grow_gs(self._gaussians, self._optimizers, state, 2)
        self._strategy._prune_gs(self._gaussians, self._optimizers, state, 2)
        state["grad2d"].zero_()
        state["count"].zero_()

    def state(self) -> dict[str, Any]:
        return {name: self._state[name] for name in ("grad2d", "count")}

    def restore(self, state: dict[str, Any]) -> None:
        device = self._gaussians["means"].device
        for name, value in state.items():
            self._state[name] = None if value is None else value.to(device)


class _Mcmc:
    NOISE = 5e5
    MOST_COPIES = 51

    def __init__(self, gaussians: Parameters, optimizers: Optimizers, scale: float) -> None:
        del scale
        self._gaussians, self._optimizers = gaussians, optimizers
        n = torch.arange(self.MOST_COPIES, dtype=torch.float64)
        binomials = torch.exp(
            torch.lgamma(n[:, None] + 1)
            - torch.lgamma(n[None] + 1)
            - torch.lgamma((n[:, None] - n[None]).clamp_min(0) + 1)
        ).tril()
        signs = torch.where(n % 2 == 0, 1.0, -1.0) / torch.sqrt(n + 1)
        # Row n - 1 holds the coefficients of the powers of the opacity for n copies.
        self._series = torch.cumsum(binomials, 0) * signs

    def before(self, rendering: Rendering) -> None:
        pass

    def after(self, rendering: Rendering, lr: float, growing: bool) -> None:
        """Add noise along each Gaussian's own shape to nearly transparent ones."""
        del rendering, growing
        g = self._gaussians
        with torch.no_grad():
            opacity = torch.sigmoid(g["opacities"])
            strength = torch.sigmoid(100 * (1 - opacity - 0.995)) * self.NOISE * lr
            noise = torch.randn_like(g["means"]) * strength[:, None]
            g["means"].add_(_shaped(g["quats"], g["scales"], noise))

    @torch.no_grad()
    def refine(self, wanted: int) -> None:
        opacity = torch.sigmoid(self._gaussians["opacities"])
        dead = opacity <= FADED
        relocated, alive = dead.nonzero()[:, 0], (~dead).nonzero()[:, 0]
        if len(alive) == 0:
            return
        if len(relocated):
            chosen = alive[torch.multinomial(opacity[alive], len(relocated), replacement=True)]
            self._copy(chosen, relocated)
        more = min(wanted, int(1.3 * len(opacity)) + 1) - len(opacity)
        if more > 0:
            opacity = torch.sigmoid(self._gaussians["opacities"])
            self._copy(torch.multinomial(opacity, more, replacement=True), None)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass

    def _copy(self, chosen: Tensor, onto: Tensor | None) -> None:
        """Copy Gaussians onto others or to the end; the copies together keep the opacity."""
        g = self._gaussians
        opacity = torch.sigmoid(g["opacities"][chosen]).double()
        copies = torch.bincount(chosen, minlength=len(g["means"]))[chosen] + 1
        copies = copies.clamp_max(self.MOST_COPIES)
        part = 1 - (1 - opacity) ** (1 / copies)
        powers = part[:, None] ** torch.arange(1, self.MOST_COPIES + 1, device=part.device)
        total = (self._series.to(part.device)[copies - 1] * powers).sum(1)
        logits = torch.logit(part.clamp(FADED, 1 - 1e-7)).float()
        scales = g["scales"][chosen] + torch.log(opacity / total)[:, None].float()

        def value(name: str, old: Tensor) -> Parameter:
            new = old.detach().clone()
            if name == "opacities":
                new[chosen] = logits
            elif name == "scales":
                new[chosen] = scales
            if onto is None:
                new = torch.cat([new, new[chosen]])
            else:
                new[onto] = new[chosen]
            return Parameter(new)

        def moment(key: str, old: Tensor) -> Tensor:
            del key
            if onto is None:
                return torch.cat([old, old.new_zeros(len(chosen), *old.shape[1:])])
            new = old.clone()
            new[chosen] = 0
            return new

        _update_param_with_optimizer(value, moment, g, self._optimizers)


def _shaped(quats: Tensor, log_scales: Tensor, noise: Tensor) -> Tensor:
    """Multiply vectors [N, 3] by the covariances R S S R^T."""
    q = torch.nn.functional.normalize(quats, dim=-1)
    w, v = q[:, :1], q[:, 1:]

    def turn(x: Tensor, w: Tensor) -> Tensor:
        c = 2 * torch.linalg.cross(v, x)
        return x + w * c + torch.linalg.cross(v, c)

    return turn(turn(noise, -w) * torch.exp(2 * log_scales), w)
