"""Diffuse light in a furnished room, gathered once for each face and independent of the viewer.

Two soft lamps under the ceiling cast soft shadows; the rest is ambient light, dimmed where
something is near (ambient occlusion) and tinted by it.
"""

import numpy as np
from numba import njit

from tests.support.scenes.geometry import ROOM, Solids, first_hit
from tests.support.scenes.noise import AXES_UV, face_directions

LAMPS_M = np.array([[-1.4, -2.75, -1.0], [1.5, -2.75, 0.9]])
LAMP_SIDE_M = 0.9
LAMP_POWER = np.array([1.45, 1.30, 1.08])
AMBIENT = np.array([0.60, 0.64, 0.70])
REACH_M = 0.5
"""Distance at which a neighbor hides 1 - 1/e of the ambient light."""


def face_points(
    solids: Solids, index: int, face: int, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return world points and normals ``[rows * columns, 3]`` of a grid on one face."""
    axis, sign = face // 2, 1 if face % 2 else -1
    half = solids.half_m[index]
    if solids.kind[index] == 2:
        normals = face_directions(axis, sign, shape[0]).reshape(-1, 3)
        local = normals * half[0]
    else:
        u, v = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (shape[1], shape[0]))
        u_axis, v_axis = AXES_UV[axis]
        local = np.empty((*shape, 3))
        local[..., axis] = sign * half[axis]
        local[..., u_axis], local[..., v_axis] = np.meshgrid(u * half[u_axis], v * half[v_axis])
        local = local.reshape(-1, 3)
        normals = np.zeros_like(local)
        normals[:, axis] = -sign if solids.kind[index] == ROOM else sign
    pose = solids.T_world_solid[index]
    return local @ pose[:3, :3].T + pose[:3, 3], normals @ pose[:3, :3].T


def irradiance(
    solids: Solids, albedo: np.ndarray, points: np.ndarray, normals: np.ndarray, seed: int
) -> np.ndarray:
    """Return the light ``float64 [N, 3]`` that falls on points, by tracing 40 + 2 x 16 rays each.

    ``albedo [P, 3]`` is the mean color of each solid, which tints its neighbors.
    """
    rng = np.random.default_rng(seed)
    sphere = rng.normal(size=(40, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    corner = (np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) + 0.5) / 4
    out = np.empty_like(points)
    _gather(
        solids.kind,
        solids.half_m,
        solids.T_world_solid,
        albedo,
        points,
        normals,
        sphere,
        (corner - 0.5) * LAMP_SIDE_M,
        LAMPS_M,
        LAMP_POWER,
        AMBIENT,
        out,
    )
    return out


@njit(cache=True, error_model="numpy", nogil=True)
def _gather(
    kinds, halves, poses, albedo, points, normals, sphere, spread, lamps, power, ambient, out
):
    count = len(kinds)
    everything = np.arange(count)
    M = np.empty((count, 3, 3))
    o = np.empty((count, 3))
    for n in range(len(points)):
        start = points[n] + 1e-4 * normals[n]
        for i in range(count):
            to_solid = poses[i, :3, :3].T
            for r in range(3):
                o[i, r] = 0.0
                for c in range(3):
                    o[i, r] += to_solid[r, c] * (start[c] - poses[i, c, 3])
                    M[i, r, c] = to_solid[r, c]
        light = np.zeros(3)
        for k in range(len(sphere)):
            # Normal plus a uniform direction is cosine-distributed about the normal.
            dx = normals[n, 0] + 0.999 * sphere[k, 0]
            dy = normals[n, 1] + 0.999 * sphere[k, 1]
            dz = normals[n, 2] + 0.999 * sphere[k, 2]
            s, t = first_hit(kinds, halves, M, o, everything, count, dx, dy, dz)
            far = t * np.sqrt(dx * dx + dy * dy + dz * dz)
            open_share = 1.0 - np.exp(-far / REACH_M)
            for c in range(3):
                light[c] += (
                    open_share * ambient[c] + (1 - open_share) * 0.35 * albedo[s, c]
                ) / len(sphere)
        for lamp in range(len(lamps)):
            for k in range(len(spread)):
                dx = lamps[lamp, 0] + spread[k, 0] - start[0]
                dy = lamps[lamp, 1] - start[1]
                dz = lamps[lamp, 2] + spread[k, 1] - start[2]
                square = dx * dx + dy * dy + dz * dz
                cosine = (dx * normals[n, 0] + dy * normals[n, 1] + dz * normals[n, 2]) / np.sqrt(
                    square
                )
                if cosine > 0.0:
                    _, t = first_hit(kinds, halves, M, o, everything, count, dx, dy, dz)
                    if t > 0.98:
                        for c in range(3):
                            light[c] += power[c] * cosine / (1.0 + 0.45 * square) / len(spread)
        out[n] = light
