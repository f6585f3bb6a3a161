"""Adam for the Gaussians that were seen, as one pass over memory on the CPU.

gsplat's `SelectiveAdam` (Mallick et al. 2024, Taming 3DGS) runs on CUDA alone; this is its twin:
rows that were not seen keep their moments, and there is no bias correction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.splat._kernels import Team, kernel

__all__ = ["SelectiveAdam"]


@kernel()
def _step(first, last, seen, value, gradient, mean, square, lr, beta1, beta2, rest1, rest2, eps):
    """Move rows `first` to `last` of `value` [N, K] that were seen.

    `rest` is 1 - beta, made outside: the compiler would make g^2 - beta g^2 of it, which float32
    rounds to 6e-5.
    """
    for i in range(np.uint64(first), np.uint64(last)):
        if not seen[i]:
            continue
        for k in range(np.uint64(value.shape[1])):
            g = gradient[i, k]
            m = beta1 * mean[i, k] + rest1 * g
            v = beta2 * square[i, k] + rest2 * g * g
            mean[i, k], square[i, k] = m, v
            value[i, k] -= lr * m / (np.sqrt(v) + eps)


class SelectiveAdam(torch.optim.Adam):
    """Adam over one parameter [N, ...]; its state is that of `torch.optim.Adam`."""

    def __init__(self, team: Team, parameter: Tensor, lr: float) -> None:
        super().__init__([parameter], lr=lr, eps=1e-15)
        self._team = team

    @torch.no_grad()
    def step(self, visibility: Tensor) -> None:  # type: ignore[override]
        """Move the rows where `visibility` [N] is true."""
        for group in self.param_groups:
            parameter = group["params"][0]
            if parameter.grad is None or parameter.numel() == 0:
                continue
            assert parameter.is_contiguous(), "the steps would go to a copy"
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            arrays = [
                _rows(tensor)
                for tensor in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
            ]
            dtype = arrays[0].dtype.type
            betas = [dtype(beta) for beta in group["betas"]]
            rests = [dtype(1) - beta for beta in betas]
            numbers = [dtype(group["lr"]), *betas, *rests, dtype(group["eps"])]
            seen = visibility.numpy()
            self._team.rows(lambda a, b: _step(a, b, seen, *arrays, *numbers), len(seen))  # noqa: B023


def _rows(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().numpy().reshape(len(tensor), -1)
