"""What the training may change besides the Gaussians: the cameras' poses and the exposures.

Poses turn and shift by a small step each in the camera's own frame (se(3), as in gsplat and
BARF); exposures are an affine map of the colours a picture (3DGS's exposure compensation). Views
that are held out keep what came in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Corrections"]

RATES = {"turn": 3e-4, "shift": 3e-4, "exposure": 2e-3}
"""Adam's rates: radians, shares of the scene's scale, brightness. They fall to a tenth."""
BACK = {"turn": 1e-2, "shift": 1e-2, "exposure": 1e-3}
"""Weights of the pull back to no correction, so that all together do not drift."""


class Corrections:
    """A correction a view.

    Args:
        count: Number of views.
        poses: Whether to correct them.
        exposure: Whether to correct it.
        scale: The scene's scale in world units.
        device: Where the tensors live.
    """

    def __init__(
        self, count: int, *, poses: bool, exposure: bool, scale: float, device: str
    ) -> None:
        self.scale = scale
        self.values: dict[str, Parameter] = {}
        if poses:
            self.values["turn"] = Parameter(torch.zeros(count, 3, device=device))
            self.values["shift"] = Parameter(torch.zeros(count, 3, device=device))
        if exposure:
            self.values["exposure"] = Parameter(torch.zeros(count, 3, 4, device=device))
        self._optimizers = {
            name: torch.optim.Adam([value], lr=RATES[name]) for name, value in self.values.items()
        }

    def step_of(self, number: int) -> Tensor | None:
        """Return how a camera is moved, [4, 4] in its own frame, or None if poses stay."""
        if "turn" not in self.values:
            return None
        turn, shift = self.values["turn"][number], self.values["shift"][number]
        zero = torch.zeros((), device=turn.device)
        x, y, z = turn.unbind()
        hat = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        top = torch.cat([torch.linalg.matrix_exp(hat), (shift * self.scale)[:, None]], 1)
        return torch.cat([top, torch.eye(4, device=turn.device)[3:]])

    def view(self, number: int, view: Tensor) -> Tensor:
        """Return the world-to-camera matrix [4, 4] of a view with its correction."""
        step = self.step_of(number)
        return view if step is None else step @ view

    def picture(self, number: int, image: Tensor) -> Tensor:
        """Return a rendering [H, W, 3] as exposed as the photograph of that view."""
        if "exposure" not in self.values:
            return image
        affine = self.values["exposure"][number]
        return image + image @ affine[:, :3].T + affine[:, 3]

    def penalty(self, number: int) -> Tensor | None:
        """Return what keeps a view's corrections small, or None without any."""
        terms = [BACK[name] * value[number].square().sum() for name, value in self.values.items()]
        return torch.stack(terms).sum() if terms else None

    def step(self, p: float) -> None:
        """Move by the gradients; `p` is the share of the budget that is used."""
        for name, optimizer in self._optimizers.items():
            optimizer.param_groups[0]["lr"] = RATES[name] * 0.1**p
            optimizer.step()
            optimizer.zero_grad()

    def forget(self) -> None:
        """Drop the gradients of a step that failed."""
        for value in self.values.values():
            value.grad = None

    def state(self) -> dict[str, Any]:
        """Return everything, to go on from later."""
        return {
            "values": {name: value.detach() for name, value in self.values.items()},
            "optimizers": {name: o.state_dict() for name, o in self._optimizers.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(state["values"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
