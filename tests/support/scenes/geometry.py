"""Solids and exact rays through them.

A scene is a list of solids: the room (a box seen from inside), boxes and spheres, each with its
own rigid pose. A camera sees a solid through a *view*: the ray of the pixel (x, y), with
x = (u - cx) / f and y = (v - cy) / f, is ``M @ (x, y, 1)`` in the axes of the solid and begins at
``o``, so that the ray parameter of a hit is its z-depth in the camera.

World axes are those of a camera at rest: x right, y down, z forward; the floor lies at y = 0.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

ROOM, BOX, SPHERE = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Solids:
    """Rigid solids; row i of every array is the same solid, row 0 is the room.

    Attributes:
        kind: ``int64 [P]``, one of ROOM, BOX, SPHERE.
        half_m: ``float64 [P, 3]`` half extents in the solid's axes (a sphere: its radius thrice).
        T_world_solid: ``float64 [P, 4, 4]`` rigid poses.
    """

    kind: np.ndarray
    half_m: np.ndarray
    T_world_solid: np.ndarray

    def __post_init__(self) -> None:
        """Check the shapes."""
        count = len(self.kind)
        if self.half_m.shape != (count, 3) or self.T_world_solid.shape != (count, 4, 4):
            raise ValueError(
                f"{self.kind.shape = }, {self.half_m.shape = }, "
                f"{self.T_world_solid.shape = } do not describe the same solids"
            )

    def moved(self, index: int, T_world_solid: np.ndarray) -> "Solids":
        """Return these solids with solid ``index`` at another pose ``[4, 4]``."""
        poses = self.T_world_solid.copy()
        poses[index] = T_world_solid
        return Solids(kind=self.kind, half_m=self.half_m, T_world_solid=poses)

    def seen_from(self, T_world_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the views of a camera: ``M [P, 3, 3]`` and ``o [P, 3]`` in meters."""
        to_solid = self.T_world_solid[:, :3, :3].transpose(0, 2, 1)
        offset = T_world_camera[:3, 3] - self.T_world_solid[:, :3, 3]
        rotations = to_solid @ T_world_camera[:3, :3]
        origins = np.einsum("pij,pj->pi", to_solid, offset)
        return np.ascontiguousarray(rotations), np.ascontiguousarray(origins)

    def clearance_m(self, points: np.ndarray, skip: int = -1) -> np.ndarray:
        """Return the distance ``[N]`` from world points ``[N, 3]`` to the nearest surface.

        Negative inside a solid or outside the room; solid ``skip`` is left out.
        """
        nearest = np.full(len(points), np.inf)
        for i in range(len(self.kind)):
            if i != skip:
                local = (points - self.T_world_solid[i, :3, 3]) @ self.T_world_solid[i, :3, :3]
                nearest = np.minimum(nearest, _distance_m(self.kind[i], self.half_m[i], local))
        return nearest


def _distance_m(kind: int, half_m: np.ndarray, local: np.ndarray) -> np.ndarray:
    if kind == SPHERE:
        return np.linalg.norm(local, axis=1) - half_m[0]
    beyond = np.abs(local) - half_m
    if kind == ROOM:
        return -beyond.max(axis=1)
    outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=1)
    return outside + np.minimum(beyond.max(axis=1), 0.0)


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Return the rotation ``[3, 3]`` of a camera turned right, then up, then clockwise (rad)."""
    cy, sy = np.cos(yaw), np.sin(yaw)
    cp, sp = np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    about_z = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return about_y @ about_x @ about_z


def rigid(rotation: np.ndarray, translation_m: np.ndarray) -> np.ndarray:
    """Return the rigid transform ``[4, 4]`` of a rotation ``[3, 3]`` and a translation ``[3]``."""
    T = np.eye(4)
    T[:3, :3] = rotation
    T[:3, 3] = translation_m
    return T


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def hit(kind, half, ox, oy, oz, dx, dy, dz):
    """Return the ray parameter of the first hit of one solid (0 from inside it), or infinity."""
    if kind == SPHERE:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - half[0] * half[0]
        root = b * b - a * c
        if root < 0.0 or (b > 0.0 and c > 0.0):
            return np.inf
        return max((-b - np.sqrt(root)) / a, 0.0)
    ix, iy, iz = 1.0 / dx, 1.0 / dy, 1.0 / dz
    leave = min(
        (np.copysign(half[0], dx) - ox) * ix,
        (np.copysign(half[1], dy) - oy) * iy,
        (np.copysign(half[2], dz) - oz) * iz,
    )
    if kind == ROOM:
        return leave
    enter = max(
        (-np.copysign(half[0], dx) - ox) * ix,
        (-np.copysign(half[1], dy) - oy) * iy,
        (-np.copysign(half[2], dz) - oz) * iz,
    )
    if leave < 0.0 or enter > leave:
        return np.inf
    return max(enter, 0.0)


@njit(cache=True, error_model="numpy", nogil=True)
def first_hit(kinds, halves, M, o, candidates, count, x, y, z):
    """Return (solid, ray parameter) of what the ray (x, y, z) meets first among the candidates."""
    best, nearest = -1, np.inf
    for k in range(count):
        i = candidates[k]
        t = hit(
            kinds[i],
            halves[i],
            o[i, 0],
            o[i, 1],
            o[i, 2],
            M[i, 0, 0] * x + M[i, 0, 1] * y + M[i, 0, 2] * z,
            M[i, 1, 0] * x + M[i, 1, 1] * y + M[i, 1, 2] * z,
            M[i, 2, 0] * x + M[i, 2, 1] * y + M[i, 2, 2] * z,
        )
        if t < nearest:
            best, nearest = i, t
    return best, nearest
