"""Furnish a room: which solids stand where, and what each is made of.

Groups are laid out in the axes of a wall (x along it, y down from the floor line, z away from it
into the room) and then turned to one of the four walls.
"""

from dataclasses import dataclass

import numpy as np

from tests.support.scenes.geometry import BOX, ROOM, SPHERE, Solids, rigid, turn

ROOM_M = np.array([6.0, 3.0, 5.0])
BALL_RADIUS_M = 0.24


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One solid of the room and what it is made of."""

    kind: int
    half_m: tuple[float, float, float]
    T_world_solid: np.ndarray
    material: str
    tone: tuple[float, float, float]


Part = tuple[int, tuple[float, float, float], tuple[float, float, float], float, str, str]
"""Kind, center, half extents, yaw (degrees), material, tone."""

TONES = {
    "oak": (0.62, 0.43, 0.26),
    "walnut": (0.42, 0.28, 0.19),
    "pine": (0.76, 0.60, 0.40),
    "white": (0.84, 0.81, 0.75),
    "sage": (0.55, 0.60, 0.50),
    "blue": (0.30, 0.40, 0.50),
    "rust": (0.66, 0.36, 0.25),
    "sand": (0.78, 0.68, 0.52),
    "leaf": (0.30, 0.44, 0.22),
    "clay": (0.70, 0.44, 0.32),
    "lamp": (0.95, 0.88, 0.70),
    "stone": (0.58, 0.54, 0.49),
}


def furnish(seed: int) -> list[Piece]:
    """Return the room (first), its furniture, and a ball on the floor (last)."""
    rng = np.random.default_rng([seed, 1])
    pieces = [_piece(ROOM, (0, -ROOM_M[1] / 2, 0), ROOM_M / 2, 0.0, "room", "white")]
    groups = [_bookcase(rng), _sofa(rng), _cabinet(rng), _desk(rng)]
    for wall, group in enumerate(rng.permutation(len(groups))):
        pieces += _against(wall, groups[group], rng.uniform(-0.45, 0.45))
    pieces += [_piece(*part) for part in _middle(rng)]
    at = rng.uniform(-0.5, 0.5)
    for x in (-2.0 + at, 0.0 + at, 2.0 + at):
        pieces.append(_piece(BOX, (x, -2.91, 0.0), (0.09, 0.09, 2.5), 0.0, "planks", "walnut"))
    radius = BALL_RADIUS_M
    pieces.append(_piece(SPHERE, (0, -radius, 0), (radius,) * 3, 0.0, "globe", "blue"))
    return pieces


def solids_of(pieces: list[Piece]) -> Solids:
    """Return the geometry of the pieces."""
    return Solids(
        kind=np.array([p.kind for p in pieces], np.int64),
        half_m=np.array([p.half_m for p in pieces], np.float64),
        T_world_solid=np.stack([p.T_world_solid for p in pieces]),
    )


def _piece(kind, center, half, yaw_deg, material, tone) -> Piece:
    pose = rigid(turn(yaw=np.radians(yaw_deg)), np.asarray(center, np.float64))
    return Piece(
        kind=kind,
        half_m=tuple(float(h) for h in half),
        T_world_solid=pose,
        material=material,
        tone=TONES[tone],
    )


def _against(wall: int, group: list[Part], shift_m: float) -> list[Piece]:
    """Turn a group to wall 0..3 (far, right, near, left), moved sideways by ``shift_m``."""
    yaw = 90.0 * wall
    distance = ROOM_M[2] / 2 if wall % 2 == 0 else ROOM_M[0] / 2
    rotation = turn(yaw=np.radians(yaw))
    pieces = []
    for kind, (x, y, z), half, own_yaw, material, tone in group:
        center = rotation @ np.array([x + shift_m, y, distance - z])
        pieces.append(_piece(kind, center, half, yaw + own_yaw, material, tone))
    return pieces


def _bookcase(rng: np.random.Generator) -> list[Part]:
    return [
        (BOX, (-0.3, -1.0, 0.17), (0.85, 1.0, 0.17), 0.0, "books", "oak"),
        (BOX, (0.95, -0.24, 0.32), (0.26, 0.24, 0.26), rng.uniform(10, 35), "planks", "pine"),
        (BOX, (0.97, -0.64, 0.32), (0.18, 0.16, 0.18), rng.uniform(-40, 0), "fabric", "rust"),
        (SPHERE, (0.97, -0.92, 0.32), (0.12,) * 3, 0.0, "marble", "sand"),
        *_plant(-1.55, 0.4, rng),
    ]


def _sofa(rng: np.random.Generator) -> list[Part]:
    tone = ("blue", "sage", "rust")[rng.integers(3)]
    return [
        (BOX, (0.0, -0.24, 0.48), (0.95, 0.20, 0.40), 0.0, "fabric", tone),
        (BOX, (0.0, -0.45, 0.12), (0.95, 0.41, 0.11), 0.0, "fabric", tone),
        (BOX, (-1.04, -0.32, 0.46), (0.11, 0.32, 0.44), 0.0, "fabric", tone),
        (BOX, (1.04, -0.32, 0.46), (0.11, 0.32, 0.44), 0.0, "fabric", tone),
        (BOX, (-0.6, -0.63, 0.34), (0.20, 0.19, 0.08), rng.uniform(-25, 25), "fabric", "sand"),
        (BOX, (0.5, -0.63, 0.36), (0.21, 0.19, 0.08), rng.uniform(-25, 25), "fabric", "clay"),
        (BOX, (1.6, -0.8, 0.4), (0.02, 0.8, 0.02), 0.0, "planks", "walnut"),
        (SPHERE, (1.6, -1.7, 0.4), (0.2,) * 3, 0.0, "marble", "lamp"),
    ]


def _cabinet(rng: np.random.Generator) -> list[Part]:
    return [
        (BOX, (0.0, -0.42, 0.24), (0.8, 0.42, 0.22), 0.0, "planks", "walnut"),
        (SPHERE, (-0.5, -1.0, 0.25), (0.16,) * 3, 0.0, "globe", "clay"),
        (BOX, (0.1, -0.90, 0.25), (0.16, 0.06, 0.11), rng.uniform(-30, 30), "books", "oak"),
        (BOX, (0.12, -1.0, 0.25), (0.12, 0.04, 0.09), rng.uniform(-30, 30), "fabric", "blue"),
        (BOX, (0.52, -1.04, 0.16), (0.17, 0.20, 0.03), rng.uniform(-20, 20), "painting", "sage"),
        *_plant(1.3, 0.4, rng),
    ]


def _desk(rng: np.random.Generator) -> list[Part]:
    return [
        (BOX, (0.0, -0.72, 0.36), (0.75, 0.025, 0.34), 0.0, "planks", "pine"),
        (BOX, (-0.5, -0.35, 0.36), (0.22, 0.345, 0.30), 0.0, "planks", "oak"),
        (BOX, (0.7, -0.35, 0.36), (0.03, 0.345, 0.30), 0.0, "planks", "pine"),
        (BOX, (-0.1, -0.99, 0.2), (0.28, 0.19, 0.02), rng.uniform(-15, 15), "painting", "blue"),
        (BOX, (0.48, -0.80, 0.35), (0.13, 0.055, 0.1), rng.uniform(-40, 40), "books", "rust"),
        (SPHERE, (-0.55, -0.84, 0.35), (0.1,) * 3, 0.0, "marble", "rust"),
        (BOX, (1.25, -0.27, 0.35), (0.28, 0.27, 0.28), rng.uniform(-35, 35), "planks", "pine"),
        (BOX, (1.25, -0.66, 0.35), (0.16, 0.12, 0.16), rng.uniform(0, 60), "fabric", "sage"),
    ]


def _plant(x: float, z: float, rng: np.random.Generator) -> list[Part]:
    parts: list[Part] = [(BOX, (x, -0.2, z), (0.17, 0.2, 0.17), 20.0, "fabric", "clay")]
    for height in (0.52, 0.78, 1.0, 1.18):
        radius = rng.uniform(0.13, 0.2)
        dx, dz = rng.uniform(-0.12, 0.12, 2)
        parts.append((SPHERE, (x + dx, -height, z + dz), (radius,) * 3, 0.0, "foliage", "leaf"))
    return parts


def _middle(rng: np.random.Generator) -> list[Part]:
    """Stand a low table with a few things on it near the middle of the room."""
    x, z = rng.uniform(-0.5, 0.5, 2)
    yaw = float(rng.uniform(-30, 30))
    rotation = turn(yaw=np.radians(yaw))
    parts: list[Part] = [(BOX, (x, -0.42, z), (0.5, 0.03, 0.32), yaw, "planks", "oak")]
    for lx in (-0.43, 0.43):
        for lz in (-0.26, 0.26):
            leg = rotation @ np.array([lx, -0.195, lz]) + np.array([x, 0.0, z])
            parts.append((BOX, tuple(leg), (0.03, 0.195, 0.03), yaw, "planks", "oak"))
    for local, item in (
        ((-0.25, -0.55, 0.05), (SPHERE, (0.1,) * 3, "marble", "clay")),
        ((0.2, -0.49, -0.08), (BOX, (0.15, 0.04, 0.11), "books", "blue")),
        ((0.22, -0.555, -0.08), (BOX, (0.1, 0.025, 0.08), "fabric", "rust")),
    ):
        center = rotation @ np.array(local) + np.array([x, 0.0, z])
        kind, half, material, tone = item
        parts.append((kind, tuple(center), half, yaw + rng.uniform(-30, 30), material, tone))
    return parts
