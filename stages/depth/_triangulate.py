"""Inverse depth from flow: one pair of views, then all pairs of one view together.

Unknown inverse depth is 0 throughout; images are [H, W], pixel centers at 0.5.
"""

from __future__ import annotations

import numpy as np

from stages.depth._kernels import kernel

__all__ = ["combine", "targets", "triangulate", "warp_map"]


@kernel()
def warp_map(w, A, b, out):
    """Fill `out` float32 [H, W, 2] with the projection of pixels of inverse depth `w` [H, W].

    Coordinates are those of `cv2.remap` in the other view: pixel centers at integers.
    """
    rows, columns = w.shape
    for y in range(rows):
        v = y + 0.5
        for x in range(columns):
            u = x + 0.5
            qz = A[2, 0] * u + A[2, 1] * v + A[2, 2] + w[y, x] * b[2]
            if qz > 1e-6:
                qx = A[0, 0] * u + A[0, 1] * v + A[0, 2] + w[y, x] * b[0]
                qy = A[1, 0] * u + A[1, 1] * v + A[1, 2] + w[y, x] * b[1]
                out[y, x, 0] = qx / qz - 0.5
                out[y, x, 1] = qy / qz - 0.5
            else:
                out[y, x, 0] = -1e4
                out[y, x, 1] = -1e4


@kernel()
def targets(flow, w, A, b, out):
    """Convert the flow to a pre-warped view into pixels of that view itself.

    The other view was warped to this one through the inverse depths `w`; `flow` [H, W, 2] is the
    residual. `out` float32 [H, W, 2] px receives the matching point, -1e4 if there is none.
    """
    rows, columns = w.shape
    for y in range(rows):
        for x in range(columns):
            u = x + flow[y, x, 0]
            v = y + flow[y, x, 1]
            out[y, x, 0] = -1e4
            out[y, x, 1] = -1e4
            if u < 0 or v < 0 or u > columns - 1 or v > rows - 1:
                continue
            x0 = min(int(u), columns - 2)
            y0 = min(int(v), rows - 2)
            fx, fy = u - x0, v - y0
            top = w[y0, x0] * (1 - fx) + w[y0, x0 + 1] * fx
            bottom = w[y0 + 1, x0] * (1 - fx) + w[y0 + 1, x0 + 1] * fx
            near = top * (1 - fy) + bottom * fy
            u += 0.5
            v += 0.5
            qz = A[2, 0] * u + A[2, 1] * v + A[2, 2] + near * b[2]
            if qz > 1e-6:
                out[y, x, 0] = (A[0, 0] * u + A[0, 1] * v + A[0, 2] + near * b[0]) / qz
                out[y, x, 1] = (A[1, 0] * u + A[1, 1] * v + A[1, 2] + near * b[1]) / qz


@kernel()
def triangulate(there, back, A, b, max_back_px, max_epipolar_px, out):
    """Fill `out` float32 [H, W] with the inverse depth of each pixel from one other view.

    The target is projected onto the epipolar line of the pixel: least squares over the two image
    axes of ``A u + w b ~ p``, linear in w after multiplying out. Kept if the match maps back to
    within `max_back_px` of the pixel, is within `max_epipolar_px` of the line, and is in front of
    both cameras.

    `there` float32 [H, W, 2] px holds the positions of the pixels in the other view, `back` those
    of the other view's pixels in this one.
    """
    rows, columns = out.shape
    for y in range(rows):
        v = y + 0.5
        for x in range(columns):
            u = x + 0.5
            out[y, x] = 0
            px, py = there[y, x, 0], there[y, x, 1]
            bx, by = px - 0.5, py - 0.5
            if bx < 0 or by < 0 or bx > columns - 1 or by > rows - 1:
                continue
            x0 = min(int(bx), columns - 2)
            y0 = min(int(by), rows - 2)
            fx, fy = bx - x0, by - y0
            off = 0.0
            for c in range(2):
                top = back[y0, x0, c] * (1 - fx) + back[y0, x0 + 1, c] * fx
                bottom = back[y0 + 1, x0, c] * (1 - fx) + back[y0 + 1, x0 + 1, c] * fx
                miss = top * (1 - fy) + bottom * fy - (u if c == 0 else v)
                off += miss * miss
            if off > max_back_px * max_back_px:
                continue
            ax = A[0, 0] * u + A[0, 1] * v + A[0, 2]
            ay = A[1, 0] * u + A[1, 1] * v + A[1, 2]
            az = A[2, 0] * u + A[2, 1] * v + A[2, 2]
            cx, cy = b[0] - px * b[2], b[1] - py * b[2]
            length = cx * cx + cy * cy
            if length < 1e-20:
                continue
            w = (cx * (px * az - ax) + cy * (py * az - ay)) / length
            qz = az + w * b[2]
            if w <= 0 or qz <= 1e-6:
                continue
            ex, ey = (ax + w * b[0]) / qz - px, (ay + w * b[1]) / qz - py
            if ex * ex + ey * ey <= max_epipolar_px * max_epipolar_px:
                out[y, x] = w


@kernel()
def combine(w, rough, A, b, agree_px, least, min_parallax_px, out):
    """Fill `out` float32 [H, W] with the inverse depth on which the most pairs agree.

    Each pair's w [N, H, W] is a hypothesis; a pair supports it if its own point is within
    `agree_px` of the hypothesis in its image, and so may the `rough` depth [H, W], which has a
    vote but no weight. The best supported one is refined to the mean of its supporters, weighted by
    the square of their pixels per unit of inverse depth (the inverse variance, for equal noise in
    px). Kept with at least `least` supporters and `min_parallax_px` between infinity and the point,
    over all supporters (root of the sum of squares).
    """
    pairs, rows, columns = w.shape
    slope = np.empty(pairs, np.float32)
    found = np.empty(pairs, np.float32)
    for y in range(rows):
        v = y + 0.5
        for x in range(columns):
            u = x + 0.5
            out[y, x] = 0
            count = 0
            for k in range(pairs):
                near = w[k, y, x]
                if near <= 0:
                    continue
                qz = A[k, 2, 0] * u + A[k, 2, 1] * v + A[k, 2, 2] + near * b[k, 2]
                qx = A[k, 0, 0] * u + A[k, 0, 1] * v + A[k, 0, 2] + near * b[k, 0]
                qy = A[k, 1, 0] * u + A[k, 1, 1] * v + A[k, 1, 2] + near * b[k, 1]
                sx = (b[k, 0] - qx / qz * b[k, 2]) / qz
                sy = (b[k, 1] - qy / qz * b[k, 2]) / qz
                slope[count] = np.sqrt(sx * sx + sy * sy)
                found[count] = near
                count += 1
            if count == 0:
                continue
            best, best_support, best_votes = 0.0, 0.0, 0
            for k in range(count):
                total, weight, votes = 0.0, 0.0, 0
                if abs(rough[y, x] - found[k]) * slope[k] < agree_px:
                    votes += 1
                for m in range(count):
                    if abs(found[m] - found[k]) * slope[m] < agree_px:
                        square = slope[m] * slope[m]
                        total += square * found[m]
                        weight += square
                        votes += 1
                if votes > best_votes or (votes == best_votes and weight > best_support):
                    best, best_support, best_votes = total / weight, weight, votes
            if best_votes >= least and best * np.sqrt(best_support) >= min_parallax_px:
                out[y, x] = best
