"""L1 and SSIM, by the CPU's kernel and by the torch of CUDA, against the formula as it stands."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import conv2d

from stages._gaussians.ssim import ssim
from stages.splat._cpu import CpuBackend
from stages.splat._cuda import photometric as by_torch

SIZES = [(1, 1), (3, 17), (5, 40), (26, 37), (64, 48)]
FORMS = {"kernel": CpuBackend(2).loss, "torch": by_torch}


def plain(image, target, dssim):
    """Wang et al. 2004 channel by channel, with the window as one 11 x 11 convolution."""
    at = torch.arange(11, dtype=image.dtype) - 5
    window = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window = window / window.sum()

    def mean(x):
        return conv2d(x[None, None], window[None, None], padding=5)[0, 0]

    like = []
    for c in range(3):
        x, y = image[..., c], target[..., c]
        mx, my = mean(x), mean(y)
        vx, vy = mean(x * x) - mx**2, mean(y * y) - my**2
        both = mean(x * y) - mx * my
        top = (2 * mx * my + 1e-4) * (2 * both + 9e-4)
        like.append(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return (1 - dssim) * (image - target).abs().mean() + dssim * (1 - torch.stack(like).mean())


def pictures(size, dtype, seed=0):
    random = np.random.default_rng(seed)
    target = random.random((*size, 3))
    image = target + 0.2 * random.normal(size=target.shape)
    # Where both are equal, L1 has no slope.
    image[: size[0] // 3] = target[: size[0] // 3]
    return torch.tensor(image, dtype=dtype), torch.tensor(target, dtype=dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dssim", [0.0, 0.2, 1.0])
def test_loss_and_gradient_are_those_of_the_formula(form, size, dssim):
    image, target = pictures(size, torch.float64)
    image.requires_grad_()
    truth = plain(image, target, dssim)
    (slope,) = torch.autograd.grad(3 * truth, image)
    for dtype, near in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        a = image.detach().to(dtype).requires_grad_()
        loss = FORMS[form](a, target.to(dtype), dssim)
        (got,) = torch.autograd.grad(3 * loss, a)
        assert loss.dtype == got.dtype == dtype
        assert abs(loss.item() - truth.item()) < near
        if dtype == torch.float64:
            assert (got - slope).abs().max() < near * slope.abs().max()
        else:
            # In float32 equal pixels of the two may differ by rounding, and L1 then has a slope.
            differ = image.detach() != target
            assert (got - slope)[differ].abs().max() < near * slope.abs().max()


def test_ssim_is_that_of_scipys_window():
    a, b = (x.numpy() for x in pictures((61, 47), torch.float64, seed=3))
    found = []
    for c in range(3):
        x, y = a[..., c], b[..., c]
        # truncate: radius int(3.5 * 1.5 + 0.5) = 5, the 11 px of the paper.
        mx, my, xx, yy, xy = (
            gaussian_filter(z, 1.5, truncate=3.5, mode="constant")
            for z in (x, y, x * x, y * y, x * y)
        )
        top = (2 * mx * my + 0.01**2) * (2 * (xy - mx * my) + 0.03**2)
        base = (mx * mx + my * my + 0.01**2) * (xx - mx * mx + yy - my * my + 0.03**2)
        found.append(top / base)
    assert abs(ssim(a, b) - np.mean(found)) < 1e-6
    assert ssim(a, a) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_bright_even_patch_stays_finite(form):
    # E[x^2] - E[x]^2 of float32 is then rounding alone, and may be negative.
    for level in np.exp(np.linspace(2, 14, 120)):
        image = torch.full((16, 16, 3), float(level), requires_grad=True)
        loss = FORMS[form](image, torch.full((16, 16, 3), 0.5), 0.2)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(image.grad).all()
        assert abs(loss.item() - 0.8 * (level - 0.5)) < 0.4 + 1e-5 * level
