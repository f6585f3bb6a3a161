"""The training loop: from images and points to Gaussians, on any backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from pipeline.contract import Views
from pipeline.errors import PartNotMade
from stages._gaussians.ssim import ssim
from stages._geometry.transforms import invert
from stages.splat._contract import RenderBackend, Rendering
from stages.splat._corrections import Corrections
from stages.splat._growth import Growth, growth
from stages.splat._memory import fits
from stages.splat._options import TrainingOptions
from stages.splat._schedule import Budget, Schedule
from stages.splat._training_views import TrainingView, TrainingViews

__all__ = ["RATES", "Quality", "Trainer"]

RATES = {
    "means": 5.5e-4,
    "scales": 7e-3,
    "quats": 1.4e-3,
    "opacities": 7e-2,
    "sh0": 3.5e-3,
    "shN": 1.75e-4,
}
"""1.4 times 3DGS's learning rates, since budgets are short (1.7 times: a room gains 0.6 dB, fox
loses 0.2). The rate of the means is multiplied by the scene's scale, which here comes from the
pixels' footprint; from half to five times of it neither changes by 0.3 dB."""

WARM_UP_HALVINGS = 4
LEAST = 100
"""Number of Gaussians below which running out of memory is an error."""

Quality = tuple[float, float]
"""PSNR in dB and SSIM."""


class Trainer:
    """Trains Gaussians, one image per step.

    Args:
        backend: Rendering backend.
        training_views: Target images.
        gaussians: Initial Gaussians; modified in place, growth replaces the tensors.
        options: Training options.
        scale: Scale of the scene in world units.
        budget: Steps and seconds to train.
        most: Number of Gaussians to grow to.
        limit: Maximum number of Gaussians, also in further rounds.
        seed: Seed of every random choice.
        warn: Called with warnings.
    """

    def __init__(
        self,
        backend: RenderBackend,
        training_views: TrainingViews,
        gaussians: dict[str, Parameter],
        options: TrainingOptions,
        *,
        scale: float,
        budget: Budget,
        most: int,
        limit: int,
        seed: int,
        warn: Callable[[str], None],
    ) -> None:
        self.backend, self.training_views, self.gaussians = backend, training_views, gaussians
        self.options, self.budget, self.warn = options, budget, warn
        self.schedule = Schedule(degree=options.degree)
        self.rates = {**RATES, "means": RATES["means"] * scale}
        self.optimizers = {
            name: backend.optimizer(parameter, self.rates[name])
            for name, parameter in gaussians.items()
        }
        self.scale = scale
        self.growth = self._strategy()
        self.corrections = Corrections(
            training_views.count,
            poses=options.refine_poses,
            exposure=options.exposure,
            scale=scale,
            device=backend.device,
        )
        self.first, self.most, self.limit = len(gaussians["means"]), most, limit
        self.step, self.refined, self.loss = 0, 0, math.nan
        self.background = torch.zeros(3, device=backend.device)
        torch.manual_seed(seed)
        self._order = np.random.default_rng([seed, 12])
        self._queue: list[int] = []

    def _strategy(self) -> Growth:
        return growth(self.options.strategy, self.gaussians, self.optimizers, self.scale)

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return len(self.gaussians["means"])

    def run(self, each: Callable[[float], None] | None = None) -> None:
        """Train until the budget is used up; `each` is called with its share after every step.

        Raises:
            PartNotMade: Even a few Gaussians do not fit into memory.
        """
        while (p := self.budget.progress(self.step)) < 1:
            trained = fits(lambda p=p: self._train(p))
            self.step += 1
            if trained:
                self._grow(p)
            else:
                self._shrink()
            if each is not None:
                each(p)

    def warm_up(self) -> None:
        """Run a step that changes nothing, so that kernels compile before the clock starts."""
        view = self.training_views.get(int(self.training_views.trained[0]), WARM_UP_HALVINGS)
        rendering = self._render(view, 0)
        image = self.corrections.apply_exposure(view.number, rendering.image)
        self.backend.loss(image, view.target, self.options.dssim).backward()
        self.backend.step(self.optimizers.values(), torch.zeros_like(rendering.seen))
        self._forget()
        self.training_views.drop(WARM_UP_HALVINGS)
        self.budget.start()

    def _forget(self) -> None:
        for parameter in self.gaussians.values():
            parameter.grad = None
        self.corrections.forget()

    def begin_round(self, p: float) -> None:
        """Begin another round at share `p`, with twice the steps and 1.5 times the Gaussians."""
        self.budget.extend(self.step, p)
        self.first, self.most = self.count, min(round(1.5 * self.most), self.limit)
        self.refined = self.schedule.refinement(p)

    def _train(self, p: float) -> None:
        if not self._queue:
            self._queue = self._order.permutation(self.training_views.trained).tolist()
        view = self.training_views.get(self._queue.pop(), self.schedule.halvings(p))
        rendering = self._render(view, self.schedule.harmonics(p))
        self.growth.before(rendering)
        image = self.corrections.apply_exposure(view.number, rendering.image)
        loss = self.backend.loss(_with_masked_pixels(image, view), view.target, self.options.dssim)
        self.loss = float(loss.detach())
        penalty = self.corrections.penalty(view.number)
        (loss if penalty is None else loss + penalty).backward()
        self._set_rates(p)
        self.backend.step(self.optimizers.values(), rendering.seen)
        for parameter in self.gaussians.values():
            parameter.grad = None
        self.corrections.step(p)
        lr = self.optimizers["means"].param_groups[0]["lr"]
        self.growth.after(rendering, lr, p < self.schedule.grow_until)

    def _render(self, view: TrainingView, degree: int) -> Rendering:
        return self.backend.render(
            self.gaussians,
            self.corrections.view(view.number, view.viewmat),
            view.K,
            view.size,
            degree=degree,
            background=self.background,
            antialiased=self.options.antialiased,
        )

    def _set_rates(self, p: float) -> None:
        factor = self.options.learning_rate
        others, means = self.schedule.rate(p), self.schedule.rate_of_means(p)
        for name, optimizer in self.optimizers.items():
            share = means if name == "means" else others
            optimizer.param_groups[0]["lr"] = self.rates[name] * factor * share

    def _grow(self, p: float) -> None:
        """Refine if it is due; if memory runs out, stop growing and continue."""
        due = self.schedule.refinement(p)
        if due <= self.refined:
            return
        self.refined = due
        wanted = min(self.schedule.planned(p, self.first, self.most), self.most)
        before = self._tensors()
        if not fits(lambda: self.growth.refine(wanted)):
            self._replace_tensors(before)
            self.growth = self._strategy()
            self.limit = self.most = self.first = self.count
            self.warn(f"memory ran out at {self.count} splats: growth stops")

    def _shrink(self) -> None:
        """Keep the more opaque half of the Gaussians, after a step did not fit into memory."""
        keep = self.count // 2
        if keep < LEAST:
            raise PartNotMade(
                f"splats do not fit into memory, not even {self.count} at "
                f"{'x'.join(map(str, self.training_views.size))} px; lower splat.largest_px"
            )
        rows = torch.topk(self.gaussians["opacities"].detach(), keep).indices.sort().values
        self.warn(f"memory ran out with {self.count} splats: continuing with {keep} of them")
        tensors = self._tensors()
        for part in tensors.values():
            for name, tensor in part.items():
                part[name] = tensor[rows]
        self._replace_tensors(tensors)
        self.growth = growth(
            self.options.strategy,
            self.gaussians,
            self.optimizers,
            self.rates["means"] / RATES["means"],
        )
        self.corrections.forget()
        self.limit = self.most = self.first = keep

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the parameters and both moments of each, by name."""
        parts: dict[str, dict[str, Tensor]] = {
            "value": {name: p.detach() for name, p in self.gaussians.items()}
        }
        for moment in ("exp_avg", "exp_avg_sq"):
            parts[moment] = {
                name: optimizer.state[self.gaussians[name]][moment]
                for name, optimizer in self.optimizers.items()
                if optimizer.state.get(self.gaussians[name])
            }
        return parts

    def _replace_tensors(self, parts: dict[str, dict[str, Tensor]]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.state.clear()
            parameter = Parameter(parts["value"][name].to(self.backend.device))
            self.gaussians[name] = parameter
            optimizer.param_groups[0]["params"] = [parameter]
            if name in parts["exp_avg"]:
                optimizer.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": parts["exp_avg"][name].to(self.backend.device),
                    "exp_avg_sq": parts["exp_avg_sq"][name].to(self.backend.device),
                }

    def state(self) -> dict[str, Any]:
        """Return the whole state, as tensors and plain values, for `restore`."""
        return {
            "tensors": self._tensors(),
            "growth": self.growth.state(),
            "corrections": self.corrections.state(),
            "numbers": [self.step, self.refined, self.first, self.most, self.limit],
            "budget": self.budget.state(),
            "queue": list(self._queue),
            "order": self._order.bit_generator.state,
            "torch": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._replace_tensors(state["tensors"])
        self.growth.restore(state["growth"])
        self.corrections.restore(state["corrections"])
        self.step, self.refined, self.first, self.most, self.limit = state["numbers"]
        self.budget.restore(state["budget"])
        self._queue = list(state["queue"])
        self._order.bit_generator.state = state["order"]
        torch.set_rng_state(state["torch"])

    @torch.no_grad()
    def measure(self, numbers: np.ndarray[Any, Any]) -> Quality:
        """Return the mean PSNR and SSIM over views at the training's full resolution."""
        found = []
        for number in numbers.tolist():
            view = self.training_views.get(number)
            share = 1.0 if view.mask is None else 1 - float(view.mask.float().mean())
            if share == 0:
                continue
            image = _with_masked_pixels(self.draw(view).clamp(0, 1), view)
            error = float(torch.mean((image - view.target) ** 2)) / share
            # Masked pixels are equal and must not raise the score.
            alike = 1 - (1 - ssim(image.cpu().numpy(), view.target.cpu().numpy())) / share
            found.append((-10 * math.log10(max(error, 1e-10)), alike))
        if not found:
            return math.nan, math.nan
        psnr, alike = np.mean(found, axis=0)
        return float(psnr), float(alike)

    @torch.no_grad()
    def poses(self, views: Views) -> np.ndarray[Any, Any]:
        """Return the camera poses, float64 [K, 4, 4], corrected if `refine_poses` is on."""
        moved = views.T_world_camera.copy()
        for number in self.training_views.trained.tolist():
            step = self.corrections.step_of(number)
            if step is not None:
                moved[number] = moved[number] @ invert(step.double().cpu().numpy())
        return moved

    @torch.no_grad()
    def draw(self, view: TrainingView) -> Tensor:
        """Render the Gaussians from a view's camera [H, W, 3], with corrections."""
        rendering = self._render(view, self.options.degree)
        return self.corrections.apply_exposure(view.number, rendering.image)


def _with_masked_pixels(image: Tensor, view: TrainingView) -> Tensor:
    """Return a rendering [H, W, 3] with the image's own pixels where something moves.

    Masked pixels then have neither error nor gradient, whatever the backend's loss is.
    """
    if view.mask is None:
        return image
    return torch.where(view.mask[..., None], view.target, image)
