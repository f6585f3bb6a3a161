"""Plane sweep: how well a view matches its neighbours at a set of inverse depths, made smooth.

Matching: zero-mean normalised cross-correlation over square windows, of each neighbour warped
through a plane parallel to the image; the two best neighbours count, so that what one side of the
path cannot see the other may (Collins 1996; Kang, Szeliski and Chai 2001). Smoothness: semi-global
matching along eight directions (Hirschmueller 2008). Depth between planes: the parabola through
the best and the two beside it.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.depth._kernels import kernel
from stages.depth._rig import Rig

__all__ = ["enlarge", "shrink", "sweep"]

RADIUS = 2
"""Half the matching window: 5x5 px."""
WORST = 127
"""Cost of no correlation or of no view at all; a perfect match costs 0."""
STEP_COST, JUMP_COST = 12, 60
"""Semi-global penalties for one plane up or down and for more; of WORST. Measured on rendered
rooms: half or double changes the error by less than a tenth."""


@kernel()
def _match(image, other, A, b, planes, best, second):
    """Keep per pixel and plane the two lowest costs, uint8 [H, W, D], over calls."""
    rows, columns = image.shape
    warped = np.empty((rows, columns), np.float32)
    inside = np.empty((rows, columns), np.uint8)
    # Sums over the window's rows, one entry a column: I, I², J, J², I J.
    sums = np.empty((5, columns), np.float32)
    area = np.float32((2 * RADIUS + 1) ** 2)
    for d in range(len(planes)):
        tx, ty, tz = b[0] * planes[d], b[1] * planes[d], b[2] * planes[d]
        for y in range(rows):
            v = y + 0.5
            for x in range(columns):
                u = x + 0.5
                qz = A[2, 0] * u + A[2, 1] * v + A[2, 2] + tz
                warped[y, x] = 0
                inside[y, x] = 0
                if qz <= 1e-6:
                    continue
                qx = (A[0, 0] * u + A[0, 1] * v + A[0, 2] + tx) / qz - 0.5
                qy = (A[1, 0] * u + A[1, 1] * v + A[1, 2] + ty) / qz - 0.5
                if qx < 0 or qy < 0 or qx > columns - 1.001 or qy > rows - 1.001:
                    continue
                x0, y0 = int(qx), int(qy)
                fx, fy = np.float32(qx - x0), np.float32(qy - y0)
                top = other[y0, x0] + fx * (other[y0, x0 + 1] - other[y0, x0])
                bottom = other[y0 + 1, x0] + fx * (other[y0 + 1, x0 + 1] - other[y0 + 1, x0])
                warped[y, x] = top + fy * (bottom - top)
                inside[y, x] = 1
        for y in range(rows):
            for x in range(columns):
                si = sii = sj = sjj = sij = np.float32(0)
                for r in range(-RADIUS, RADIUS + 1):
                    yy = min(max(y + r, 0), rows - 1)
                    i, j = image[yy, x], warped[yy, x]
                    si += i
                    sii += i * i
                    sj += j
                    sjj += j * j
                    sij += i * j
                sums[0, x], sums[1, x], sums[2, x], sums[3, x], sums[4, x] = si, sii, sj, sjj, sij
            for x in range(columns):
                if inside[y, x] == 0:
                    continue
                si = sii = sj = sjj = sij = np.float32(0)
                for r in range(-RADIUS, RADIUS + 1):
                    xx = min(max(x + r, 0), columns - 1)
                    si += sums[0, xx]
                    sii += sums[1, xx]
                    sj += sums[2, xx]
                    sjj += sums[3, xx]
                    sij += sums[4, xx]
                var_i = sii - si * si / area
                var_j = sjj - sj * sj / area
                # 2 grey levels of noise in each pixel: flat windows correlate with nothing.
                noise = area * np.float32(4)
                ncc = (sij - si * sj / area) / np.sqrt((var_i + noise) * (var_j + noise))
                cost = np.uint8(min(max(np.float32(WORST) * (1 - ncc), 0), WORST))
                if cost < best[y, x, d]:
                    second[y, x, d] = best[y, x, d]
                    best[y, x, d] = cost
                elif cost < second[y, x, d]:
                    second[y, x, d] = cost


@kernel()
def _average(best, second):
    rows, columns, planes = best.shape
    for y in range(rows):
        for x in range(columns):
            for d in range(planes):
                mean = (np.uint16(best[y, x, d]) + np.uint16(second[y, x, d])) >> 1
                best[y, x, d] = np.uint8(mean)


@kernel()
def _aggregate(cost, image, total):
    """Add to `total` uint16 [H, W, D] the path costs along eight directions, in two passes."""
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
    """Fill `out` float32 [H, W] with the inverse depth of the lowest cost, 0 where none is good."""
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
    """Return the grey image resized to (columns, rows), float32."""
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def sweep(
    rig: Rig,
    i: int,
    neighbours: list[int],
    small: list[npt.NDArray[np.float32]],
    scale: float,
    planes: int,
    max_cost: int = WORST,
) -> npt.NDArray[np.float32]:
    """Return the inverse depth of view i at the size of the `small` grey images; 0 unknown.

    Args:
        rig: The cameras, for images of full size.
        i: The view.
        neighbours: The views to match it with.
        small: float32 [h, w] grey image of every view.
        scale: Size of the small images against the full ones.
        planes: How many inverse depths to try.
        max_cost: Drop pixels that match worse, of `WORST`.
    """
    image = small[i]
    lowest, highest = rig.inverse_depth_range(i)
    if highest <= 0 or not neighbours:
        return np.zeros(image.shape, np.float32)
    steps = np.linspace(lowest, highest, planes, dtype=np.float32)
    best = np.full((*image.shape, planes), WORST, np.uint8)
    second = np.full_like(best, WORST)
    for j in neighbours:
        A, b = rig.relative(i, j, scale)
        _match(image, small[j], A.astype(np.float32), b.astype(np.float32), steps, best, second)
    if len(neighbours) > 1:
        _average(best, second)
    total = np.zeros(best.shape, np.uint16)
    _aggregate(best, image, total)
    out = np.empty(image.shape, np.float32)
    _pick(total, best, steps, max_cost, out)
    return out


@kernel()
def enlarge(near, size_ratio, tolerance, out):
    """Fill `out` float32 [H, W] from smaller inverse depths [h, w], keeping steps sharp.

    Linear between pixels that lie on one surface (within `tolerance`), else the nearest pixel.
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
