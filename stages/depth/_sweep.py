"""Plane sweep: matching cost of a view at a set of inverse depths, with semi-global smoothing.

Matching: zero-mean normalized cross-correlation over square windows, of each neighbor warped
through a plane parallel to the image; the two best neighbors count, so that a point hidden on one
side of the path may be visible on the other (Collins 1996; Kang, Szeliski and Chai 2001).
Smoothness: semi-global matching along eight directions (Hirschmueller 2008). Depth between planes:
the parabola through the best plane and its two neighbors.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.depth._kernels import kernel
from stages.depth._rig import Rig

__all__ = ["SURFACE_STEP", "WORST", "enlarge", "shrink", "sweep"]

RADIUS = 2
"""Radius of the matching window of 5x5 px; the kernel unrolls its sums."""
STEP_PX = 1.0
"""Image motion from one plane to the next; the parabola interpolates between planes."""
LEAST_PLANES = 24
SURFACE_STEP = 0.05
"""Inverse depths of neighboring pixels that differ by less (a share) are on one surface."""
WORST = 127
"""Cost of no correlation or of no view at all; a perfect match costs 0."""
STEP_COST, JUMP_COST = 40, 200
"""Semi-global penalties for a change by one plane and by more, on the scale of WORST. Measured
against 12 and 60: a bowl with little texture keeps a seventh more pixels, a room loses none."""


@kernel()
def _warp_row(other, A, b, near, y, row, inside):
    """Fill `row` [columns] with `other` warped to row y through the plane; `inside` is 1 or 0."""
    rows, columns = other.shape
    v = np.float32(y + 0.5)
    x0, y0, z0 = A[0, 1] * v + A[0, 2], A[1, 1] * v + A[1, 2], A[2, 1] * v + A[2, 2]
    x0, y0, z0 = x0 + near * b[0], y0 + near * b[1], z0 + near * b[2]
    half, right, bottom = np.float32(0.5), np.float32(columns - 1.001), np.float32(rows - 1.001)
    for x in range(columns):
        u = np.float32(x) + half
        qz = A[2, 0] * u + z0
        shown, seen = np.float32(0), np.float32(0)
        if qz > np.float32(1e-6):
            shrink = np.float32(1) / qz
            qx = (A[0, 0] * u + x0) * shrink - half
            qy = (A[1, 0] * u + y0) * shrink - half
            if qx >= 0 and qy >= 0 and qx <= right and qy <= bottom:
                column, line = int(qx), int(qy)
                fx, fy = qx - np.float32(column), qy - np.float32(line)
                p, q = other[line, column], other[line, column + 1]
                r, s = other[line + 1, column], other[line + 1, column + 1]
                top, low = p + fx * (q - p), r + fx * (s - r)
                shown, seen = top + fy * (low - top), np.float32(1)
        row[x] = shown
        inside[x] = seen


@kernel()
def _correlate(image, others, A, b, planes, cost):
    """Fill `cost` uint8 [H, W, D] with the mean of the two lowest costs of the `others`.

    Processes row by row for all planes, so that the working set stays in the cache.

    `image` [H, W] and `others` [N, H, W] are gray, float32; A [N, 3, 3] and b [N, 3] map from the
    view to the others; `planes` [D] are inverse depths.
    """
    count = len(others)
    rows, columns = image.shape
    size = 2 * RADIUS + 1
    area, half = np.float32(size * size), np.float32(0.5)
    # Variance of 2 gray levels of noise per pixel, so that flat windows do not correlate.
    noise, worst = area * np.float32(4), np.float32(WORST)
    wide = columns + 2 * RADIUS
    ring = np.zeros((count, len(planes), size, columns), np.float32)
    inside = np.zeros((count, len(planes), size, columns), np.float32)
    sums = np.zeros((5, wide), np.float32)
    mean_i, var_i = np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    best = np.zeros((len(planes), columns), np.float32)
    second = np.zeros((len(planes), columns), np.float32)
    window = np.zeros((size, columns), np.float32)
    for y in range(-RADIUS, rows):
        below = min(y + RADIUS, rows - 1)
        fresh = (y + RADIUS) % size
        if y >= 0:
            for r in range(size):
                window[r] = image[min(max(y + r - RADIUS, 0), rows - 1)]
            for x in range(columns):
                a0, a1, a2, a3, a4 = (
                    window[0, x], window[1, x], window[2, x], window[3, x], window[4, x]
                )  # fmt: skip
                sums[0, x + RADIUS] = a0 + a1 + a2 + a3 + a4
                sums[1, x + RADIUS] = a0 * a0 + a1 * a1 + a2 * a2 + a3 * a3 + a4 * a4
            _mirror(sums, 2, columns)
            for x in range(columns):
                mean_i[x] = _across(sums[0], x) / area
                var_i[x] = _across(sums[1], x) - mean_i[x] * mean_i[x] * area + noise
        best[:] = worst
        second[:] = worst
        for k in range(count):
            for d in range(len(planes)):
                _warp_row(others[k], A[k], b[k], planes[d], below, ring[k, d, fresh],
                          inside[k, d, fresh])  # fmt: skip
                if y < 0:
                    if y == -RADIUS:
                        for r in range(size):
                            ring[k, d, r] = ring[k, d, fresh]
                    continue
                # Rows in order from the oldest; above the image the first row is repeated.
                o0, o1 = ring[k, d, (fresh + 1) % size], ring[k, d, (fresh + 2) % size]
                o2, o3 = ring[k, d, (fresh + 3) % size], ring[k, d, (fresh + 4) % size]
                o4 = ring[k, d, fresh]
                for x in range(columns):
                    b0, b1, b2, b3, b4 = o0[x], o1[x], o2[x], o3[x], o4[x]
                    sums[2, x + RADIUS] = b0 + b1 + b2 + b3 + b4
                    sums[3, x + RADIUS] = b0 * b0 + b1 * b1 + b2 * b2 + b3 * b3 + b4 * b4
                    sums[4, x + RADIUS] = (
                        b0 * window[0, x] + b1 * window[1, x] + b2 * window[2, x]
                        + b3 * window[3, x] + b4 * window[4, x]
                    )  # fmt: skip
                _mirror(sums, 5, columns)
                seen = inside[k, d, (fresh + 1 + RADIUS) % size]
                for x in range(columns):
                    sj = _across(sums[2], x)
                    var_j = _across(sums[3], x) - sj * sj / area + noise
                    ncc = (_across(sums[4], x) - sj * mean_i[x]) / np.sqrt(var_i[x] * var_j)
                    value = min(max(worst * (1 - ncc), np.float32(0)), worst)
                    value = value * seen[x] + worst * (1 - seen[x])
                    low = min(value, best[d, x])
                    second[d, x] = min(max(value, best[d, x]), second[d, x])
                    best[d, x] = low
        if y >= 0:
            share = half if count > 1 else np.float32(0)
            for x in range(columns):
                for d in range(len(planes)):
                    mean = best[d, x] + share * (second[d, x] - best[d, x])
                    cost[y, x, d] = np.uint8(mean + half)


@kernel()
def _mirror(sums, count, columns):
    """Replicate the outermost columns into the margins."""
    for k in range(count):
        for r in range(RADIUS):
            sums[k, r] = sums[k, RADIUS]
            sums[k, columns + RADIUS + r] = sums[k, columns + RADIUS - 1]


@kernel(inline="always")
def _across(line, x):
    return line[x] + line[x + 1] + line[x + 2] + line[x + 3] + line[x + 4]


@kernel()
def _aggregate(cost, image, total):
    """Add the path costs along eight directions to `total` uint16 [H, W, D], in two passes."""
    rows, columns, planes = cost.shape
    # Paths from the left, upper left, above and upper right; mirrored in the second pass.
    before = np.zeros((2, 3, columns + 2, planes + 2), np.uint16)
    before_least = np.zeros((2, 3, columns + 2), np.uint16)
    beside = np.zeros(planes + 2, np.uint16)
    fresh = np.zeros(planes + 2, np.uint16)
    far = np.uint16(20000)
    for turn in range(2):
        before[:] = 0
        before_least[:] = 0
        before[:, :, :, 0] = far
        before[:, :, :, planes + 1] = far
        fresh[0] = far
        fresh[planes + 1] = far
        for row in range(rows):
            y = row if turn == 0 else rows - 1 - row
            new, old = row % 2, 1 - row % 2
            beside[:] = 0
            beside[0] = far
            beside[planes + 1] = far
            beside_least = np.uint16(0)
            for column in range(columns):
                x = column if turn == 0 else columns - 1 - column
                for way in range(4):
                    dx = 0 if way == 2 else (1 if way == 3 else -1)
                    if way == 0:
                        previous, floor = beside, beside_least
                    else:
                        previous = before[old, way - 1, column + dx + 1]
                        floor = before_least[old, way - 1, column + dx + 1]
                    # A jump is cheaper across an edge of the image.
                    xp = x + (dx if turn == 0 else -dx)
                    yp = y if way == 0 else (y - 1 if turn == 0 else y + 1)
                    xp = min(max(xp, 0), columns - 1)
                    yp = min(max(yp, 0), rows - 1)
                    edge = abs(image[y, x] - image[yp, xp])
                    jump = np.uint16(max(JUMP_COST * 8 / (8 + edge), STEP_COST + 6)) + floor
                    least = far
                    for d in range(planes):
                        step = min(previous[d], previous[d + 2]) + np.uint16(STEP_COST)
                        path = min(min(previous[d + 1], step), jump) - floor + cost[y, x, d]
                        fresh[d + 1] = path
                        total[y, x, d] += path
                        least = min(least, path)
                    if way == 0:
                        beside[:] = fresh
                        beside_least = least
                    else:
                        before[new, way - 1, column + 1] = fresh
                        before_least[new, way - 1, column + 1] = least


@kernel()
def _pick(total, cost, planes, max_cost, out):
    """Fill `out` float32 [H, W] with the inverse depth of lowest cost; 0 above `max_cost`."""
    rows, columns, count = total.shape
    for y in range(rows):
        for x in range(columns):
            best = 0
            for d in range(1, count):
                if total[y, x, d] < total[y, x, best]:
                    best = d
            out[y, x] = 0
            if cost[y, x, best] > max_cost:
                continue
            near = planes[best]
            if 0 < best < count - 1:
                left = np.float32(total[y, x, best - 1])
                here = np.float32(total[y, x, best])
                right = np.float32(total[y, x, best + 1])
                bend = left - 2 * here + right
                if bend > 0:
                    near += 0.5 * (left - right) / bend * (planes[1] - planes[0])
            out[y, x] = near


def shrink(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize a gray image to (columns, rows), float32."""
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _travel_px(A, b, shape, lowest: float, highest: float) -> float:
    """Return the largest motion of the image center over the range, among the views.

    A [N, 3, 3] and b [N, 3] map to the views; the result is limited to the image's longer side.
    """
    middle = np.array([shape[1] / 2, shape[0] / 2, 1.0])
    ends = []
    for near in (lowest, highest):
        q = A @ middle + near * b
        ends.append(q[:, :2] / np.maximum(q[:, 2:], 1e-6))
    return float(min(np.linalg.norm(ends[1] - ends[0], axis=1).max(), max(shape)))


def sweep(
    rig: Rig,
    i: int,
    neighbors: list[int],
    small: list[npt.NDArray[np.float32]],
    scale: float,
    planes: int,
    max_cost: int = WORST,
) -> npt.NDArray[np.float32]:
    """Return the inverse depth of view i at the size of the `small` gray images; 0 unknown.

    Args:
        rig: Cameras for images of full size.
        i: Index of the view.
        neighbors: Views to match it with.
        small: float32 [h, w] gray image of every view.
        scale: Size of the small images relative to the full ones.
        planes: Maximum number of inverse depths to try.
        max_cost: Drop pixels with a higher cost, on the scale of `WORST`.
    """
    image = small[i]
    lowest, highest = rig.inverse_depth_range(i)
    if highest <= 0 or not neighbors:
        return np.zeros(image.shape, np.float32)
    A, b = (x.astype(np.float32) for x in rig.relatives(i, neighbors, scale))
    wanted = 1 + _travel_px(A, b, image.shape, lowest, highest) / STEP_PX
    count = int(np.clip(np.ceil(wanted), min(LEAST_PLANES, planes), planes))
    steps = np.linspace(lowest, highest, count, dtype=np.float32)
    # Gray values centered at zero keep the sums small, and so their differences accurate.
    others = np.stack([small[j] for j in neighbors]) - np.float32(128)
    cost = np.empty((*image.shape, count), np.uint8)
    _correlate(image - np.float32(128), others, A, b, steps, cost)
    total = np.zeros(cost.shape, np.uint16)
    _aggregate(cost, image, total)
    out = np.empty(image.shape, np.float32)
    _pick(total, cost, steps, max_cost, out)
    return out


@kernel()
def enlarge(near, size_ratio, tolerance, out):
    """Fill `out` float32 [H, W] from smaller inverse depths [h, w], keeping edges sharp.

    Linear between pixels on one surface (within `tolerance`), else the nearest pixel.
    """
    h, w = near.shape
    rows, columns = out.shape
    for y in range(rows):
        v = min(max((y + 0.5) * size_ratio[1] - 0.5, 0.0), h - 1.0)
        y0 = min(int(v), h - 2)
        fy = v - y0
        for x in range(columns):
            u = min(max((x + 0.5) * size_ratio[0] - 0.5, 0.0), w - 1.0)
            x0 = min(int(u), w - 2)
            fx = u - x0
            a, b = near[y0, x0], near[y0, x0 + 1]
            c, d = near[y0 + 1, x0], near[y0 + 1, x0 + 1]
            low, high = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
            if low > 0 and high - low < tolerance * high:
                out[y, x] = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy
            else:
                out[y, x] = near[y0 + (fy > 0.5), x0 + (fx > 0.5)]
