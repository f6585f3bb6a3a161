"""Optional corrections that training optimizes besides the Gaussians: camera poses and exposures.

Poses are rotated and translated by a small step each in the camera's own frame (se(3), as in
gsplat and BARF); exposures are an affine map of the colors per image (3DGS's exposure
compensation). Held-out views are not corrected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adam import adam

__all__ = ["Corrections"]

RATES = {"turn": 3e-4, "shift": 3e-4, "exposure": 2e-3}
"""Adam's rates: radians, shares of the scene's scale, brightness. They decay to a tenth."""
BACK = {"turn": 1e-2, "shift": 1e-2, "exposure": 1e-3}
"""Weights of the regularization toward no correction, which prevents a common drift."""


class Corrections:
    """Corrections, one per view.

    Args:
        count: Number of views.
        poses: Whether to correct poses.
        exposure: Whether to correct exposures.
        scale: Scale of the scene in world units.
        device: torch device of the tensors.
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
        self._optimizers = {name: _Adam(value) for name, value in self.values.items()}

    def step_of(self, number: int) -> Tensor | None:
        """Return a camera's correction, [4, 4] in its own frame, or None if poses are fixed."""
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

    def apply_exposure(self, number: int, image: Tensor) -> Tensor:
        """Return a rendering [H, W, 3] with the exposure of that view's image."""
        if "exposure" not in self.values:
            return image
        affine = self.values["exposure"][number]
        return image + image @ affine[:, :3].T + affine[:, 3]

    def penalty(self, number: int) -> Tensor | None:
        """Return the regularization term of a view's corrections, or None without any."""
        terms = [BACK[name] * value[number].square().sum() for name, value in self.values.items()]
        return torch.stack(terms).sum() if terms else None

    def step(self, p: float) -> None:
        """Apply the gradients; `p` is the share of the budget that is used."""
        for name, optimizer in self._optimizers.items():
            optimizer.step(RATES[name] * 0.1**p)

    def forget(self) -> None:
        """Drop the gradients of a step that failed."""
        for value in self.values.values():
            value.grad = None

    def state(self) -> dict[str, Any]:
        """Return a copy of the whole state, for `restore`."""
        return {
            "values": {name: value.detach().clone() for name, value in self.values.items()},
            "optimizers": {name: o.state() for name, o in self._optimizers.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(state["values"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.restore(state["optimizers"][name])


class _Adam:
    """Adam for one parameter.

    The class `torch.optim.Adam` would import torch's compiler, 3 s of CPU time; its functional
    form does not.
    """

    def __init__(self, value: Parameter) -> None:
        self._value = value
        self._steps = torch.tensor(0.0)
        self._mean, self._square = torch.zeros_like(value), torch.zeros_like(value)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply the gradient, if there is one, and drop it."""
        gradient, self._value.grad = self._value.grad, None
        if gradient is not None:
            adam(
                [self._value], [gradient], [self._mean], [self._square], [], [self._steps],
                foreach=False, amsgrad=False, maximize=False, weight_decay=0.0,
                lr=lr, beta1=0.9, beta2=0.999, eps=1e-8,
            )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        tensors = {"steps": self._steps, "mean": self._mean, "square": self._square}
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._steps.copy_(state["steps"])
        self._mean.copy_(state["mean"])
        self._square.copy_(state["square"])
