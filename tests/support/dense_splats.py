"""The plain twin of the splat rasterizer: every Gaussian at every pixel, in torch, by autograd.

Zwicker et al. 2001 and Kerbl et al. 2023 written down as they stand, for parity tests only.
"""

import torch
from torch import Tensor


def rotation(quats: Tensor) -> Tensor:
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def harmonics(d: Tensor) -> Tensor:
    """The 16 real spherical harmonics of unit directions [N, 3], 3DGS order and signs."""
    x, y, z = d.unbind(-1)
    pi = torch.pi
    basis = [
        torch.full_like(x, 0.5 * (1 / pi) ** 0.5),
        -((3 / (4 * pi)) ** 0.5) * y,
        (3 / (4 * pi)) ** 0.5 * z,
        -((3 / (4 * pi)) ** 0.5) * x,
        0.5 * (15 / pi) ** 0.5 * x * y,
        -0.5 * (15 / pi) ** 0.5 * y * z,
        0.25 * (5 / pi) ** 0.5 * (3 * z * z - 1),
        -0.5 * (15 / pi) ** 0.5 * x * z,
        0.25 * (15 / pi) ** 0.5 * (x * x - y * y),
        -0.25 * (35 / (2 * pi)) ** 0.5 * y * (3 * x * x - y * y),
        0.5 * (105 / pi) ** 0.5 * x * y * z,
        -0.25 * (21 / (2 * pi)) ** 0.5 * y * (5 * z * z - 1),
        0.25 * (7 / pi) ** 0.5 * (5 * z**3 - 3 * z),
        -0.25 * (21 / (2 * pi)) ** 0.5 * x * (5 * z * z - 1),
        0.25 * (105 / pi) ** 0.5 * z * (x * x - y * y),
        -0.25 * (35 / (2 * pi)) ** 0.5 * x * (x * x - 3 * y * y),
    ]
    return torch.stack(basis, -1)


def render(
    g: dict[str, Tensor],
    view: Tensor,
    K: Tensor,
    size: tuple[int, int],
    *,
    degree: int,
    background: Tensor,
    antialiased: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Image [H, W, 3], alpha [H, W] and expected depth [H, W]."""
    width, height = size
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    p = g["means"] @ view[:3, :3].T + view[:3, 3]
    seen = (p[:, 2] > 0.01).nonzero()[:, 0]
    seen = seen[torch.argsort(p[seen, 2].detach(), stable=True)]
    x, y, z = p[seen].unbind(-1)
    M = view[:3, :3] @ rotation(g["quats"][seen]) * torch.exp(g["scales"][seen])[:, None, :]
    mx, my = 0.15 * width / fx, 0.15 * height / fy
    xr = torch.clamp(x / z, -cx / fx - mx, (width - cx) / fx + mx)
    yr = torch.clamp(y / z, -cy / fy - my, (height - cy) / fy + my)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * xr / z, zero, fy / z, -fy * yr / z], -1)
    U = J.reshape(-1, 2, 3) @ M
    sharp = U @ U.transpose(1, 2)
    cov = sharp + 0.3 * torch.eye(2, dtype=z.dtype)
    opacity = torch.sigmoid(g["opacities"][seen])
    if antialiased:
        opacity = opacity * torch.sqrt(torch.clamp(sharp.det() / cov.det(), min=0))
    conic = torch.inverse(cov)
    center = torch.inverse(view)[:3, 3]
    d = torch.nn.functional.normalize(g["means"][seen] - center, dim=-1)
    count = (degree + 1) ** 2
    sh = torch.cat([g["sh0"], g["shN"]], 1)[seen, :count]
    color = torch.clamp_min((harmonics(d)[:, :count, None] * sh).sum(1) + 0.5, 0)
    u = torch.arange(width, dtype=z.dtype) + 0.5
    v = torch.arange(height, dtype=z.dtype) + 0.5
    dx = (fx * x / z + cx)[:, None, None] - u[None, None, :]
    dy = (fy * y / z + cy)[:, None, None] - v[None, :, None]
    A, B, C = conic[:, 0, 0], conic[:, 0, 1], conic[:, 1, 1]
    sigma = 0.5 * (A[:, None, None] * dx * dx + C[:, None, None] * dy * dy)
    sigma = sigma + B[:, None, None] * dx * dy
    alpha = torch.clamp_max(opacity[:, None, None] * torch.exp(-sigma), 0.999)
    alpha = torch.where((alpha >= 1 / 255) & (sigma >= 0), alpha, 0)
    T = torch.ones(height, width, dtype=z.dtype)
    live = torch.ones(height, width, dtype=torch.bool)
    image = torch.zeros(height, width, 3, dtype=z.dtype)
    depth = torch.zeros(height, width, dtype=z.dtype)
    for i in range(len(seen)):
        after = T * (1 - alpha[i])
        live = live & (after > 1e-4)
        w = torch.where(live, alpha[i] * T, 0)
        image = image + w[..., None] * color[i]
        depth = depth + w * z[i]
        T = torch.where(live, after, T)
    return image + T[..., None] * background, 1 - T, depth / (1 - T).clamp_min(1e-10)
