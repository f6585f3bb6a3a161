"""The CPU rasterizer against its dense float64 twin: pictures and every gradient."""

import pytest
import torch

from stages.splat._cpu import CpuBackend
from tests.support import dense_splats

SIZE = (37, 26)
NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN", "view")


def gaussians(count, seed, opaque=False):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    z = 1 + 4 * torch.rand(count, generator=g, dtype=torch.float64)
    xy = 0.55 * normal(count, 2) * z[:, None]
    return {
        "means": torch.cat([xy, z[:, None]], 1),
        "quats": normal(count, 4),
        "scales": (-1.2 if opaque else -1.9) + 0.6 * normal(count, 3),
        "opacities": normal(count) * 0.4 + (6 if opaque else 0),
        "sh0": normal(count, 1, 3),
        "shN": 0.3 * normal(count, 15, 3),
        "view": turned(),
    }


def turned():
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3] = dense_splats.rotation(torch.tensor([[1.0, 0.03, -0.05, 0.02]]).double())[0]
    view[:3, 3] = torch.tensor([0.05, -0.02, 0.1])
    return view


def lens():
    return torch.tensor([[30.0, 0, 18.2], [0, 31.0, 13.3], [0, 0, 1]], dtype=torch.float64)


def run(render, params, dtype, antialiased, degree):
    leaves = {k: v.detach().to(dtype).clone().requires_grad_() for k, v in params.items()}
    background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype)
    scene = {k: v for k, v in leaves.items() if k != "view"}
    out = render(scene, leaves["view"], lens().to(dtype), degree, background, antialiased)
    weights = torch.randn(
        SIZE[1], SIZE[0], 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    ).to(dtype)
    image, alpha, depth = out
    total = (image * weights[..., :3]).sum() + (alpha * weights[..., 3]).sum()
    total = total + (depth * weights[..., 4]).sum()
    total.backward()
    return [x.detach().double() for x in out], {k: v.grad.double() for k, v in leaves.items()}


def dense(g, view, K, degree, background, antialiased):
    return dense_splats.render(
        g, view, K, SIZE, degree=degree, background=background, antialiased=antialiased
    )


def tiles(threads):
    backend = CpuBackend(threads)

    def render(g, view, K, degree, background, antialiased):
        out = backend.render(
            g, view, K, SIZE, degree=degree, background=background, antialiased=antialiased,
            depth=True,
        )  # fmt: skip
        return out.image, out.alpha, out.depth

    return render


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("opaque", [False, True])
def test_every_gradient_is_that_of_the_dense_reference(degree, antialiased, opaque):
    params = gaussians(120, seed=degree, opaque=opaque)
    images, truth = run(dense, params, torch.float64, antialiased, degree)
    if opaque:
        assert (images[1] > 0.9998).any()
    for dtype, near, close in ((torch.float64, 1e-10, 1e-11), (torch.float32, 5e-5, 1e-5)):
        got_images, got = run(tiles(2), params, dtype, antialiased, degree)
        for name, a, b in zip(("image", "alpha"), got_images, images, strict=False):
            assert (a - b).abs().max() < close, name
        for name in NAMES:
            error = (got[name] - truth[name]).abs().max() / truth[name].abs().max().clamp_min(1)
            assert error < near, (name, dtype, float(error))
