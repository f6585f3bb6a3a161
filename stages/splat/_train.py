"""The one training loop: photographs and points to Gaussians, on any backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from stages.splat._contract import Backend
from stages.splat._growth import growth
from stages.splat._options import TrainingOptions
from stages.splat._photographs import Photographs, Shot
from stages.splat._schedule import Budget, Schedule
from stages.splat._similarity import ssim

__all__ = ["Trainer"]

RATES = {
    "means": 1.6e-4,
    "scales": 5e-3,
    "quats": 1e-3,
    "opacities": 5e-2,
    "sh0": 2.5e-3,
    "shN": 2.5e-3 / 20,
}
"""3DGS's learning rates; that of the means is times the scene's scale."""


class Trainer:
    """Trains `gaussians` in place, a step a photograph."""

    def __init__(
        self,
        backend: Backend,
        photographs: Photographs,
        gaussians: dict[str, Parameter],
        options: TrainingOptions,
        *,
        scale: float,
        budget: Budget,
        most: int,
        seed: int,
        schedule: Schedule | None = None,
        rates: dict[str, float] | None = None,
    ) -> None:
        self.backend, self.photographs, self.gaussians = backend, photographs, gaussians
        self.options, self.scale, self.budget = options, scale, budget
        self.schedule = schedule or Schedule(degree=options.degree)
        self.rates = {**RATES, **(rates or {})}
        self.rates["means"] *= scale
        self.optimizers = {
            name: backend.optimizer(parameter, self.rates[name])
            for name, parameter in gaussians.items()
        }
        self.growth = growth(options.strategy, gaussians, self.optimizers, scale)
        self.first, self.most = len(gaussians["means"]), most
        self.step, self.refined = 0, 0
        self.background = torch.zeros(3, device=backend.device)
        torch.manual_seed(seed)
        self._order = np.random.default_rng([seed, 12])
        self._queue: list[int] = []
        self.last_loss = float("nan")

    def run(self, each: Callable[[float], None] | None = None) -> None:
        """Train until the budget is used up; `each` is told the share after every step."""
        while (p := self.budget.progress(self.step)) < 1:
            self._step(p)
            if each is not None:
                each(p)

    def _step(self, p: float) -> None:
        if not self._queue:
            self._queue = self._order.permutation(self.photographs.trained).tolist()
        shot = self.photographs.shot(self._queue.pop(), self.schedule.halvings(p))
        rendering = self.backend.render(
            self.gaussians,
            shot.view,
            shot.K,
            shot.size,
            degree=self.schedule.harmonics(p),
            background=self.background,
            antialiased=self.options.antialiased,
        )
        self.growth.before(rendering)
        loss = self.backend.loss(rendering.image, shot.target, self.options.dssim)
        loss.backward()
        self.last_loss = float(loss.detach())
        self._set_rates(p)
        seen = rendering.seen
        for optimizer in self.optimizers.values():
            optimizer.step(seen)  # type: ignore[call-arg]
        for parameter in self.gaussians.values():
            parameter.grad = None
        self.growth.after(rendering, self._rate("means"))
        self.step += 1
        due = self.schedule.refinement(p)
        if due > self.refined:
            self.refined = due
            self.growth.refine(self.schedule.planned(p, self.first, self.most))

    def _set_rates(self, p: float) -> None:
        factor = self.schedule.rate(p) * self.options.learning_rate
        for name, optimizer in self.optimizers.items():
            own = self.schedule.rate_of_means(p) if name == "means" else factor
            optimizer.param_groups[0]["lr"] = self.rates[name] * own

    def _rate(self, name: str) -> float:
        return self.optimizers[name].param_groups[0]["lr"]

    @torch.no_grad()
    def measure(self, numbers: np.ndarray[Any, Any]) -> tuple[float, float]:
        """Return the mean PSNR in dB and SSIM over views."""
        found = []
        for number in numbers:
            shot = self.photographs.shot(int(number))
            image = self._draw(shot).clamp(0, 1)
            error = float(torch.mean((image - shot.target) ** 2))
            found.append(
                (
                    -10 * np.log10(max(error, 1e-10)),
                    ssim(image.cpu().numpy(), shot.target.cpu().numpy()),
                )
            )
        psnr, similarity = np.mean(found, axis=0)
        return float(psnr), float(similarity)

    def _draw(self, shot: Shot) -> Tensor:
        return self.backend.render(
            self.gaussians,
            shot.view,
            shot.K,
            shot.size,
            degree=self.options.degree,
            background=self.background,
            antialiased=self.options.antialiased,
        ).image
