"""Adam restricted to visible Gaussians, as one pass over memory on the CPU.

gsplat's `SelectiveAdam` (Mallick et al. 2024, Taming 3DGS) runs only on CUDA; this is its
equivalent: invisible rows keep their moments, and there is no bias correction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages._gaussians.kernels import ThreadPool, kernel

__all__ = ["SelectiveAdam", "step_together"]


@kernel()
def _step(first, last, seen, value, gradient, mean, square, lr, beta1, beta2, rest1, rest2, eps):
    """Update the visible ones of rows `first` to `last` of `value` [N, K].

    `rest` is 1 - beta, computed by the caller: the compiler would turn it into g^2 - beta g^2,
    which float32 rounds to 6e-5.
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


class SelectiveAdam:
    """Adam over one parameter [N, ...], with the state and groups of `torch.optim.Adam`.

    It is not a subclass: creating the first torch optimizer imports torch's compiler, which takes
    3 s of CPU time.
    """

    def __init__(self, pool: ThreadPool, parameter: Tensor, lr: float) -> None:
        self._pool = pool
        group = {"params": [parameter], "lr": lr, "betas": (0.9, 0.999), "eps": 1e-15}
        self.param_groups: list[dict[str, Any]] = [group]
        # gsplat's strategies look up parameters without a step, such as shN at degree 0.
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self, visibility: Tensor) -> None:
        """Update the rows where `visibility` [N] is true."""
        step_together(self._pool, [self], visibility)

    def arguments(self) -> tuple[Any, ...] | None:
        """Return the kernel's arguments after `seen`, or None if there is nothing to update."""
        (group,) = self.param_groups
        parameter = group["params"][0]
        if parameter.grad is None or parameter.numel() == 0:
            return None
        assert parameter.is_contiguous(), "the update would go to a copy"
        state = self.state[parameter]
        if not state:
            zeros = torch.zeros_like(parameter.detach())
            state |= {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        tensors = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        arrays = [_rows(tensor) for tensor in tensors]
        dtype = arrays[0].dtype.type
        betas = [dtype(beta) for beta in group["betas"]]
        rests = [dtype(1) - beta for beta in betas]
        return *arrays, dtype(group["lr"]), *betas, *rests, dtype(group["eps"])


def step_together(
    pool: ThreadPool, optimizers: Iterable[SelectiveAdam], visibility: Tensor
) -> None:
    """Update the visible rows [N] of several parameters in one parallel pass."""
    seen = visibility.numpy()
    jobs = [job for optimizer in optimizers if (job := optimizer.arguments()) is not None]

    def work(first: int, last: int) -> None:
        for job in jobs:
            _step(first, last, seen, *job)

    pool.rows(work, len(seen))


def _rows(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().numpy().reshape(len(tensor), -1)
