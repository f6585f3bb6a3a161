"""Kernels: projection of 3D Gaussians to ellipses on the image, and its gradients.

Zwicker et al. 2001, EWA volume splatting, with gsplat's conventions: the covariance
R S S R^T is transformed by the camera and the Jacobian of the perspective, and `eps2d` px^2 of
blur are added. With M = R S and U = J W M the covariance on the image is U U^T: its determinant is
a sum of squares, and the chain rule stays short.

Letters: N Gaussians. All arrays have the same float type.
"""

from __future__ import annotations

import math

import numpy as np

from stages._gaussians.kernels import kernel

__all__ = ["ALPHA_MIN", "BLOCK", "project", "project_backward"]

ALPHA_MIN = 1.0 / 255.0
"""Alpha below which nothing is drawn (3DGS)."""
REACH = 3.33
"""Number of standard deviations at which an opaque Gaussian has faded to `ALPHA_MIN`."""
BLOCK = 1024
"""Sums over Gaussians are computed per block, so that they do not depend on the threads."""


@kernel()
def _rotation(w, x, y, z):
    """Return the rows of the rotation matrix of a unit quaternion, as 9 numbers."""
    return (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )


@kernel()
def _unit(q0, q1, q2, q3, one):
    """Return a normalized quaternion and the inverse of its length."""
    inverse = one / np.sqrt(q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3)
    return q0 * inverse, q1 * inverse, q2 * inverse, q3 * inverse, inverse


@kernel()
def _clamp_ratio(t, center, focal, size, one):
    """Clamp x/z to the image and 30 % of its half width around it, as 3DGS does."""
    margin = one * 0.15 * size / focal
    low, high = -center / focal - margin, (size - center) / focal + margin
    return min(max(t, low), high), low <= t <= high


@kernel()
def _cross(U):
    """Return the cross product of the rows of U [2, 3]; its square is det(U U^T) (Lagrange).

    As a difference of products, float32 loses the determinant of needles of about 500 px and more.
    """
    return (
        U[0, 1] * U[1, 2] - U[0, 2] * U[1, 1],
        U[0, 2] * U[1, 0] - U[0, 0] * U[1, 2],
        U[0, 0] * U[1, 1] - U[0, 1] * U[1, 0],
    )


@kernel()
def project(
    first, last, means, quats, log_scales, logits, view, lens, frame, antialiased,
    means2d, depths, conics, opacities, radii,
):  # fmt: skip
    """Project Gaussians `first` to `last`; invisible Gaussians get radii 0.

    Args:
        first: First row.
        last: One past the last row.
        means: [N, 3] in the world.
        quats: [N, 4] wxyz, any length above 0.
        log_scales: [N, 3], world units.
        logits: [N]: the opacity before the sigmoid.
        view: [4, 4]: world to camera.
        lens: [4] fx, fy, cx, cy in px.
        frame: [5] width, height, near plane, far plane, eps2d in px^2.
        antialiased: Whether opacity is reduced to compensate for the blur.
        means2d: Out [N, 2] px.
        depths: Out [N]: z in the camera's frame.
        conics: Out [N, 3]: xx, xy, yy of the inverse covariance.
        opacities: Out [N]: opacity in 0..1 with antialiasing applied.
        radii: Out int32 [N, 2]: half size of the box outside which alpha is below `ALPHA_MIN`.
    """
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    width, height, near, far, eps2d = frame[0], frame[1], frame[2], frame[3], frame[4]
    one = means.dtype.type(1)
    U = np.empty((2, 3), means.dtype)
    for i in range(np.uint64(first), np.uint64(last)):
        radii[i, 0] = 0
        radii[i, 1] = 0
        means2d[i, 0] = means2d[i, 1] = 0
        depths[i] = 0
        conics[i, 0] = conics[i, 1] = conics[i, 2] = 0
        opacities[i] = 0
        X, Y, Z = means[i, 0], means[i, 1], means[i, 2]
        z = view[2, 0] * X + view[2, 1] * Y + view[2, 2] * Z + view[2, 3]
        if not (near < z < far):
            continue
        x = view[0, 0] * X + view[0, 1] * Y + view[0, 2] * Z + view[0, 3]
        y = view[1, 0] * X + view[1, 1] * Y + view[1, 2] * Z + view[1, 3]
        opacity = one / (one + math.exp(-logits[i]))
        w, a, b, c, inverse = _unit(quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3], one)
        if not (opacity >= ALPHA_MIN and inverse < np.inf):
            continue
        iz = one / z
        xr, _ = _clamp_ratio(x * iz, cx, fx, width, one)
        yr, _ = _clamp_ratio(y * iz, cy, fy, height, one)
        R = _rotation(w, a, b, c)
        c00 = c01 = c11 = one * 0
        for k in range(3):
            s = math.exp(log_scales[i, k])
            m0, m1, m2 = R[k] * s, R[3 + k] * s, R[6 + k] * s
            p0 = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2
            p1 = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2
            p2 = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2
            u0 = fx * iz * (p0 - xr * p2)
            u1 = fy * iz * (p1 - yr * p2)
            U[0, k], U[1, k] = u0, u1
            c00 += u0 * u0
            c01 += u0 * u1
            c11 += u1 * u1
        b00, b11 = c00 + eps2d, c11 + eps2d
        n0, n1, n2 = _cross(U)
        sharp = n0 * n0 + n1 * n1 + n2 * n2
        det = sharp + eps2d * (c00 + b11)
        if not (0 < det < np.inf):
            continue
        if antialiased:
            opacity *= np.sqrt(sharp / det)
            if not opacity >= ALPHA_MIN:
                continue
        u, v = fx * x * iz + cx, fy * y * iz + cy
        reach = min(one * REACH, np.sqrt(2 * math.log(opacity / ALPHA_MIN)))
        rx, ry = math.ceil(reach * np.sqrt(b00)), math.ceil(reach * np.sqrt(b11))
        if not (rx > 0 and ry > 0 and u + rx > 0 and u - rx < width):
            continue
        if not (v + ry > 0 and v - ry < height):
            continue
        means2d[i, 0], means2d[i, 1] = u, v
        depths[i] = z
        conics[i, 0], conics[i, 1], conics[i, 2] = b11 / det, -c01 / det, b00 / det
        opacities[i] = opacity
        # A Gaussian around the camera covers the image: any radius beyond the image is enough.
        radii[i, 0] = np.int32(min(rx, 1_000_000_000))
        radii[i, 1] = np.int32(min(ry, 1_000_000_000))


@kernel()
def project_backward(
    first, last, means, quats, log_scales, logits, view, lens, frame, antialiased, radii,
    v_means2d, v_depths, v_conics, v_opacities,
    v_means, v_quats, v_log_scales, v_logits, v_view, wants_view,
):  # fmt: skip
    """Backpropagate gradients of the outputs of `project` to its inputs.

    Args:
        first: First row, a multiple of `BLOCK`.
        last: One past the last row.
        means: As for `project`.
        quats: As for `project`.
        log_scales: As for `project`.
        logits: As for `project`.
        view: As for `project`.
        lens: As for `project`.
        frame: As for `project`.
        antialiased: As for `project`.
        radii: Output of `project`.
        v_means2d: [N, 2]: gradient of the loss, as are the others.
        v_depths: [N].
        v_conics: [N, 3].
        v_opacities: [N].
        v_means: Out [N, 3]: gradient of the loss, as are the others; 0 where radii are 0.
        v_quats: Out [N, 4].
        v_log_scales: Out [N, 3].
        v_logits: Out [N].
        v_view: Out [blocks, 3, 4]: to be summed over the blocks.
        wants_view: Whether to compute `v_view`.
    """
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    width, height, eps2d = frame[0], frame[1], frame[4]
    one = means.dtype.type(1)
    half = one * 0.5
    M = np.empty((3, 3), means.dtype)
    P = np.empty((3, 3), means.dtype)
    U = np.empty((2, 3), means.dtype)
    scales = np.empty(3, means.dtype)
    vR = np.empty((3, 3), means.dtype)
    for i in range(np.uint64(first), np.uint64(last)):
        for k in range(3):
            v_means[i, k] = 0
            v_log_scales[i, k] = 0
        for k in range(4):
            v_quats[i, k] = 0
        v_logits[i] = 0
        if radii[i, 0] == 0:
            continue
        # Recompute the forward pass.
        X, Y, Z = means[i, 0], means[i, 1], means[i, 2]
        x = view[0, 0] * X + view[0, 1] * Y + view[0, 2] * Z + view[0, 3]
        y = view[1, 0] * X + view[1, 1] * Y + view[1, 2] * Z + view[1, 3]
        z = view[2, 0] * X + view[2, 1] * Y + view[2, 2] * Z + view[2, 3]
        iz = one / z
        xr, x_free = _clamp_ratio(x * iz, cx, fx, width, one)
        yr, y_free = _clamp_ratio(y * iz, cy, fy, height, one)
        w, a, b, c, inverse = _unit(quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3], one)
        R = _rotation(w, a, b, c)
        c00 = c01 = c11 = one * 0
        for k in range(3):
            s = math.exp(log_scales[i, k])
            scales[k] = s
            M[0, k], M[1, k], M[2, k] = R[k] * s, R[3 + k] * s, R[6 + k] * s
            for j in range(3):
                P[j, k] = view[j, 0] * M[0, k] + view[j, 1] * M[1, k] + view[j, 2] * M[2, k]
            U[0, k] = fx * iz * (P[0, k] - xr * P[2, k])
            U[1, k] = fy * iz * (P[1, k] - yr * P[2, k])
            c00 += U[0, k] * U[0, k]
            c01 += U[0, k] * U[1, k]
            c11 += U[1, k] * U[1, k]
        b00, b11 = c00 + eps2d, c11 + eps2d
        n = _cross(U)
        sharp = n[0] * n[0] + n[1] * n[1] + n[2] * n[2]
        det = sharp + eps2d * (c00 + b11)
        A, B, C = b11 / det, -c01 / det, b00 / det
        # H is the gradient of the covariance, from -Y G Y with Y the conic.
        g0, g1, g2 = v_conics[i, 0], half * v_conics[i, 1], v_conics[i, 2]
        t0, t1 = A * g0 + B * g1, A * g1 + B * g2
        s0, s1 = B * g0 + C * g1, B * g1 + C * g2
        h00, h01, h11 = -(t0 * A + t1 * B), -(t0 * B + t1 * C), -(s0 * B + s1 * C)
        opacity = one / (one + math.exp(-logits[i]))
        v_opacity = v_opacities[i]
        v_sharp = one * 0
        if antialiased:
            rest = sharp / det
            rho = np.sqrt(rest)
            v_rest = v_opacity * opacity * half / rho / det
            h00 -= v_rest * rest * eps2d
            h11 -= v_rest * rest * eps2d
            v_sharp = v_rest * eps2d * (c00 + b11) / det
            v_opacity *= rho
        v_logits[i] = v_opacity * opacity * (one - opacity)
        # U = J P; J = [[fx/z, 0, -fx xr/z], [0, fy/z, -fy yr/z]].
        vx = v_means2d[i, 0] * fx * iz
        vy = v_means2d[i, 1] * fy * iz
        vz = v_depths[i] - (vx * x + vy * y) * iz
        v_xr = v_yr = one * 0
        for j in range(3):
            for k in range(3):
                vR[j, k] = 0
        vM = vR
        for k in range(3):
            j, m = (k + 1) % 3, (k + 2) % 3
            w0 = 2 * (h00 * U[0, k] + h01 * U[1, k] + v_sharp * (U[1, j] * n[m] - U[1, m] * n[j]))
            w1 = 2 * (h01 * U[0, k] + h11 * U[1, k] + v_sharp * (n[j] * U[0, m] - n[m] * U[0, j]))
            v_xr -= w0 * fx * iz * P[2, k]
            v_yr -= w1 * fy * iz * P[2, k]
            vz -= (w0 * U[0, k] + w1 * U[1, k]) * iz
            p0, p1 = w0 * fx * iz, w1 * fy * iz
            p2 = -(p0 * xr + p1 * yr)
            for j in range(3):
                vM[j, k] = view[0, j] * p0 + view[1, j] * p1 + view[2, j] * p2
            if wants_view:
                block = i // np.uint64(BLOCK)
                for j in range(3):
                    v_view[block, 0, j] += p0 * M[j, k]
                    v_view[block, 1, j] += p1 * M[j, k]
                    v_view[block, 2, j] += p2 * M[j, k]
        if x_free:
            vx += v_xr * iz
            vz -= v_xr * x * iz * iz
        if y_free:
            vy += v_yr * iz
            vz -= v_yr * y * iz * iz
        for j in range(3):
            v_means[i, j] = view[0, j] * vx + view[1, j] * vy + view[2, j] * vz
        if wants_view:
            block = i // np.uint64(BLOCK)
            for j in range(3):
                v_view[block, 0, j] += vx * means[i, j]
                v_view[block, 1, j] += vy * means[i, j]
                v_view[block, 2, j] += vz * means[i, j]
            v_view[block, 0, 3] += vx
            v_view[block, 1, 3] += vy
            v_view[block, 2, 3] += vz
        for k in range(3):
            total = one * 0
            for j in range(3):
                total += vM[j, k] * M[j, k]
                vR[j, k] = vM[j, k] * scales[k]
            v_log_scales[i, k] = total
        # The gradient of the unit quaternion, then of its length.
        n0 = 2 * (a * (vR[2, 1] - vR[1, 2]) + b * (vR[0, 2] - vR[2, 0]) + c * (vR[1, 0] - vR[0, 1]))
        n1 = 2 * (
            b * (vR[0, 1] + vR[1, 0])
            + c * (vR[0, 2] + vR[2, 0])
            + w * (vR[2, 1] - vR[1, 2])
            - 2 * a * (vR[1, 1] + vR[2, 2])
        )
        n2 = 2 * (
            a * (vR[0, 1] + vR[1, 0])
            + c * (vR[1, 2] + vR[2, 1])
            + w * (vR[0, 2] - vR[2, 0])
            - 2 * b * (vR[0, 0] + vR[2, 2])
        )
        n3 = 2 * (
            a * (vR[0, 2] + vR[2, 0])
            + b * (vR[1, 2] + vR[2, 1])
            + w * (vR[1, 0] - vR[0, 1])
            - 2 * c * (vR[0, 0] + vR[1, 1])
        )
        along = n0 * w + n1 * a + n2 * b + n3 * c
        v_quats[i, 0] = (n0 - along * w) * inverse
        v_quats[i, 1] = (n1 - along * a) * inverse
        v_quats[i, 2] = (n2 - along * b) * inverse
        v_quats[i, 3] = (n3 - along * c) * inverse
