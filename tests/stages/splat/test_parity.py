"""The CPU rasterizer against gsplat: its projection and harmonics, its optimizer, its CUDA."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gsplat import DefaultStrategy, MCMCStrategy
from gsplat.cuda import _torch_impl as gsplat_torch

from pipeline.contract import Splats
from pipeline.errors import PartNotMade
from stages._gaussians.draw import draw
from stages._gaussians.kernels import ThreadPool, exp_negative, kernel
from stages._gaussians.passes import (
    Camera,
    project_pass,
    project_pass_backward,
    shade_pass,
    shade_pass_backward,
)
from stages._gaussians.rasterize import rasterize
from stages._kernels.compiling import _stamp
from stages.splat._cpu import CpuBackend
from stages.splat._cuda import CudaBackend
from tests.stages.splat.test_gradients import SIZE, gaussians, lens

TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 2e-5)]
NAMES = ("means", "quats", "scales", "opacities")


def close(got, truth, near, name):
    """Compare relative to the largest entry, which is what float32 rounds against."""
    got, truth = torch.as_tensor(got).double(), torch.as_tensor(truth).double()
    scale = truth.abs().max().clamp_min(1)
    assert got.shape == truth.shape, name
    assert (got - truth).abs().max() < near * scale, (name, (got - truth).abs().max().item())


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("dtype", "near"), TOLERANCES)
@pytest.mark.parametrize("antialiased", [False, True])
def test_projection_is_gsplats(dtype, near, antialiased):
    scene = gaussians(400, seed=4)
    # Some behind the camera, some beside the image, where the perspective is clamped.
    scene["means"][:20, 2] *= -1
    scene["means"][20:60, :2] *= 3
    leaves = {k: scene[k].clone().requires_grad_() for k in (*NAMES, "view")}
    covars, _ = gsplat_torch._quat_scale_to_covar_preci(
        leaves["quats"], torch.exp(leaves["scales"]), compute_preci=False
    )
    radii, means2d, depths, conics, rho = gsplat_torch._fully_fused_projection(
        leaves["means"], covars, leaves["view"][None], lens()[None], *SIZE, calc_compensations=True
    )
    opacities = torch.sigmoid(leaves["opacities"]) * (rho[0] if antialiased else 1)
    truth = (means2d[0], depths[0], conics[0], opacities)

    arrays = [scene[k].to(dtype).numpy() for k in NAMES]
    camera = Camera.of(scene["view"].numpy(), lens().numpy(), SIZE, arrays[0].dtype)
    got = project_pass(ThreadPool(2), *arrays, camera, antialiased)
    seen = torch.from_numpy(got.radii[:, 0] > 0)
    assert 100 < seen.sum() < 380
    # gsplat's torch does not shrink the box of what is faint, so it sees at least as many.
    assert (radii[0][seen] > 0).all()
    assert (torch.from_numpy(got.radii) <= radii[0]).all()
    weights = [normal(*x.shape, seed=n) * seen.reshape(-1, *[1] * (x.dim() - 1))
               for n, x in enumerate(truth)]  # fmt: skip
    for name, a, b in zip(("means2d", "depths", "conics", "opacities"), got, truth, strict=False):
        close(a[seen.numpy()], b.detach()[seen], near, name)

    sum((w[seen] * x[seen]).sum() for w, x in zip(weights, truth, strict=True)).backward()
    gradients = tuple(w.to(dtype).numpy() for w in weights)
    outs = project_pass_backward(
        ThreadPool(2), tuple(arrays), camera, antialiased, got.radii, gradients, True
    )
    for name, a, leaf in zip((*NAMES, "view"), outs, leaves.values(), strict=True):
        close(a, leaf.grad, near, f"by {name}")


def test_the_box_is_gsplats_where_all_is_opaque():
    scene = gaussians(300, seed=5)
    scene["opacities"][:] = 30
    covars, _ = gsplat_torch._quat_scale_to_covar_preci(scene["quats"], torch.exp(scene["scales"]))
    radii, *_ = gsplat_torch._fully_fused_projection(
        scene["means"], covars, scene["view"][None], lens()[None], *SIZE
    )
    camera = Camera.of(scene["view"].numpy(), lens().numpy(), SIZE, np.float64)
    got = project_pass(ThreadPool(1), *(scene[k].numpy() for k in NAMES), camera, False).radii
    # 3.3291 standard deviations against 3.33: the whole pixel above may be another.
    both = (got > 0).all(axis=1)
    assert (both == (radii[0] > 0).all(dim=1).numpy()).mean() > 0.99
    assert np.abs(got - radii[0].numpy())[both].max() <= 1


@pytest.mark.parametrize(("dtype", "near"), TOLERANCES)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colors_are_gsplats(dtype, near, degree):
    scene = gaussians(300, seed=6)
    center = torch.tensor([0.3, -0.2, 0.1]).double().requires_grad_()
    leaves = [scene[k].clone().requires_grad_() for k in ("means", "sh0", "shN")]
    means, sh0, shN = leaves
    basis = gsplat_torch._spherical_harmonics(degree, means - center, torch.cat([sh0, shN], 1))
    truth = torch.clamp_min(basis + 0.5, 0)
    assert (truth == 0).any()
    weights = normal(300, 3, seed=1)
    gradients = torch.autograd.grad((weights * truth).sum(), [means, center, sh0, shN],
                                    allow_unused=True)  # fmt: skip

    inputs = tuple(x.detach().to(dtype).numpy() for x in (means, center, sh0, shN))
    radii = np.ones((300, 2), np.int32)
    colors = shade_pass(ThreadPool(2), degree, *inputs, radii)
    close(colors, truth.detach(), near, "colors")
    outs = shade_pass_backward(
        ThreadPool(2), degree, inputs, radii, colors, weights.to(dtype).numpy()
    )
    for name, a, b, leaf in zip(
        ("means", "center", "sh0", "shN"), outs, gradients, (means, center, sh0, shN), strict=True
    ):
        close(a, torch.zeros_like(leaf) if b is None else b, near, f"by {name}")


def test_the_fast_exponential_is_exact_to_float32():
    """To 3e-7, and to the rounding of one product where the CPU has no fused multiply-add.

    The exponent is reduced by `whole * ln 2 + x`. Fused, that is exact; otherwise the product, at
    most x + ln 2, is rounded, and an error of the exponent is a relative error of the result.
    """

    @kernel()
    def fill(x, out):
        for i in range(len(x)):
            out[i] = exp_negative(x[i])

    @kernel()
    def multiply_add(a, b, c):
        return a * b + c

    # (1 + 2^-12)^2 is 1 + 2^-11 + 2^-24, of which float32 rounds the last part away.
    near_one = np.float32(1 + 2**-12)
    fused = multiply_add(near_one, near_one, np.float32(-(1 + 2**-11))) != 0
    rounding = 0 if fused else 2**-24
    x = np.linspace(0, 20, 1_000_001).astype(np.float32)
    out = np.empty_like(x)
    fill(x, out)
    truth = np.exp(-x.astype(np.float64))
    assert (np.abs(out / truth - 1) <= 3e-7 + rounding * (x + np.log(2))).all()
    far, rest = np.linspace(20, 80, 100_001).astype(np.float32), np.empty(100_001, np.float32)
    fill(far, rest)
    assert np.abs(rest / np.exp(-far.astype(np.float64)) - 1).max() < 1e-5


def test_what_kernels_inline_is_part_of_their_stamp():
    """numba looks at a kernel's own file alone; a constant of another file would stay stale."""
    folder = Path(rasterize.py_func.__code__.co_filename).parent
    named = ("rasterize.py", "kernels.py", "projection.py", "binning.py")
    files = tuple(folder / name for name in named)
    stamps = {level._impl.locator.get_source_stamp() for level in rasterize._cache._levels}
    assert stamps == {_stamp(files)}
    assert _stamp(files[:-1]) not in stamps


@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 15, 3), (50, 0, 3), (0, 3)])
def test_the_optimizer_is_gsplats(shape):
    """gsplat's adam_kernel (AdamCUDA.cu): no bias correction, rows unseen keep their moments."""
    random = np.random.default_rng(0)
    start = random.normal(size=shape).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(start))
    backend = CpuBackend(2)
    optimizer = backend.optimizer(parameter, lr=0.01)
    value, mean, square = start.astype(float), np.zeros(shape), np.zeros(shape)
    # 1.0f - 0.999f is not 0.001, and the kernel means the former.
    one, b1, b2 = np.float32(1), np.float32(0.9), np.float32(0.999)
    for _ in range(6):
        gradient = random.normal(size=shape).astype(np.float32)
        seen = random.random(shape[0]) < 0.6
        before = parameter.detach().numpy().copy()
        parameter.grad = torch.tensor(gradient)
        optimizer.step(torch.tensor(seen))
        g = gradient.astype(float)
        mean[seen] = float(b1) * mean[seen] + float(one - b1) * g[seen]
        square[seen] = float(b2) * square[seen] + float(one - b2) * g[seen] ** 2
        value[seen] -= 0.01 * mean[seen] / (np.sqrt(square[seen]) + 1e-15)
        got = parameter.detach().numpy()
        assert np.array_equal(got[~seen], before[~seen])
        assert np.allclose(got, value, rtol=1e-5, atol=1e-7)
    if parameter.numel():
        state = optimizer.state[parameter]
        assert np.allclose(state["exp_avg"].numpy(), mean, rtol=1e-5, atol=1e-7)
        assert np.allclose(state["exp_avg_sq"].numpy(), square, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("rest", "antialiased"), [(0, False), (3, False), (8, True), (15, True)])
def test_a_finished_scene_draws_as_it_trained(rest, antialiased):
    scene = {k: v.float() for k, v in gaussians(200, seed=7).items()}
    scene["shN"] = scene["shN"][:, :rest].contiguous()
    scene["scales"] -= 1.5
    view = scene.pop("view").double()
    pose = torch.inverse(view).numpy()
    degree = {0: 0, 3: 1, 8: 2, 15: 3}[rest]
    out = CpuBackend(2).render(
        scene, torch.inverse(torch.tensor(pose)).float(), lens().float(), SIZE, degree=degree,
        background=torch.tensor([0.1, 0.2, 0.3]), antialiased=antialiased, depth=True,
    )  # fmt: skip
    splats = Splats(
        means=scene["means"].numpy(),
        quats=scene["quats"].numpy(),
        log_scales=scene["scales"].numpy(),
        opacity_logits=scene["opacities"].numpy(),
        sh=torch.cat([scene["sh0"], scene["shN"]], 1).numpy(),
        intrinsics=lens().numpy()[None],
        T_world_camera=pose[None],
        held_out=np.zeros(0, np.int32),
        size=SIZE,
        antialiased=antialiased,
    )
    picture = draw(splats, lens().numpy(), pose, SIZE, background=(0.1, 0.2, 0.3), depth=True)
    # The two invert the pose in float64 and in float32, hence not bit for bit.
    close(picture.rgb, out.image.clamp(0, 1), 2e-5, "image")
    close(picture.alpha, out.alpha, 2e-5, "alpha")
    empty = picture.alpha == 0
    assert np.isnan(picture.depth[empty]).all()
    assert empty.any()
    assert not empty.all()
    close(picture.depth[~empty], out.depth[torch.from_numpy(~empty)], 2e-5, "depth")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_backend_says_so():
    with pytest.raises(PartNotMade, match=r"torch finds none: .*or train on the CPU"):
        CudaBackend()


def on_cuda(count=3000, seed=8):
    """A scene of float32 parameters; opaque enough to finish pixels, small enough to resolve."""
    scene = gaussians(count, seed=seed)
    view = scene.pop("view").float()
    scene["scales"] -= 0.8
    size, K = (320, 180), torch.tensor([[250.0, 0, 161.3], [0, 255.0, 88.7], [0, 0, 1]])
    return {k: v.float() for k, v in scene.items()}, view, K, size


def pull(backend, scene, view, K, size, antialiased):
    """Render on a backend and go back from image, alpha and depth."""
    at = torch.device(backend.device)
    leaves = {k: v.to(at).clone().requires_grad_() for k, v in scene.items()}
    there = view.to(at).clone().requires_grad_()
    out = backend.render(
        leaves, there, K.to(at), size, degree=3,
        background=torch.tensor([0.2, 0.5, 0.9], device=at), antialiased=antialiased, depth=True,
    )  # fmt: skip
    out.info["means2d"].retain_grad()
    w = normal(size[1], size[0], 5, seed=9).float().to(at)
    total = (out.image * w[..., :3]).sum() + (out.alpha * w[..., 3]).sum()
    (total + (out.depth * w[..., 4]).sum()).backward()
    gradients = {k: v.grad.cpu() for k, v in leaves.items()}
    gradients["view"] = there.grad.cpu()
    gradients["means2d"] = out.info["means2d"].grad.cpu()
    return out, gradients


@pytest.mark.gpu
@pytest.mark.parametrize("antialiased", [False, True])
def test_cuda_draws_what_the_cpu_draws(antialiased):
    """Image 1e-4, gradients 1e-3.

    Both work in float32, but a Gaussian at 1/255 of alpha, or a pixel at 1e-4 of transmittance, may
    fall on either side: CUDA's __expf is good to some 2 ulp. So a few pixels may differ by a
    faint layer, and gradients are compared in the 2-norm, where these few hardly count; CUDA also
    unrolls the transmittance from 1 - alpha, which costs 1.5e-4 in opaque stacks.
    """
    scene = on_cuda()
    ours, mine = pull(CpuBackend(2), *scene, antialiased)
    theirs, truth = pull(CudaBackend(), *scene, antialiased)
    for name in ("image", "alpha"):
        far = (getattr(ours, name) - getattr(theirs, name).cpu()).abs().detach()
        assert (far > 1e-4).float().mean() < 1e-3, name
        assert far.max() < 0.1, name
    differ = (ours.seen != theirs.seen.cpu()).float().mean()
    assert differ < 1e-3
    for name in mine:
        error = (mine[name] - truth[name]).norm() / truth[name].norm()
        assert error < 1e-3, (name, error.item())


@pytest.mark.gpu
def test_cuda_draws_no_gaussians_as_background():
    scene, view, K, size = on_cuda()
    none = {k: v[:0] for k, v in scene.items()}
    out, gradients = pull(CudaBackend(), none, view, K, size, False)
    assert torch.equal(out.image.cpu(), torch.tensor([0.2, 0.5, 0.9]).expand(180, 320, 3))
    assert not any(v.any() for v in gradients.values())


@pytest.mark.gpu
def test_cudas_loss_keeps_float32():
    image, target = torch.rand(2, 90, 160, 3, generator=torch.Generator().manual_seed(1))
    image.requires_grad_()
    cpu = CpuBackend(1).loss(image, target, 0.2)
    (slope,) = torch.autograd.grad(cpu, image)
    there = image.detach().cuda().requires_grad_()
    loss = CudaBackend().loss(there, target.cuda(), 0.2)
    loss.backward()
    # TF32 would be off by 1e-3.
    assert abs(loss.item() - cpu.item()) < 1e-5
    close(there.grad.cpu() / slope.abs().max(), slope / slope.abs().max(), 1e-4, "gradient")


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", [
    DefaultStrategy(refine_start_iter=0, refine_every=1, grow_grad2d=1e-6),
    MCMCStrategy(refine_start_iter=0, refine_every=1, cap_max=4000),
])  # fmt: skip
def test_cuda_takes_training_steps(strategy):
    backend = CudaBackend()
    scene, view, K, size = on_cuda()
    parameters = {k: torch.nn.Parameter(v.cuda()) for k, v in scene.items()}
    optimizers = {k: backend.optimizer(v, 1e-3) for k, v in parameters.items()}
    strategy.check_sanity(parameters, optimizers)
    state = strategy.initialize_state()
    target = torch.rand(size[1], size[0], 3, generator=torch.Generator().manual_seed(2)).cuda()
    losses = []
    for step in range(1, 4):
        out = backend.render(
            parameters, view.cuda(), K.cuda(), size, degree=3,
            background=torch.zeros(3, device="cuda"),
        )  # fmt: skip
        loss = backend.loss(out.image, target, 0.2)
        mcmc = isinstance(strategy, MCMCStrategy)
        if not mcmc:
            strategy.step_pre_backward(parameters, optimizers, state, step, out.info)
        loss.backward()
        losses.append(loss.item())
        for optimizer in optimizers.values():
            optimizer.step(out.seen)
            optimizer.zero_grad(set_to_none=True)
        more = {"lr": 1e-3} if mcmc else {}
        strategy.step_post_backward(parameters, optimizers, state, step, out.info, **more)
    assert len(parameters["means"]) != len(scene["means"])
    assert all(torch.isfinite(v).all() for v in parameters.values())
    assert np.isfinite(losses).all()
