"""The CPU backend: numba kernels with a hand-written backward pass.

As in gsplat, rendering is three autograd functions (project, shade, rasterize), so that
`info["means2d"]` is part of the graph and gsplat's strategies work unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.autograd import Function

from stages._gaussians.kernels import ThreadPool
from stages._gaussians.passes import (
    Camera,
    Drawing,
    Projection,
    draw_pass,
    draw_pass_backward,
    project_pass,
    project_pass_backward,
    shade_pass,
    shade_pass_backward,
)
from stages._gaussians.selective_adam import SelectiveAdam, step_together
from stages._gaussians.ssim import photometric
from stages.splat._contract import Rendering

__all__ = ["CpuBackend"]

Array = np.ndarray[Any, Any]


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().numpy())


class _Project(Function):
    @staticmethod
    def forward(ctx: Any, means, quats, scales, opacities, view, run):  # type: ignore[override]
        pool, camera, antialiased = run
        inputs = tuple(_array(x) for x in (means, quats, scales, opacities))
        out = project_pass(pool, *inputs, camera, antialiased)
        ctx.run, ctx.inputs, ctx.radii = run, inputs, out.radii
        tensors = [torch.from_numpy(array) for array in out]
        ctx.mark_non_differentiable(tensors[4])
        return tensors[0][None], *tensors[1:]

    @staticmethod
    def backward(ctx: Any, v_means2d, v_depths, v_conics, v_opacities, v_radii):  # type: ignore[override]
        del v_radii
        pool, camera, antialiased = ctx.run
        gradients = tuple(_array(v) for v in (v_means2d[0], v_depths, v_conics, v_opacities))
        outs = project_pass_backward(
            pool, ctx.inputs, camera, antialiased, ctx.radii, gradients, ctx.needs_input_grad[4]
        )
        return *(None if out is None else torch.from_numpy(out) for out in outs), None


class _Shade(Function):
    @staticmethod
    def forward(ctx: Any, means, center, sh0, shN, radii, run):  # type: ignore[override]
        pool, degree = run
        inputs = tuple(_array(x) for x in (means, center, sh0, shN))
        colors = shade_pass(pool, degree, *inputs, radii.numpy())
        ctx.run, ctx.inputs, ctx.radii, ctx.colors = run, inputs, radii.numpy(), colors
        return torch.from_numpy(colors)

    @staticmethod
    def backward(ctx: Any, v_colors):  # type: ignore[override]
        pool, degree = ctx.run
        outs = shade_pass_backward(
            pool, degree, ctx.inputs, ctx.radii, ctx.colors, _array(v_colors)
        )
        return *(torch.from_numpy(out) for out in outs), None, None


class _Rasterize(Function):
    @staticmethod
    def forward(ctx: Any, means2d, depths, conics, opacities, colors, radii, run):  # type: ignore[override]
        pool, size, background = run
        projection = Projection(
            *(_array(x) for x in (means2d[0], depths, conics, opacities)), radii.numpy()
        )
        drawing = draw_pass(pool, projection, _array(colors), background, size)
        ctx.pool, ctx.drawing, ctx.count = pool, drawing, len(depths)
        return torch.from_numpy(drawing.image), torch.from_numpy(1 - drawing.left)

    @staticmethod
    def backward(ctx: Any, v_image, v_alpha):  # type: ignore[override]
        drawing: Drawing = ctx.drawing
        outs = draw_pass_backward(ctx.pool, drawing, ctx.count, _array(v_image), _array(v_alpha))
        v_means2d, *others = (torch.from_numpy(out) for out in outs)
        v_conics, v_opacities, v_colors = others
        return v_means2d[None], None, v_conics, v_opacities, v_colors, None, None


class _Compare(Function):
    @staticmethod
    def forward(ctx: Any, image, target, run):  # type: ignore[override]
        pool, dssim = run
        loss, _, ctx.gradient = photometric(pool, _array(image), _array(target), dssim)
        return image.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, v_loss):  # type: ignore[override]
        return torch.from_numpy(ctx.gradient * v_loss.numpy()), None, None


class CpuBackend:
    """See `stages.splat._contract.RenderBackend`."""

    device = "cpu"

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPool(threads)

    @property
    def free_bytes(self) -> int:
        """See the contract."""
        return psutil.virtual_memory().available

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
        """See the contract."""
        means = gaussians["means"]
        camera = Camera.of(_array(view), _array(K), size, _array(means).dtype)
        means2d, depths, conics, opacities, radii = _Project.apply(
            means,
            gaussians["quats"],
            gaussians["scales"],
            gaussians["opacities"],
            view,
            (self.pool, camera, antialiased),
        )  # type: ignore[misc]
        # -R^T t would have a different gradient for R where R is not exactly a rotation.
        if view.requires_grad:
            center = torch.linalg.inv(view.to(means.dtype))[:3, 3]
        else:
            center = torch.from_numpy(np.linalg.inv(camera.view)[:3, 3].copy())
        colors = _Shade.apply(
            means, center, gaussians["sh0"], gaussians["shN"], radii, (self.pool, degree)
        )
        run = (self.pool, size, _array(background))
        image, alpha = _Rasterize.apply(means2d, depths, conics, opacities, colors, radii, run)  # type: ignore[misc]
        z = None
        if depth:
            layers = depths[:, None].expand(-1, 3)
            run = (self.pool, size, np.zeros(3))
            total, _ = _Rasterize.apply(means2d, depths, conics, opacities, layers, radii, run)  # type: ignore[misc]
            z = total[..., 0] / alpha.clamp_min(1e-10)
        info = {
            "means2d": means2d,
            "radii": radii[None],
            "width": size[0],
            "height": size[1],
            "n_cameras": 1,
            "gaussian_ids": None,
        }
        return Rendering(image, alpha, z, info)

    def loss(self, image: Tensor, target: Tensor, dssim: float) -> Tensor:
        """See the contract."""
        return _Compare.apply(image, target, (self.pool, dssim))  # type: ignore[return-value]

    def optimizer(self, parameter: Tensor, lr: float) -> SelectiveAdam:
        """See the contract."""
        return SelectiveAdam(self.pool, parameter, lr)

    def step(self, optimizers: Iterable[SelectiveAdam], seen: Tensor) -> None:  # type: ignore[override]
        """See the contract."""
        step_together(self.pool, optimizers, seen)

    def close(self) -> None:
        """Stop the threads."""
        self.pool.close()
