"""Gaussian splats on CUDA: gsplat's own kernels behind the `RenderBackend` interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.backends import cudnn
from torch.nn.functional import conv2d
from torch.optim import Optimizer

from pipeline.errors import PartNotMade, require
from stages._gaussians.passes import EPS2D, FAR, NEAR
from stages._gaussians.ssim import C1, C2, REACH, WINDOW
from stages.splat._contract import Rendering

__all__ = ["CudaBackend", "photometric"]

CURE = "install CUDA's driver and toolkit (nvcc), or train on the CPU with splat.model=cpu"


class _Blur(Function):
    """SSIM's window along rows, then along columns, of [C, 1, H, W]; 0 outside the image.

    The window is symmetric, so the backward pass is the same blur.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Tensor) -> Tensor:  # type: ignore[override]
        ctx.window = window
        return _blur(x, window)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _blur(v, ctx.window), None


def _blur(x: Tensor, window: Tensor) -> Tensor:
    # TF32, cuDNN's default, has 10 bits of mantissa, too few for variances as differences.
    with cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
        x = conv2d(x, window[None, None, None, :], padding=(0, REACH))
        return conv2d(x, window[None, None, :, None], padding=(REACH, 0))


def photometric(image: Tensor, target: Tensor, dssim: float) -> Tensor:
    """Return (1 - dssim) L1 + dssim (1 - SSIM) of two images [H, W, 3] on any device.

    The window and the border are those of `stages._gaussians.ssim` (Wang et al. 2004, as in
    3DGS). The 5 moments of the 3 channels are a batch of 15 in one separable convolution.
    """
    window = torch.from_numpy(WINDOW).to(image)
    a, b = image.permute(2, 0, 1), target.to(image).permute(2, 0, 1)
    stack = torch.cat([a, b, a * a, b * b, a * b])[:, None]
    ma, mb, aa, bb, ab = _Blur.apply(stack, window)[:, 0].chunk(5)  # type: ignore[index]
    # Rounding can make the variance of a bright, uniform patch negative.
    va, vb = (aa - ma * ma).clamp_min(0), (bb - mb * mb).clamp_min(0)
    like = (2 * ma * mb + C1) * (2 * (ab - ma * mb) + C2)
    like = like / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    return (1 - dssim) * (image - target).abs().mean() + dssim * (1 - like.mean())


class CudaBackend:
    """See `stages.splat._contract.RenderBackend`.

    Raises:
        PartNotMade: There is no CUDA device, or gsplat's kernels neither load nor compile.
        UsageError: gsplat is not installed.
    """

    device = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise PartNotMade(f"splats on CUDA need an NVIDIA GPU, but torch finds none: {CURE}")
        self._gsplat = require("gsplat")
        try:
            # Compiles the kernels if the wheel does not contain them, which takes minutes once.
            kernels = require("gsplat.cuda._backend")._C
        except (RuntimeError, OSError) as error:
            first = str(error).partition("\n")[0]
            raise PartNotMade(f"gsplat's CUDA kernels do not compile ({first}): {CURE}") from error
        if kernels is None:
            raise PartNotMade(f"gsplat has no CUDA kernels and no nvcc to compile them: {CURE}")

    @property
    def free_bytes(self) -> int:
        """See the contract."""
        return torch.cuda.mem_get_info()[0]

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
        if len(gaussians["means"]) == 0:
            return _nothing(gaussians, view, size, background, depth)
        picture, alpha, info = self._gsplat.rasterization(
            gaussians["means"],
            gaussians["quats"],
            torch.exp(gaussians["scales"]),
            torch.sigmoid(gaussians["opacities"]),
            torch.cat([gaussians["sh0"], gaussians["shN"]], 1),
            view[None],
            K[None],
            *size,
            near_plane=NEAR,
            far_plane=FAR,
            eps2d=EPS2D,
            sh_degree=degree,
            packed=False,
            backgrounds=background[None],
            render_mode="RGB+ED" if depth else "RGB",
            absgrad=False,
            rasterize_mode="antialiased" if antialiased else "classic",
        )
        z = picture[0, ..., 3] if depth else None
        return Rendering(picture[0, ..., :3], alpha[0, ..., 0], z, info)

    def loss(self, image: Tensor, target: Tensor, dssim: float) -> Tensor:
        """See the contract."""
        return photometric(image, target, dssim)

    def optimizer(self, parameter: Tensor, lr: float) -> Optimizer:
        """See the contract."""
        group = {"params": [parameter], "lr": lr}
        return self._gsplat.SelectiveAdam([group], eps=1e-15, betas=(0.9, 0.999))

    def step(self, optimizers: Iterable[Optimizer], seen: Tensor) -> None:
        """See the contract."""
        for optimizer in optimizers if len(seen) else ():
            optimizer.step(seen)  # type: ignore[arg-type]

    def close(self) -> None:
        """Release unused memory to the device."""
        torch.cuda.empty_cache()


def _nothing(
    gaussians: Mapping[str, Tensor],
    view: Tensor,
    size: tuple[int, int],
    background: Tensor,
    depth: bool,
) -> Rendering:
    """Return the background, since gsplat's kernels divide by the number of Gaussians.

    All inputs, and `means2d`, stay in the graph, with gradients of 0.
    """
    width, height = size
    means2d = gaussians["means"][None, :, :2] * 1
    none = sum((tensor.sum() for tensor in gaussians.values()), means2d.sum() + 0 * view.sum())
    blank = none.expand(height, width)
    info = {
        "means2d": means2d,
        "radii": torch.zeros((1, 0, 2), dtype=torch.int32, device=means2d.device),
        "width": width,
        "height": height,
        "n_cameras": 1,
        "gaussian_ids": None,
    }
    image = background.expand(height, width, 3) + none
    return Rendering(image, blank, blank if depth else None, info)
