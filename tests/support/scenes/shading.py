"""Draw what a camera sees: four samples a pixel, trilinear texture lookup.

Where a pixel and its eight neighbors see one solid, its samples are cast at that solid alone.
"""

import numpy as np
from numba import njit

from tests.support.scenes.atlas import Atlas
from tests.support.scenes.geometry import Solids, first_hit, hit
from tests.support.scenes.raycast import TILE_PX, Camera, in_tile, trace


def shade(solids: Solids, atlas: Atlas, camera: Camera) -> np.ndarray:
    """Return the picture of a camera, RGB ``uint8 [H, W, 3]``."""
    seen, _ = trace(solids, camera)
    M, o = solids.seen_from(camera.T_world_camera)
    image = np.empty((camera.height, camera.width, 3), np.uint8)
    _shade(
        solids.kind,
        solids.half_m,
        M,
        o,
        camera.focal_px,
        seen,
        atlas.texels,
        atlas.levels,
        atlas.count,
        atlas.per_m,
        image,
    )
    return image


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def _bilinear(texels, offset, columns, rows, u, v, weight, rgb):
    x = min(max((0.5 * u + 0.5) * columns - 0.5, 0.0), columns - 1.001)
    y = min(max((0.5 * v + 0.5) * rows - 0.5, 0.0), rows - 1.001)
    x0, y0 = int(x), int(y)
    fx, fy = x - x0, y - y0
    at = offset + y0 * columns + x0
    w00 = weight * (1 - fx) * (1 - fy)
    w01 = weight * fx * (1 - fy)
    w10 = weight * (1 - fx) * fy
    w11 = weight * fx * fy
    for c in range(3):
        rgb[c] += (
            w00 * texels[at, c]
            + w01 * texels[at + 1, c]
            + w10 * texels[at + columns, c]
            + w11 * texels[at + columns + 1, c]
        )


@njit(cache=True, error_model="numpy", nogil=True)
def _look_up(i, half, ox, oy, oz, dx, dy, dz, t, f, texels, levels, count, per_m, rgb):
    qx = (ox + t * dx) / half[0]
    qy = (oy + t * dy) / half[1]
    qz = (oz + t * dz) / half[2]
    ax, ay, az = abs(qx), abs(qy), abs(qz)
    if ax >= ay and ax >= az:
        face, u, v, slope = (1 if qx > 0 else 0), qz / ax, qy / ax, abs(dx)
    elif ay >= az:
        face, u, v, slope = (3 if qy > 0 else 2), qx / ay, qz / ay, abs(dy)
    else:
        face, u, v, slope = (5 if qz > 0 else 4), qx / az, qy / az, abs(dz)
    face += 6 * i
    # Samples lie half a pixel apart; the root balances the two axes of a slanted footprint.
    cosine = max(slope / np.sqrt(dx * dx + dy * dy + dz * dz), 0.02)
    footprint = 0.5 * t / f * per_m[face] / np.sqrt(cosine)
    level = min(max(np.log2(footprint), 0.0), count[face] - 1.001)
    fine = int(level)
    share = level - fine
    for k in range(2):
        weight = share if k else 1 - share
        if weight > 0.0 and fine + k < count[face]:
            _bilinear(
                texels,
                levels[face, fine + k, 0],
                levels[face, fine + k, 1],
                levels[face, fine + k, 2],
                u,
                v,
                weight,
                rgb,
            )


@njit(cache=True, error_model="numpy", nogil=True)
def _alone(seen, v, u):
    rows, columns = seen.shape
    for b in range(max(v - 1, 0), min(v + 2, rows)):
        for a in range(max(u - 1, 0), min(u + 2, columns)):
            if seen[b, a] != seen[v, u]:
                return False
    return True


@njit(cache=True, error_model="numpy", nogil=True)
def _shade(kinds, halves, M, o, f, seen, texels, levels, count, per_m, image):
    rows, columns = seen.shape
    found = np.empty(len(kinds), np.int64)
    rgb = np.empty(3)
    for top in range(0, rows, TILE_PX):
        for left in range(0, columns, TILE_PX):
            bottom, right = min(top + TILE_PX, rows), min(left + TILE_PX, columns)
            near = in_tile(
                kinds,
                halves,
                M,
                o,
                (left - 0.5 * columns) / f,
                (top - 0.5 * rows) / f,
                (right - 0.5 * columns) / f,
                (bottom - 0.5 * rows) / f,
                found,
            )
            for v in range(top, bottom):
                for u in range(left, right):
                    alone = _alone(seen, v, u)
                    rgb[:] = 0.0
                    for k in range(4):
                        x = (u + 0.25 + 0.5 * (k % 2) - 0.5 * columns) / f
                        y = (v + 0.25 + 0.5 * (k // 2) - 0.5 * rows) / f
                        i = seen[v, u]
                        t = np.inf
                        if alone:
                            t = hit(
                                kinds[i],
                                halves[i],
                                o[i, 0],
                                o[i, 1],
                                o[i, 2],
                                M[i, 0, 0] * x + M[i, 0, 1] * y + M[i, 0, 2],
                                M[i, 1, 0] * x + M[i, 1, 1] * y + M[i, 1, 2],
                                M[i, 2, 0] * x + M[i, 2, 1] * y + M[i, 2, 2],
                            )
                        if t == np.inf:
                            i, t = first_hit(kinds, halves, M, o, found, near, x, y, 1.0)
                        _look_up(
                            i,
                            halves[i],
                            o[i, 0],
                            o[i, 1],
                            o[i, 2],
                            M[i, 0, 0] * x + M[i, 0, 1] * y + M[i, 0, 2],
                            M[i, 1, 0] * x + M[i, 1, 1] * y + M[i, 1, 2],
                            M[i, 2, 0] * x + M[i, 2, 1] * y + M[i, 2, 2],
                            t,
                            f,
                            texels,
                            levels,
                            count,
                            per_m,
                            rgb,
                        )
                    for c in range(3):
                        image[v, u, c] = np.uint8(0.25 * rgb[c] + 0.5)
