"""Kernels: rasterize the tiles' lists front to back, and backpropagate back to front.

Alpha compositing of 3DGS (Kerbl et al. 2023): alpha = min(0.999, o e^-sigma), nothing below
1/255, and a pixel is finished when its transmittance would fall to 1e-4. Tiles are independent;
a row of a tile is a branch-free SIMD loop.

The backward pass needs no list of what was drawn: the transmittance is unrolled from the final
one, which the forward pass stores. It is not computed from 1 - alpha, which would cost 1.5e-4 of
the gradient in opaque stacks.
"""

from __future__ import annotations

import numpy as np

from stages._gaussians.binning import ROWS, TILE, WIDTH
from stages._gaussians.kernels import exp_negative, kernel
from stages._gaussians.projection import ALPHA_MIN

__all__ = ["GRADIENTS", "gather", "rasterize", "rasterize_backward"]

ALPHA_MAX = 0.999
OPAQUE = 1e-4
CHECK = np.uint64(16)
"""Number of Gaussians after which a tile checks which of its rows are finished."""
STEP = np.uint64(8)
"""Pixels of a row that are processed at once."""
T, RED, GREEN, BLUE, LAST, LIVE = (np.uint64(n * TILE) for n in range(6))
"""Offsets of transmittance, colors, last Gaussian and liveness in a tile's buffer."""
LATER, REST, WEIGHT, SLOPE, ACROSS, DOWN = (np.uint64(n * TILE) for n in range(5, 11))
GRADIENTS = 9
"""Floats in a slot: gradients of center x, y, conic xx, xy, yy, opacity, r, g, b."""


@kernel()
def _span(center, reach, size):
    """Return the first and one past the last of `size` pixels within reach of `center`."""
    low = min(max(np.ceil(center - reach), 0.0), size * 1.0)
    high = min(np.floor(center + reach) + 1.0, size)
    return np.uint64(low), np.uint64(max(high, low))


@kernel()
def rasterize(first, last, pack, tiles, row, across, background, image, left, final):
    """Draw tiles `first` to `last`.

    Args:
        first: First tile.
        last: One past the last tile.
        pack: [V, 12], see `Bins`.
        tiles: [tiles + 1], see `Bins`.
        row: [I], see `Bins`.
        across: Tiles in a line.
        background: [3].
        image: Out [H, W, 3].
        left: Out [H, W]: remaining transmittance.
        final: Out int32 [H, W]: position in its tile's list at which the pixel ended.
    """
    height, width = left.shape
    dtype = pack.dtype
    zero, one, half = dtype.type(0), dtype.type(1), dtype.type(0.5)
    least, most, opaque = dtype.type(ALPHA_MIN), dtype.type(ALPHA_MAX), dtype.type(OPAQUE)
    # A single buffer for all values of a pixel: with several, LLVM would check in every row that
    # they do not overlap.
    pixel = np.empty(6 * TILE, dtype)
    open_row = np.empty(ROWS, np.uint8)
    for tile in range(np.uint64(first), np.uint64(last)):
        top = np.int64(tile // np.uint64(across)) * ROWS
        side = np.int64(tile % np.uint64(across)) * WIDTH
        rows = min(ROWS, height - top)
        pixel[:] = zero
        pixel[T : T + TILE] = one
        pixel[LIVE : LIVE + TILE] = one
        open_row[:] = 1
        begin, end = np.uint64(tiles[tile]), np.uint64(tiles[tile + np.uint64(1)])
        since = np.uint64(0)
        for i in range(begin, end):
            p = np.uint64(row[i])
            x, y = pack[p, 0] - dtype.type(side), pack[p, 1] - dtype.type(top)
            A, B, C, o = pack[p, 2], pack[p, 3], pack[p, 4], pack[p, 5]
            r, g, b, hx, hy = pack[p, 6], pack[p, 7], pack[p, 8], pack[p, 9], pack[p, 10]
            low, high = _span(y, hy, rows)
            near, beyond = _span(x, hx, WIDTH)
            near, beyond = near // STEP, (beyond + STEP - np.uint64(1)) // STEP
            stamp = dtype.type(np.int64(i - begin) + 1)
            for line in range(low, high):
                if open_row[line] == 0:
                    continue
                dy = y - dtype.type(np.int64(line))
                flat, steep = half * C * dy * dy, B * dy
                for part in range(near, beyond):
                    base = line * np.uint64(WIDTH) + part * STEP
                    xs = x - dtype.type(np.int64(part * STEP))
                    for k in range(STEP):
                        at = base + k
                        dx = xs - dtype.type(np.int32(k))
                        sigma = dx * (half * A * dx + steep) + flat
                        a = min(most, o * exp_negative(min(max(sigma, zero), dtype.type(80))))
                        a = a * pixel[at + LIVE] if (a >= least and sigma >= zero) else zero
                        after = pixel[at + T] * (one - a)
                        stop = after <= opaque
                        w = zero if stop else a * pixel[at + T]
                        pixel[at + LIVE] = zero if stop else pixel[at + LIVE]
                        pixel[at + T] = pixel[at + T] if stop else after
                        pixel[at + RED] += w * r
                        pixel[at + GREEN] += w * g
                        pixel[at + BLUE] += w * b
                        pixel[at + LAST] = stamp if w > zero else pixel[at + LAST]
            since += np.uint64(1)
            if since == CHECK:
                since = np.uint64(0)
                alive = np.uint8(0)
                for line in range(np.uint64(rows)):
                    total = zero
                    for k in range(np.uint64(WIDTH)):
                        total += pixel[line * np.uint64(WIDTH) + k + LIVE]
                    open_row[line] = np.uint8(total > zero)
                    alive |= open_row[line]
                if alive == 0:
                    break
        columns = min(WIDTH, width - side)
        for line in range(rows):
            for k in range(columns):
                at = np.uint64(line * WIDTH + k)
                u, v = side + k, top + line
                rest = pixel[at + T]
                image[v, u, 0] = pixel[at + RED] + rest * background[0]
                image[v, u, 1] = pixel[at + GREEN] + rest * background[1]
                image[v, u, 2] = pixel[at + BLUE] + rest * background[2]
                left[v, u] = rest
                final[v, u] = np.int32(pixel[at + LAST])


@kernel()
def rasterize_backward(
    first, last, pack, tiles, row, slot, across, background, left, final, v_image, v_alpha, v_slots
):
    """Fill the gradients of the intersections of tiles `first` to `last`.

    Args:
        first: First tile.
        last: One past the last tile.
        pack: As for `rasterize`.
        tiles: As for `rasterize`.
        row: As for `rasterize`.
        slot: [I], see `Bins`.
        across: As for `rasterize`.
        background: As for `rasterize`.
        left: Output of `rasterize`.
        final: Output of `rasterize`.
        v_image: [H, W, 3].
        v_alpha: [H, W]: gradient of 1 - left.
        v_slots: Out [I, 9]: gradients of center x, y, conic xx, xy, yy, opacity, r, g, b.
    """
    height, width = left.shape
    dtype = pack.dtype
    zero, one, half = dtype.type(0), dtype.type(1), dtype.type(0.5)
    least, most = dtype.type(ALPHA_MIN), dtype.type(ALPHA_MAX)
    pixel = np.empty(11 * TILE, dtype)
    for at in range(TILE):
        pixel[np.uint64(at) + ACROSS], pixel[np.uint64(at) + DOWN] = at % WIDTH, at // WIDTH
    for tile in range(np.uint64(first), np.uint64(last)):
        top = np.int64(tile // np.uint64(across)) * ROWS
        side = np.int64(tile % np.uint64(across)) * WIDTH
        rows, columns = min(ROWS, height - top), min(WIDTH, width - side)
        begin, end = np.uint64(tiles[tile]), np.uint64(tiles[tile + np.uint64(1)])
        pixel[:ACROSS] = zero
        pixel[T : T + TILE] = one
        furthest = 0
        for line in range(rows):
            for k in range(columns):
                at = np.uint64(line * WIDTH + k)
                u, v = side + k, top + line
                red, green, blue = v_image[v, u, 0], v_image[v, u, 1], v_image[v, u, 2]
                pixel[at + T], pixel[at + LAST] = left[v, u], dtype.type(final[v, u])
                pixel[at + RED], pixel[at + GREEN], pixel[at + BLUE] = red, green, blue
                pixel[at + REST] = v_alpha[v, u] - (
                    background[0] * red + background[1] * green + background[2] * blue
                )
                furthest = max(furthest, final[v, u])
        # Gaussians behind the last one drawn have no gradient.
        for i in range(begin + np.uint64(furthest), end):
            for n in range(GRADIENTS):
                v_slots[slot[i], n] = zero
        for back in range(np.uint64(furthest)):
            i = begin + np.uint64(furthest) - np.uint64(1) - back
            p, s = np.uint64(row[i]), np.uint64(slot[i])
            x, y = pack[p, 0] - dtype.type(side), pack[p, 1] - dtype.type(top)
            A, B, C, o = pack[p, 2], pack[p, 3], pack[p, 4], pack[p, 5]
            r, g, b, hy = pack[p, 6], pack[p, 7], pack[p, 8], pack[p, 10]
            low, high = _span(y, hy, rows)
            stamp = np.int64(i - begin)
            before = dtype.type(stamp)
            for line in range(low, high):
                dy = y - dtype.type(np.int64(line))
                flat, steep = half * C * dy * dy, B * dy
                base = line * np.uint64(WIDTH)
                for k in range(np.uint64(WIDTH)):
                    at = base + k
                    dx = x - dtype.type(np.int32(k))
                    sigma = dx * (half * A * dx + steep) + flat
                    full = o * exp_negative(min(max(sigma, zero), dtype.type(80)))
                    a = min(most, full)
                    a = a if (a >= least and sigma >= zero) else zero
                    a = a if pixel[at + LAST] > before else zero
                    free = one / (one - a)
                    here = pixel[at + T] * free
                    w = a * here
                    q = (
                        r * pixel[at + RED]
                        + g * pixel[at + GREEN]
                        + b * pixel[at + BLUE]
                        + pixel[at + REST]
                    )
                    slope = a * (pixel[at + LATER] * free - here * q)
                    pixel[at + T] = here
                    pixel[at + LATER] += w * q
                    pixel[at + WEIGHT] = w
                    pixel[at + SLOPE] = slope if full <= most else zero
            m0 = mx = my = mxx = mxy = myy = sr = sg = sb = zero
            for at in range(low * np.uint64(WIDTH), high * np.uint64(WIDTH)):
                slope, w = pixel[at + SLOPE], pixel[at + WEIGHT]
                dx, dy = x - pixel[at + ACROSS], y - pixel[at + DOWN]
                slide, drop = slope * dx, slope * dy
                m0 += slope
                mx += slide
                my += drop
                mxx += slide * dx
                mxy += slide * dy
                myy += drop * dy
                sr += w * pixel[at + RED]
                sg += w * pixel[at + GREEN]
                sb += w * pixel[at + BLUE]
            v_slots[s, 0] = A * mx + B * my
            v_slots[s, 1] = B * mx + C * my
            v_slots[s, 2] = half * mxx
            v_slots[s, 3] = mxy
            v_slots[s, 4] = half * myy
            v_slots[s, 5] = -m0 / o
            v_slots[s, 6], v_slots[s, 7], v_slots[s, 8] = sr, sg, sb


@kernel()
def gather(first, last, gaussian, slots, v_slots, v_means2d, v_conics, v_opacities, v_colors):
    """Sum the slots of rows `first` to `last` of the pack into their Gaussians' gradients."""
    total = np.empty(GRADIENTS, v_slots.dtype)
    for k in range(np.uint64(first), np.uint64(last)):
        total[:] = 0
        for s in range(np.uint64(slots[k]), np.uint64(slots[k + np.uint64(1)])):
            for n in range(GRADIENTS):
                total[n] += v_slots[s, n]
        i = np.uint64(gaussian[k])
        v_means2d[i, 0], v_means2d[i, 1] = total[0], total[1]
        v_conics[i, 0], v_conics[i, 1], v_conics[i, 2] = total[2], total[3], total[4]
        v_opacities[i] = total[5]
        v_colors[i, 0], v_colors[i, 1], v_colors[i, 2] = total[6], total[7], total[8]
