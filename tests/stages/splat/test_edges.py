"""The CPU rasterizer where it could break: odd Gaussians, odd images, threads, bounds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.splat._cpu import CpuBackend
from tests.support import dense_splats
from tests.support.paths import ROOT

NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN", "view")
SIZE = (37, 26)
BAD = (float("nan"), float("inf"), -float("inf"))


def ordinary(count=60, seed=1):
    """float64 Gaussians in front of a camera that looks along z."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    z = 1 + 4 * torch.rand(count, 1, generator=g, dtype=torch.float64)
    return {
        "means": torch.cat([0.55 * normal(count, 2) * z, z], 1),
        "quats": normal(count, 4),
        "scales": -1.9 + 0.6 * normal(count, 3),
        "opacities": normal(count),
        "sh0": normal(count, 1, 3),
        "shN": 0.3 * normal(count, 15, 3),
    }


def lens(width, height):
    return torch.tensor(
        [[0.8 * width, 0, width / 2 + 0.2], [0, 0.8 * width, height / 2], [0, 0, 1]]
    )


def pull(render, scene, size, dtype, antialiased=False):
    """Return [image, alpha, depth] and the gradients of a weighted sum of all three."""
    leaves = {k: v.to(dtype).clone().requires_grad_() for k, v in scene.items()}
    leaves["view"] = torch.eye(4, dtype=dtype).requires_grad_()
    background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype)
    out = render(leaves, leaves["view"], lens(*size).to(dtype), size, background, antialiased)
    g = torch.Generator().manual_seed(2)
    w = torch.randn(size[1], size[0], 5, generator=g, dtype=torch.float64).to(dtype)
    total = (out[0] * w[..., :3]).sum() + (out[1] * w[..., 3]).sum() + (out[2] * w[..., 4]).sum()
    # The dense twin has no graph where nothing is seen.
    (total + sum(0 * torch.nan_to_num(v, 0, 0, 0).sum() for v in leaves.values())).backward()
    return [x.detach() for x in out], {k: v.grad for k, v in leaves.items()}


def tiles(threads=2):
    backend = CpuBackend(threads)

    def render(g, view, K, size, background, antialiased):
        out = backend.render(
            g, view, K, size, degree=3, background=background, antialiased=antialiased, depth=True
        )
        assert out.depth is not None
        return out.image, out.alpha, out.depth

    return render


def dense(g, view, K, size, background, antialiased):
    return dense_splats.render(
        g, view, K, size, degree=3, background=background, antialiased=antialiased
    )


def finite(images, gradients):
    for x in (*images, *gradients.values()):
        assert torch.isfinite(x).all()
    assert ((images[1] >= 0) & (images[1] <= 1)).all()


def agree(scene, size, antialiased=False, exact=1e-9, close=2e-3):
    """Compare with the dense twin, relative to the largest entry of each gradient.

    In float32 a pixel where a Gaussian has 1/255 of alpha may fall on the other side. Image and
    alpha then change by 1/255, and so does the sum of depths times weights. The depth itself is
    that sum over alpha: it jumps from 0 to the Gaussian's where nothing else is in the pixel.
    """
    truth, slopes = pull(dense, scene, size, torch.float64, antialiased)
    for dtype, near, rare, most, slope in (
        (torch.float64, exact, 0, exact, exact),
        (torch.float32, 1e-4, 0.01, 0.01, close),
    ):
        images, gradients = pull(tiles(), scene, size, dtype, antialiased)
        finite(images, gradients)
        for name, a, b in zip(("image", "alpha", "depth"), images, truth, strict=True):
            far = (a - b).abs() / b.abs().max().clamp_min(1)
            assert (far > near).double().mean() <= rare, (name, dtype)
            if name == "depth":
                far = (a * images[1] - b * truth[1]).abs() / b.abs().max().clamp_min(1)
            assert far.max() <= most, (name, dtype)
        for name in NAMES:
            error = (gradients[name] - slopes[name]).abs().flatten()
            scale = slopes[name].abs().flatten()
            if len(error):
                assert error.max() <= slope * scale.max().clamp_min(1), (name, dtype)


def changed(count=40, seed=1, **new):
    scene = ordinary(count, seed)
    for name, value in new.items():
        scene[name] = value(scene[name]) if callable(value) else torch.full_like(scene[name], value)
    return scene


def flat(means):
    means[:, 2] = 2
    return means


def needle(length, width):
    return lambda scales: torch.tensor([length, width, width]).double().expand_as(scales).clone()


ODD = {
    "one": lambda: ordinary(1),
    "none": lambda: ordinary(0),
    "inside": lambda: changed(means=lambda m: m * torch.tensor([0.001, 0.001, 0.01]), scales=1.0),
    "at the near plane": lambda: changed(means=lambda m: m * torch.tensor([0.02, 0.02, 0.01])),
    "behind": lambda: changed(means=lambda m: m * torch.tensor([1, 1, -1])),
    "half behind": lambda: changed(means=lambda m: m - torch.tensor([0, 0, 3])),
    "beside": lambda: changed(means=lambda m: m + torch.tensor([90, 0, 0])),
    "at the edges": lambda: changed(means=lambda m: m * torch.tensor([2.5, 2.5, 1])),
    "points": lambda: changed(scales=-100.0),
    "size zero": lambda: changed(scales=-float("inf")),
    "walls": lambda: changed(scales=10.0),
    "discs": lambda: changed(scales=lambda s: s + torch.tensor([4, 4, -8])),
    "transparent": lambda: changed(opacities=-100.0),
    "opaque": lambda: changed(opacities=100.0),
    "both": lambda: changed(opacities=lambda o: 100 * o.sign()),
    "infinitely opaque": lambda: changed(opacities=float("inf")),
    "equal depths": lambda: changed(means=flat),
    "long quaternions": lambda: changed(quats=lambda q: q * 1e6),
    "short quaternions": lambda: changed(quats=lambda q: q * 1e-6),
    "all black": lambda: changed(sh0=-50.0),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_gaussians_are_drawn_as_by_the_dense_twin(name):
    agree(ODD[name](), SIZE)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (16, 16), (17, 15), (33, 47)])
@pytest.mark.parametrize("antialiased", [False, True])
def test_any_size_of_image_is_drawn(size, antialiased):
    agree(ordinary(50), size, antialiased)


@pytest.mark.parametrize("antialiased", [False, True])
def test_a_needle_keeps_its_shape_in_float32(antialiased):
    # 500 px long. Both forms of the conic lose digits: the twin's inverse in float64 too. The
    # gradients by center and rotation cancel to 1e-7 of their terms times the length squared.
    scene = changed(scales=needle(4.0, -4.0))
    agree(scene, SIZE, antialiased, exact=1e-6, close=0.05)


def test_equal_depths_are_drawn_in_their_order():
    scene = changed(2, means=0.0, scales=-1.0, opacities=100.0, shN=0.0, quats=1.0)
    scene["means"][:, 2] = 2
    scene["sh0"][0], scene["sh0"][1] = 1.0, -1.0
    for order in ([0, 1], [1, 0]):
        images, _ = pull(tiles(), {k: v[order] for k, v in scene.items()}, SIZE, torch.float32)
        front = 0.5 + 0.28209479 * (1 if order[0] == 0 else -1)
        assert abs(float(images[0][13, 18].mean()) - front) < 2e-3


def test_two_thousand_in_one_pixel():
    scene = ordinary(2000)
    scene["means"] = 1e-4 * scene["means"] + torch.tensor([0.01, 0.02, 0])
    # Further apart than float32 can tell, which is how they are sorted.
    scene["means"][:, 2] = 2 + 1e-4 * torch.randperm(
        2000, generator=torch.Generator().manual_seed(5)
    )
    scene["scales"] = scene["scales"] - 2
    # 0.7 %: some 1,300 layers until the pixel is full.
    scene["opacities"] = -5 + 0.1 * scene["opacities"]
    agree(scene, (5, 4))


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", NAMES[:-1])
def test_what_is_not_finite_is_not_there(name, value, antialiased):
    """As if those Gaussians were absent (black, where only the color is bad); no gradient."""
    bad = torch.arange(0, 40, 3)
    rest = torch.tensor([i for i in range(40) if i % 3])
    scene = ordinary(40)
    scene[name].reshape(40, -1)[bad, 0] = value
    for dtype in (torch.float32, torch.float64):
        images, gradients = pull(tiles(), scene, SIZE, dtype, antialiased)
        finite(images, gradients)
        if name in ("sh0", "shN"):
            scene["sh0"][bad], scene["shN"][bad] = -50, 0
        elif (name, value) in (("opacities", float("inf")), ("scales", -float("inf"))):
            continue  # Fully opaque, and flat: both can be drawn.
        alone = scene if name in ("sh0", "shN") else {k: v[rest] for k, v in scene.items()}
        truth, slopes = pull(tiles(), alone, SIZE, dtype, antialiased)
        for a, b in zip(images, truth, strict=True):
            assert torch.equal(a, b)
        if name not in ("sh0", "shN"):
            for key in NAMES[:-1]:
                assert torch.equal(gradients[key][rest], slopes[key])
                assert not gradients[key][bad].any()


def test_a_quaternion_of_zero_is_not_drawn():
    scene = ordinary(40)
    scene["quats"][::2] = 0
    images, gradients = pull(tiles(), scene, SIZE, torch.float32)
    finite(images, gradients)
    truth, _ = pull(tiles(), {k: v[1::2] for k, v in scene.items()}, SIZE, torch.float32)
    assert torch.equal(images[0], truth[0])


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("spread", [1, 4, 12])
def test_no_size_makes_nan(spread, antialiased):
    render = tiles(1)
    for middle in range(-100, 61, 10):
        scene = ordinary(60, seed=abs(middle))
        scene["scales"] = middle + spread * (scene["scales"] + 1.9) / 0.6
        for dtype in (torch.float32, torch.float64):
            finite(*pull(render, scene, SIZE, dtype, antialiased))


def train(threads):
    """One step on 10,000 Gaussians at 320x180: everything that it makes, by name."""
    backend = CpuBackend(threads)
    size = (320, 180)
    leaves = {k: v.float().requires_grad_() for k, v in ordinary(10_000, seed=3).items()}
    leaves["view"] = torch.eye(4).requires_grad_()
    out = backend.render(
        leaves, leaves["view"], lens(*size), size, degree=3,
        background=torch.tensor([0.2, 0.5, 0.9]), depth=True,
    )  # fmt: skip
    out.info["means2d"].retain_grad()
    target = torch.rand(180, 320, 3, generator=torch.Generator().manual_seed(4))
    loss = backend.loss(out.image, target, 0.2)
    (loss + out.depth.mean() + out.alpha.mean()).backward()
    made = {"image": out.image, "alpha": out.alpha, "depth": out.depth, "loss": loss}
    made["by means2d"] = out.info["means2d"].grad
    for name, leaf in leaves.items():
        made[f"by {name}"] = leaf.grad
        if name != "view":
            optimizer = backend.optimizer(torch.nn.Parameter(leaf.detach().clone()), 1e-3)
            parameter = optimizer.param_groups[0]["params"][0]
            parameter.grad = leaf.grad
            optimizer.step(out.seen)
            made[f"{name} after"] = parameter
    backend.close()
    return {k: v.detach() for k, v in made.items()}


def test_results_are_bit_equal_for_any_number_of_threads():
    alone = train(1)
    assert (alone["alpha"] > 0.9).float().mean() > 0.1
    for threads in (2, 4):
        for name, value in train(threads).items():
            assert torch.equal(value, alone[name]), (name, threads)


CHECKED = """
import numpy as np, pytest, torch
from tests.stages.splat.test_edges import ODD, SIZE, changed, needle, ordinary, pull, tiles
from stages._gaussians.rasterize import gather
with pytest.raises(IndexError):  # or the checks below would check nothing
    gather(0, 3, np.zeros(1, np.int32), np.zeros(2, np.int64), *(np.zeros(s, np.float32)
           for s in ((1, 9), (1, 2), (1, 3), (1,), (1, 3))))
render = tiles(2)
scenes = [make() for make in ODD.values()] + [ordinary(6000)]
scenes += [changed(scales=needle(a, b)) for a in (4., 7., 9., 10., 13.) for b in (-9., -12., -2.)]
for scene in scenes:
    for size in (SIZE, (1, 1), (100, 50), (16, 33)):
        for antialiased in (False, True):
            pull(render, scene, size, torch.float32, antialiased)
from stages.splat._cpu import CpuBackend
for size in ((1, 1), (2, 40), (40, 2), (37, 26)):
    image = torch.rand(*size, 3, requires_grad=True)
    CpuBackend(2).loss(image, torch.rand(*size, 3), 0.2).backward()
parameter = torch.nn.Parameter(torch.rand(5000, 15, 3))
parameter.grad = torch.rand(5000, 15, 3)
CpuBackend(2).optimizer(parameter, 0.1).step(torch.rand(5000) < 0.5)
print("in bounds")
"""


@pytest.mark.slow
def test_no_kernel_reads_or_writes_out_of_bounds(pytestconfig: pytest.Config, tmp_path: Path):
    # Compiling takes most of the time: the checked machine code is kept between runs.
    kept = getattr(pytestconfig, "cache", None)
    folder = tmp_path if kept is None else kept.mkdir("bounds-checked")
    environment = {
        **os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "1", "NUMBA_CACHE_DIR": str(folder),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CHECKED], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.stdout == "in bounds\n", done.stderr[-3000:]
