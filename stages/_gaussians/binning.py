"""Kernels: assign ellipses to the image tiles that they touch, sorted front to back.

Every visible Gaussian becomes a row of the pack, nearest first. A tile's list holds rows of the
pack in ascending order, so it is read sequentially, and for each the slot that receives its
gradient: slots of one Gaussian are contiguous, so they are summed without atomics.

Letters: V visible Gaussians, I intersections of Gaussians with tiles.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil

from stages._gaussians.kernels import ThreadPool, kernel
from stages._gaussians.projection import ALPHA_MIN

__all__ = ["ROWS", "TILE", "WIDTH", "Bins", "bin_tiles"]

Array = npt.NDArray[Any]

WIDTH, ROWS = 16, 16
"""Size of a tile in px; a row is one or two SIMD registers."""
TILE = WIDTH * ROWS
PACK = 12
MANY, BYTES_EACH = 10_000_000, 4 + 4 + 9 * 4
"""Intersections from which memory is checked, and bytes of row, slot and gradients of each."""


class Bins(NamedTuple):
    """Packed Gaussians and the lists of the tiles."""

    pack: Array
    """[V, 12]: center - 0.5 (x, y), conic xx, xy, yy, opacity, r, g, b, half width and half
    height of the visible part, and the bound of the conic's quadratic form there."""
    gaussian: npt.NDArray[np.int32]
    """[V]: index of the Gaussian of each row of the pack."""
    slots: npt.NDArray[np.int64]
    """[V + 1]: first slot of each row of the pack."""
    tiles: npt.NDArray[np.int64]
    """[tiles + 1]: first entry of each tile's list."""
    row: npt.NDArray[np.int32]
    """[I]: row of the pack of each entry."""
    slot: npt.NDArray[np.int32]
    """[I]: gradient slot of each entry."""


@kernel()
def _sort_by_depth(depths, radii):
    """Return the visible Gaussians, nearest first, by a stable radix sort."""
    count = len(depths)
    order = np.empty(count, np.int32)
    keys = np.empty(count, np.uint32)
    seen = np.uint64(0)
    for i in range(np.uint64(count)):
        if radii[i, 0] > 0:
            order[seen] = i
            keys[seen] = np.float32(depths[i]).view(np.uint32)
            seen += np.uint64(1)
    other, other_keys = np.empty(seen, np.int32), np.empty(seen, np.uint32)
    order, keys = order[:seen], keys[:seen]
    for shift in (0, 11, 22):
        start = np.zeros(2049, np.uint32)
        for i in range(seen):
            start[((keys[i] >> np.uint32(shift)) & np.uint32(2047)) + np.uint32(1)] += np.uint32(1)
        for i in range(2048):
            start[i + 1] += start[i]
        for i in range(seen):
            digit = (keys[i] >> np.uint32(shift)) & np.uint32(2047)
            place = np.uint64(start[digit])
            start[digit] += np.uint32(1)
            other[place], other_keys[place] = order[i], keys[i]
        order, other = other, order
        keys, other_keys = other_keys, keys
    return order


@kernel()
def _fill_pack(first, last, order, means2d, conics, opacities, colors, radii, pack):
    half, sure = means2d.dtype.type(0.5), means2d.dtype.type(1e-3)
    for k in range(np.uint64(first), np.uint64(last)):
        i = np.uint64(order[k])
        A, B, C, o = conics[i, 0], conics[i, 1], conics[i, 2], opacities[i]
        det = A * C - B * B
        # Slightly more than the exact support, so that rounding never cuts off a pixel.
        t = 2 * math.log(o / ALPHA_MIN) * 1.0001 + 1e-6
        pack[k, 0], pack[k, 1] = means2d[i, 0] - half, means2d[i, 1] - half
        pack[k, 2], pack[k, 3], pack[k, 4], pack[k, 5] = A, B, C, o
        pack[k, 6], pack[k, 7], pack[k, 8] = colors[i, 0], colors[i, 1], colors[i, 2]
        # The rounded conic of a needle loses its length, which is taken from the covariance.
        if det > sure * A * C:
            pack[k, 9], pack[k, 10] = math.sqrt(t * C / det), math.sqrt(t * A / det)
        else:
            pack[k, 9], pack[k, 10] = radii[i, 0], radii[i, 1]
        pack[k, 11] = t


@kernel()
def _band(p, line, across, height):
    """Return the first and one past the last tile that an ellipse touches in a line of tiles.

    Args:
        p: A row of the pack.
        line: Index of the line of tiles.
        across: Tiles in a line.
        height: Rows of the image.
    """
    x, y, A, B, C, hx, hy, t = p[0], p[1], p[2], p[3], p[4], p[9], p[10], p[11]
    low = max(y - hy, line * ROWS * 1.0) - y
    high = min(y + hy, min(line * ROWS + ROWS - 1, height - 1) * 1.0) - y
    if low > high:
        return 0, 0
    # The leftmost point of the ellipse A dx^2 + 2 B dx dy + C dy^2 = t has dy = hx B / C; if that
    # is outside the band, the nearer edge of the band bounds it.
    left_dy = min(max(hx * B / C, low), high)
    right_dy = min(max(-hx * B / C, low), high)
    s = A * t - (A * C - B * B) * left_dy * left_dy
    left = (-B * left_dy - math.sqrt(max(s, 0.0))) / A
    s = A * t - (A * C - B * B) * right_dy * right_dy
    right = (-B * right_dy + math.sqrt(max(s, 0.0))) / A
    begin = math.ceil(max(x + left, -1.0))
    end = math.floor(min(x + right, across * WIDTH * 1.0)) + 1
    if end <= begin:
        return 0, 0
    a = max(begin, 0) // WIDTH
    b = min((end + WIDTH - 1) // WIDTH, across)
    return a, max(b, a)


@kernel()
def _lines(p, down, height):
    """Return the first and one past the last line of tiles that an ellipse can touch."""
    top = math.ceil(max(p[1] - p[10], 0.0))
    bottom = math.floor(min(p[1] + p[10], height - 1.0))
    if bottom < top:
        return 0, 0
    return top // ROWS, min(bottom // ROWS + 1, down)


@kernel()
def _count(first, last, part, pack, across, down, height, slots, tiles):
    """Count the intersections of each row of the pack, and of each tile in this part."""
    for k in range(np.uint64(first), np.uint64(last)):
        p = pack[k]
        total = 0
        begin, end = _lines(p, down, height)
        for line in range(begin, end):
            a, b = _band(p, line, across, height)
            total += b - a
            for tile in range(line * across + a, line * across + b):
                tiles[part, tile] += 1
        slots[k + np.uint64(1)] = total


@kernel()
def _scatter(first, last, part, pack, across, down, height, slots, tiles, row, slot):
    """Write the lists of the tiles; `tiles` holds the next write position of each part."""
    for k in range(np.uint64(first), np.uint64(last)):
        p = pack[k]
        own = slots[k]
        begin, end = _lines(p, down, height)
        for line in range(begin, end):
            a, b = _band(p, line, across, height)
            for tile in range(line * across + a, line * across + b):
                place = tiles[part, tile]
                tiles[part, tile] = place + 1
                row[place], slot[place] = k, own
                own += 1


@kernel()
def _offsets(counts, starts):
    """Convert counts [parts, tiles] to write positions of each part; fill each tile's start."""
    total = 0
    for tile in range(counts.shape[1]):
        starts[tile] = total
        for part in range(len(counts)):
            count = counts[part, tile]
            counts[part, tile] = total
            total += count
    starts[counts.shape[1]] = total


def _check_memory(intersections: int) -> None:
    """Raise MemoryError before an allocation that would get the process killed."""
    if intersections < MANY:
        return
    needed, free = intersections * BYTES_EACH, psutil.virtual_memory().available
    if needed > 0.7 * free:
        raise MemoryError(f"{intersections} tiles to draw need {needed >> 20} MiB of {free >> 20}")


def bin_tiles(
    pool: ThreadPool,
    means2d: Array,
    depths: Array,
    conics: Array,
    opacities: Array,
    colors: Array,
    radii: Array,
    size: tuple[int, int],
) -> Bins:
    """Return the lists of the tiles.

    Args:
        pool: Thread pool for the kernels.
        means2d: [N, 2] px.
        depths: [N].
        conics: [N, 3].
        opacities: [N].
        colors: [N, 3].
        radii: int32 [N, 2]: invisible where 0.
        size: (width, height) px.
    """
    width, height = size
    across, down = -(-width // WIDTH), -(-height // ROWS)
    order = _sort_by_depth(depths, radii)
    count = len(order)
    pack = np.empty((count, PACK), means2d.dtype)
    slots = np.zeros(count + 1, np.int64)
    parts = 2 * pool.threads if pool.threads > 1 and count > 4096 else 1
    bounds = [count * part // parts for part in range(parts + 1)]
    number = {start: part for part, start in enumerate(bounds[:-1])}
    counts = np.zeros((parts, across * down), np.int64)

    def count_tiles(a: int, b: int) -> None:
        _fill_pack(a, b, order, means2d, conics, opacities, colors, radii, pack)
        _count(a, b, number[a], pack, across, down, height, slots, counts)

    pool.each(count_tiles, bounds)
    np.cumsum(slots, out=slots)
    _check_memory(int(slots[-1]))
    tiles = np.empty(across * down + 1, np.int64)
    _offsets(counts, tiles)
    row = np.empty(slots[-1], np.int32)
    slot = np.empty(slots[-1], np.int32)
    pool.each(
        lambda a, b: _scatter(
            a, b, number[a], pack, across, down, height, slots, counts, row, slot
        ),
        bounds,
    )
    return Bins(pack, order, slots, tiles, row, slot)
