"""The CPU rasterizer of splats against a pure-torch one: time, threads, memory, start.

    python -m benchmarks.splat_raster [--repeats 5]

The peer is the usual tile rasterizer in plain torch, written as well as that can be: everything
up to the tiles' lists is vectorized over the Gaussians, a tile is one block of [pixels, Gaussians]
per 256 of its list with an early end, and autograd goes back. Both get the same float32 scene
(harmonics of degree 3, a closed surface) and are checked first: 99.9 % of the picture's values
within 1e-4 (a Gaussian at 1/255 of alpha may fall on either side), every gradient within 1e-3 in
the 2-norm. CPU time of forward and backward on one thread, the median over the repetitions.
Threads are compared by wall time, on cores that must be idle. Memory and start (CPU time, which is
wall time on an idle core) are measured in new processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.splat._cpu import CpuBackend
from tests.support.paths import ROOT

TILE = 16
CHUNK = 256
SCENES = ((10_000, 320, 180), (50_000, 320, 180), (50_000, 640, 360), (200_000, 640, 360))
BACKGROUND = (0.2, 0.5, 0.9)
Scene = Mapping[str, Tensor]


def scene(count: int, width: int, height: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return Gaussians that close the picture, some beside it, and the camera's K."""
    random = np.random.default_rng(0)
    z, f = random.uniform(1, 6, count), 0.9 * width
    x = (random.uniform(-0.1, 1.1, count) * width - width / 2) / f * z
    y = (random.uniform(-0.1, 1.1, count) * height - height / 2) / f * z
    pixels = 1.6 * np.sqrt(width * height / count)
    arrays = {
        "means": np.stack([x, y, z], 1),
        "quats": random.normal(size=(count, 4)),
        "scales": np.log(random.lognormal(0, 0.4, (count, 3)) * z[:, None] * pixels / f),
        "opacities": random.normal(0, 2, count),
        "sh0": random.normal(0, 0.5, (count, 1, 3)),
        "shN": random.normal(0, 0.1, (count, 15, 3)),
    }
    K = torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]], dtype=torch.float32)
    return {k: torch.tensor(v, dtype=torch.float32) for k, v in arrays.items()}, K


def basis(d: Tensor) -> Tensor:
    """Return the 16 harmonics of unit directions [N, 3] as [N, 16]."""
    x, y, z = d.unbind(-1)
    xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
    rows = [
        torch.full_like(x, 0.28209479), -0.48860251 * y, 0.48860251 * z, -0.48860251 * x,
        1.09254843 * xy, -1.09254843 * yz, 0.31539157 * (2 * zz - xx - yy), -1.09254843 * xz,
        0.54627422 * (xx - yy), -0.59004359 * y * (3 * xx - yy), 2.89061144 * xy * z,
        -0.45704580 * y * (4 * zz - xx - yy), 0.37317633 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.45704580 * x * (4 * zz - xx - yy), 1.44530572 * z * (xx - yy),
        -0.59004359 * x * (xx - 3 * yy),
    ]  # fmt: skip
    return torch.stack(rows, -1)


def project(g: Scene, K: Tensor, width: int, height: int) -> tuple[Tensor, ...]:
    """Return center, conic, opacity, color and half box of the Gaussians seen, nearest first."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    order = torch.argsort(g["means"].detach()[:, 2], stable=True)
    order = order[g["means"].detach()[order, 2] > 0.01]
    p = g["means"][order]
    x, y, z = p.unbind(-1)
    w, a, b, c = torch.nn.functional.normalize(g["quats"][order], dim=-1).unbind(-1)
    R = torch.stack([
        1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b),
        2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a),
        2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b),
    ], -1).reshape(-1, 3, 3)  # fmt: skip
    M = R * torch.exp(g["scales"][order])[:, None, :]
    mx, my = 0.15 * width / fx, 0.15 * height / fy
    xr = torch.clamp(x / z, -cx / fx - mx, (width - cx) / fx + mx)
    yr = torch.clamp(y / z, -cy / fy - my, (height - cy) / fy + my)
    u = (fx / z)[:, None] * (M[:, 0] - xr[:, None] * M[:, 2])
    v = (fy / z)[:, None] * (M[:, 1] - yr[:, None] * M[:, 2])
    uu, uv, vv = (u * u).sum(-1) + 0.3, (u * v).sum(-1), (v * v).sum(-1) + 0.3
    det = uu * vv - uv * uv
    conic = torch.stack([vv / det, -uv / det, uu / det], -1)
    center = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    opacity = torch.sigmoid(g["opacities"][order])
    sh = torch.cat([g["sh0"], g["shN"]], 1)[order]
    directions = torch.nn.functional.normalize(p, dim=-1)
    color = torch.clamp_min((basis(directions)[..., None] * sh).sum(1) + 0.5, 0)
    with torch.no_grad():
        reach = torch.sqrt(2 * torch.log((255 * opacity).clamp_min(1)))
        box = reach[:, None] * torch.sqrt(torch.stack([uu, vv], -1))
    return center, conic, opacity, color, box


@torch.no_grad()
def lists(center: Tensor, box: Tensor, across: int, down: int) -> tuple[Tensor, list[int]]:
    """Return the Gaussians of every tile, nearest first, and where each tile's list begins."""
    limit = torch.tensor([across, down])
    low = torch.floor((center - box) / TILE).clamp_min(0).long().minimum(limit)
    high = (torch.floor((center + box) / TILE).long() + 1).clamp_min(0).minimum(limit)
    span = (high - low).clamp_min(0) * (box > 0)
    count = span.prod(1)
    gaussian = torch.repeat_interleave(torch.arange(len(count)), count)
    number = torch.arange(len(gaussian)) - (torch.cumsum(count, 0) - count)[gaussian]
    wide = span[gaussian, 0]
    tile = (low[gaussian, 1] + number // wide) * across + low[gaussian, 0] + number % wide
    tile, order = torch.sort(tile, stable=True)
    starts = torch.searchsorted(tile, torch.arange(across * down + 1))
    return gaussian[order], starts.tolist()


def torch_render(g: Scene, K: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the picture [H, W, 3]."""
    width, height = size
    across, down = -(-width // TILE), -(-height // TILE)
    center, conic, opacity, color, box = project(g, K, width, height)
    ids, starts = lists(center.detach(), box, across, down)
    # One gather for all tiles, split: the way back of a gather or a slice fills a whole matrix.
    packed = torch.cat([center, conic, opacity[:, None], color], 1)[ids]
    lengths = [
        [min(CHUNK, end - start) for start in range(begin, end, CHUNK)]
        for begin, end in pairwise(starts)
    ]
    blocks = iter(packed.split([length for row in lengths for length in row]))
    steps = torch.arange(TILE) + 0.5
    px, py = steps.repeat(TILE)[:, None], steps.repeat_interleave(TILE)[:, None]
    background = torch.tensor(BACKGROUND)
    pictures = []
    for tile in range(across * down):
        u, v = px + TILE * (tile % across), py + TILE * (tile // across)
        T = torch.ones(TILE * TILE, 1)
        total = torch.zeros(TILE * TILE, 3)
        unfinished = torch.ones(TILE * TILE, 1, dtype=torch.bool)
        for rows in list(islice(blocks, len(lengths[tile]))):
            x, y, A, B, C, o = rows[:, :6].T
            dx, dy = x - u, y - v
            sigma = 0.5 * (A * dx * dx + C * dy * dy) + B * dx * dy
            alpha = torch.clamp_max(o * torch.exp(-sigma), 0.999)
            alpha = torch.where((alpha >= 1 / 255) & (sigma >= 0), alpha, 0)
            after = T * torch.cumprod(1 - alpha, 1)
            # Transmittance only falls, so what is drawn is a prefix of the list.
            live = (after > 1e-4) & unfinished
            weight = torch.where(live, alpha * torch.cat([T, after[:, :-1]], 1), 0)
            total = total + weight @ rows[:, 6:]
            T = T - weight.sum(1, keepdim=True)
            unfinished = live[:, -1:]
            if not bool(unfinished.any()):
                break
        pictures.append(total + T * background)
    tiles = torch.stack(pictures).reshape(down, across, TILE, TILE, 3)
    return tiles.transpose(1, 2).reshape(down * TILE, across * TILE, 3)[:height, :width]


def ours_render(backend: CpuBackend) -> Callable[[Scene, Tensor, tuple[int, int]], Tensor]:
    view, background = torch.eye(4), torch.tensor(BACKGROUND)

    def render(g: Scene, K: Tensor, size: tuple[int, int]) -> Tensor:
        return backend.render(g, view, K, size, degree=3, background=background).image

    return render


def step(render: Any, g: Scene, K: Tensor, size: tuple[int, int], weights: Tensor) -> Tensor:
    """Render and go back; return the picture."""
    for leaf in g.values():
        leaf.grad = None
    image = render(g, K, size)
    image.backward(weights)
    return image.detach()


def check(ours: Any, g: Scene, K: Tensor, size: tuple[int, int], weights: Tensor) -> None:
    """Raise unless both rasterizers make the same picture and gradients."""
    image = step(ours, g, K, size, weights)
    gradients = {k: v.grad.clone() for k, v in g.items() if v.grad is not None}
    truth = step(torch_render, g, K, size, weights)
    far = float(((image - truth).abs() > 1e-4).float().mean())
    worst = max(
        float((gradients[k] - v.grad).norm() / v.grad.norm())
        for k, v in g.items()
        if v.grad is not None
    )
    if far > 1e-3 or worst > 1e-3 or len(gradients) != 6:
        raise SystemExit(f"not the same: {far:.1%} of the picture, gradients {worst:.1e}")
    print(f"  the same: {1 - far:.3%} of the picture, gradients to {worst:.0e}")


def median(call: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Return the median of the time of a call, ms."""
    spent = []
    for _ in range(repeats):
        start = clock()
        call()
        spent.append(1000 * (clock() - start))
    return statistics.median(spent)


def speed(repeats: int) -> None:
    one, two = CpuBackend(1), CpuBackend(2)
    print(f"{'scene':<16}{'ours CPU ms':>12}{'torch CPU ms':>14}{'ratio':>7}{'2 threads':>11}")
    for count, width, height in SCENES:
        tensors, K = scene(count, width, height)
        g = {k: v.requires_grad_() for k, v in tensors.items()}
        size = (width, height)
        weights = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(1))
        check(ours_render(one), g, K, size, weights)
        mine, ours2 = ours_render(one), ours_render(two)
        ours = median(lambda: step(mine, g, K, size, weights), 3 * repeats, time.process_time)  # noqa: B023
        peer = median(lambda: step(torch_render, g, K, size, weights), repeats, time.process_time)  # noqa: B023
        wall = median(lambda: step(mine, g, K, size, weights), 3 * repeats, time.perf_counter)  # noqa: B023
        both = median(lambda: step(ours2, g, K, size, weights), 3 * repeats, time.perf_counter)  # noqa: B023
        name = f"{width}x{height} {count // 1000}k"
        print(f"{name:<16}{ours:>12.1f}{peer:>14.0f}{peer / ours:>7.1f}{wall / both:>10.2f}x")


MEMORY = """
import torch
from stages.splat._cpu import CpuBackend
torch.set_num_threads(1)
def peak():  # ru_maxrss would be that of the process that started this one
    text = open("/proc/self/status").read()
    return int(text.split("VmHWM:")[1].split()[0]) / 1e6
start = peak()
backend = CpuBackend(2)
tensors, K = scene(200_000, 640, 360)
g = {k: torch.nn.Parameter(v) for k, v in tensors.items()}
optimizers = [backend.optimizer(v, 1e-3) for v in g.values()]
target = torch.rand(360, 640, 3)
for _ in range(2):
    out = backend.render(g, torch.eye(4), K, (640, 360), degree=3, background=torch.zeros(3))
    backend.loss(out.image, target, 0.2).backward()
    for optimizer in optimizers:
        optimizer.step(out.seen)
    for v in g.values():
        v.grad = None
print(start, peak())
"""
START = """
import time
start = time.process_time()
import torch
loaded = time.process_time()
import stages.splat.cpu
from stages.splat._cpu import CpuBackend
imported = time.process_time()
g, K = scene(10_000, 320, 180)
made = time.process_time()
backend = CpuBackend(1)
out = backend.render(g, torch.eye(4), K, (320, 180), degree=3, background=torch.zeros(3))
drawn = time.process_time()
leaves = {k: v.requires_grad_() for k, v in g.items()}
out = backend.render(leaves, torch.eye(4), K, (320, 180), degree=3, background=torch.zeros(3))
backend.loss(out.image, torch.rand(180, 320, 3), 0.2).backward()
back = time.process_time()
print(loaded - start, imported - loaded, drawn - made, back - drawn)
"""


def fresh(program: str, **more: str) -> list[float]:
    """Run a program in a new process; return the numbers that it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        cwd=ROOT, env=environment,
    )  # fmt: skip
    return [float(word) for word in done.stdout.split()]


def starts(repeats: int) -> None:
    """Print the time to the first picture, with and without machine code on disk."""
    with tempfile.TemporaryDirectory() as folder:
        code = {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        fresh(START, **code)
        runs = [fresh(START, **code) for _ in range(repeats)]
        _, _, cold, cold_back = fresh(START, NUMBA_CACHE_DIR=f"{folder}/empty", **code)
    load, imports, draw, back = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"warm start: {imports + draw:.2f} CPU s to the first picture ({imports:.2f} import,")
    print(f"  {draw:.2f} picture; torch's import before it {load:.2f}; way back {back:.2f} more)")
    print(f"cold: {cold:.1f} CPU s to the first picture, {cold_back:.1f} more to the way back")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before, peak = fresh(MEMORY)
    print(f"200k at 640x360, two steps of training: {peak:.2f} GB at most ({before:.2f} on import)")
    starts(arguments.repeats)
    speed(arguments.repeats)


if __name__ == "__main__":
    main()
