"""Kernels: view-dependent color by real spherical harmonics.

Basis and signs of 3DGS (Kerbl et al. 2023) and gsplat, degrees 0 to 3: the color is
max(0, 0.5 + sum of basis times coefficients).
"""

from __future__ import annotations

import numpy as np

from stages._gaussians.kernels import kernel
from stages._gaussians.projection import BLOCK

__all__ = ["SH0", "shade", "shade_backward"]

SH0 = 0.28209479177387814
"""Basis function of degree 0, a constant: sqrt(1 / 4 pi)."""
C1 = 0.4886025119029199
C20, C21, C22 = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
C30, C31, C32 = 0.5900435899266435, 2.890611442640554, 0.4570457994644658
C33, C34 = 0.3731763325901154, 1.445305721320277


@kernel()
def _basis(degree, x, y, z, B):
    """Fill B [15] with the basis functions of degrees 1 and above for a direction."""
    one = B.dtype.type(1)
    B[0], B[1], B[2] = -C1 * one * y, C1 * one * z, -C1 * one * x
    if degree < 2:
        return
    xx, yy, zz = x * x, y * y, z * z
    B[3], B[4] = C20 * one * x * y, -C20 * one * y * z
    B[5] = C21 * one * (2 * zz - xx - yy)
    B[6], B[7] = -C20 * one * x * z, C22 * one * (xx - yy)
    if degree < 3:
        return
    B[8], B[9] = -C30 * one * y * (3 * xx - yy), C31 * one * x * y * z
    B[10] = -C32 * one * y * (4 * zz - xx - yy)
    B[11] = C33 * one * z * (2 * zz - 3 * xx - 3 * yy)
    B[12] = -C32 * one * x * (4 * zz - xx - yy)
    B[13] = C34 * one * z * (xx - yy)
    B[14] = -C30 * one * x * (xx - 3 * yy)


@kernel()
def _slope(degree, x, y, z, g):
    """Return the gradient with respect to (x, y, z) of the sum of g [15] times the basis."""
    one = g.dtype.type(1)
    c1, c20, c21, c22 = C1 * one, C20 * one, C21 * one, C22 * one
    vx, vy, vz = -c1 * g[2], -c1 * g[0], c1 * g[1]
    if degree > 1:
        vx += c20 * (y * g[3] - z * g[6]) + 2 * x * (c22 * g[7] - c21 * g[5])
        vy += c20 * (x * g[3] - z * g[4]) - 2 * y * (c22 * g[7] + c21 * g[5])
        vz += 4 * c21 * z * g[5] - c20 * (y * g[4] + x * g[6])
    if degree > 2:
        c30, c31, c32, c33, c34 = C30 * one, C31 * one, C32 * one, C33 * one, C34 * one
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        vx += (
            -6 * c30 * xy * g[8] + c31 * yz * g[9] + 2 * c32 * xy * g[10] - 6 * c33 * xz * g[11]
            - c32 * (4 * zz - 3 * xx - yy) * g[12] + 2 * c34 * xz * g[13]
            - 3 * c30 * (xx - yy) * g[14]
        )  # fmt: skip
        vy += (
            -3 * c30 * (xx - yy) * g[8] + c31 * xz * g[9] - c32 * (4 * zz - xx - 3 * yy) * g[10]
            - 6 * c33 * yz * g[11] + 2 * c32 * xy * g[12] - 2 * c34 * yz * g[13]
            + 6 * c30 * xy * g[14]
        )  # fmt: skip
        vz += (
            c31 * xy * g[9] - 8 * c32 * yz * g[10] + c33 * (6 * zz - 3 * xx - 3 * yy) * g[11]
            - 8 * c32 * xz * g[12] + c34 * (xx - yy) * g[13]
        )  # fmt: skip
    return vx, vy, vz


@kernel()
def shade(first, last, degree, means, center, sh0, shN, radii, colors):
    """Fill the colors of Gaussians `first` to `last`; invisible ones become black.

    Args:
        first: First row.
        last: One past the last row.
        degree: Degree of the coefficients to use, 0 to 3.
        means: [N, 3] in the world.
        center: [3]: the camera's center in the world.
        sh0: [N, 1, 3]: coefficients of degree 0.
        shN: [N, K, 3] with K 0, 3, 8 or 15: coefficients of higher degrees.
        radii: int32 [N, 2]: invisible where 0.
        colors: Out [N, 3], at least 0; black where the coefficients are not finite.
    """
    one = means.dtype.type(1)
    B = np.zeros(15, means.dtype)
    count = (degree + 1) * (degree + 1) - 1
    for i in range(np.uint64(first), np.uint64(last)):
        r = g = b = one * 0
        if radii[i, 0] > 0:
            c0, half = one * SH0, one * 0.5
            r, g, b = half + c0 * sh0[i, 0, 0], half + c0 * sh0[i, 0, 1], half + c0 * sh0[i, 0, 2]
            if degree > 0:
                x, y, z = means[i, 0] - center[0], means[i, 1] - center[1], means[i, 2] - center[2]
                inverse = one / np.sqrt(max(x * x + y * y + z * z, one * 1e-30))
                _basis(degree, x * inverse, y * inverse, z * inverse, B)
                for k in range(count):
                    r += B[k] * shN[i, k, 0]
                    g += B[k] * shN[i, k, 1]
                    b += B[k] * shN[i, k, 2]
            if not abs(r) + abs(g) + abs(b) < np.inf:
                r = g = b = one * 0
        colors[i, 0], colors[i, 1], colors[i, 2] = (
            max(r, one * 0),
            max(g, one * 0),
            max(b, one * 0),
        )


@kernel()
def shade_backward(
    first, last, degree, means, center, sh0, shN, radii, colors, v_colors,
    v_means, v_center, v_sh0, v_shN,
):  # fmt: skip
    """Backpropagate the gradients of `colors`.

    Args:
        first: First row, a multiple of `BLOCK`.
        last: One past the last row.
        degree: As for `shade`.
        means: As for `shade`.
        center: As for `shade`.
        sh0: As for `shade`.
        shN: As for `shade`.
        radii: As for `shade`.
        colors: Output of `shade`.
        v_colors: [N, 3].
        v_means: Out [N, 3].
        v_center: Out [blocks, 3]: to be summed over the blocks.
        v_sh0: Out [N, 1, 3].
        v_shN: Out [N, K, 3].
    """
    one = means.dtype.type(1)
    B = np.zeros(15, means.dtype)
    dots = np.zeros(15, means.dtype)
    count = (degree + 1) * (degree + 1) - 1
    held = shN.shape[1]
    for i in range(np.uint64(first), np.uint64(last)):
        for c in range(3):
            v_means[i, c] = 0
            v_sh0[i, 0, c] = 0
        # Black has no gradient, and its coefficients may be NaN.
        lit = colors[i, 0] > 0 or colors[i, 1] > 0 or colors[i, 2] > 0
        start = count if lit else 0
        for k in range(start, held):
            for c in range(3):
                v_shN[i, k, c] = 0
        if not lit:
            continue
        vr = v_colors[i, 0] if colors[i, 0] > 0 else one * 0
        vg = v_colors[i, 1] if colors[i, 1] > 0 else one * 0
        vb = v_colors[i, 2] if colors[i, 2] > 0 else one * 0
        c0 = one * SH0
        v_sh0[i, 0, 0], v_sh0[i, 0, 1], v_sh0[i, 0, 2] = c0 * vr, c0 * vg, c0 * vb
        if degree == 0:
            continue
        x, y, z = means[i, 0] - center[0], means[i, 1] - center[1], means[i, 2] - center[2]
        inverse = one / np.sqrt(max(x * x + y * y + z * z, one * 1e-30))
        x, y, z = x * inverse, y * inverse, z * inverse
        _basis(degree, x, y, z, B)
        for k in range(count):
            v_shN[i, k, 0], v_shN[i, k, 1], v_shN[i, k, 2] = B[k] * vr, B[k] * vg, B[k] * vb
            dots[k] = shN[i, k, 0] * vr + shN[i, k, 1] * vg + shN[i, k, 2] * vb
        vx, vy, vz = _slope(degree, x, y, z, dots)
        along = vx * x + vy * y + vz * z
        vx, vy, vz = (
            (vx - along * x) * inverse,
            (vy - along * y) * inverse,
            (vz - along * z) * inverse,
        )
        v_means[i, 0], v_means[i, 1], v_means[i, 2] = vx, vy, vz
        block = i // np.uint64(BLOCK)
        v_center[block, 0] -= vx
        v_center[block, 1] -= vy
        v_center[block, 2] -= vz
