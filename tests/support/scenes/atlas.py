"""The painted and lit faces of every solid, packed with their mip levels into one array.

Every solid has six faces, 2 * axis + (looks along the positive axis); a sphere is a cube blown
up, so a face is always addressed by (u, v) in [-1, 1] along the axes `noise.AXES_UV`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from tests.support.scenes import materials
from tests.support.scenes.furniture import TONES, Piece, furnish, solids_of
from tests.support.scenes.geometry import ROOM, SPHERE, Solids
from tests.support.scenes.lighting import AMBIENT, face_points, irradiance
from tests.support.scenes.noise import AXES_UV, face_directions, fractal_on_sphere

LIGHT_M = 0.07
"""Spacing of the points at which light is gathered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Atlas:
    """Packed textures.

    Attributes:
        texels: ``uint8 [N, 3]`` RGB.
        levels: ``int64 [P * 6, 12, 3]``: offset, columns, rows of each mip level.
        count: ``int64 [P * 6]``: how many levels a face has.
        per_m: ``float64 [P * 6]``: texels per meter in its finest level.
    """

    texels: np.ndarray
    levels: np.ndarray
    count: np.ndarray
    per_m: np.ndarray


@lru_cache(maxsize=2)
def paint(seed: int, texel_m: float, plain: bool = False) -> Atlas:
    """Paint and light the room of a seed; ``plain`` gives every face a single albedo."""
    pieces = furnish(seed)
    solids = solids_of(pieces)
    jobs = [(i, face) for i in range(len(pieces)) for face in range(6)]
    with ThreadPoolExecutor(2) as pool:
        painted = pool.map(lambda i: _albedos(seed, pieces[i], i, texel_m), range(len(pieces)))
        albedos = [albedo for faces in painted for albedo in faces]
    if plain:
        albedos = [np.broadcast_to(a.mean((0, 1)), a.shape) for a in albedos]
    means = np.array([a.mean((0, 1)) for a in albedos]).reshape(-1, 6, 3).mean(1)
    # The last piece moves: it neither casts a baked shadow nor catches one.
    still = Solids(
        kind=solids.kind[:-1], half_m=solids.half_m[:-1], T_world_solid=solids.T_world_solid[:-1]
    )

    def lit(n: int) -> np.ndarray:
        i, face = jobs[n]
        if i == len(pieces) - 1:
            light = np.float32(1.35 * AMBIENT)
        else:
            light = _light(still, means, i, face, albedos[n].shape[:2], texel_m)
        return (np.clip(_toned(albedos[n] * light), 0, 1) * 255 + 0.5).astype(np.uint8)

    with ThreadPoolExecutor(2) as pool:
        return _pack(list(pool.map(lit, range(len(jobs)))), solids)


def _toned(radiance: np.ndarray) -> np.ndarray:
    """Compress highlights smoothly, so that nothing under a lamp burns out."""
    exposed = 1.42 * radiance
    return exposed * (1 + exposed / 4) / (1 + 0.72 * exposed)


def _shape(solids_half_m: tuple[float, float, float], axis: int, texel_m: float):
    u_axis, v_axis = AXES_UV[axis]
    columns, rows = (max(round(2 * solids_half_m[a] / texel_m), 4) for a in (u_axis, v_axis))
    return rows, columns


def _albedos(seed: int, piece: Piece, i: int, texel_m: float) -> list[np.ndarray]:
    """Return the colors ``float32 [rows, columns, 3]`` of the six faces of a solid."""
    tone = np.array(piece.tone, np.float32)
    if piece.kind == SPHERE:
        side = _shape(piece.half_m, 0, texel_m)[0]
        directions = np.stack([face_directions(k // 2, 2 * (k % 2) - 1, side) for k in range(6)])
        rng = np.random.default_rng([seed, 2, i])
        return list(_ball(rng, piece.material, tone, directions, texel_m / piece.half_m[0]))
    faces = []
    for face in range(6):
        rng = np.random.default_rng([seed, 2, i, face])
        shape = _shape(piece.half_m, face // 2, texel_m)
        if piece.kind == ROOM:
            faces.append(_room_face(seed, rng, face, shape, texel_m))
        else:
            faces.append(_box_face(rng, piece.material, face, shape, texel_m, tone))
    return faces


def _box_face(rng, material: str, face: int, shape, texel_m, tone) -> np.ndarray:
    if material in ("books", "painting") and (face // 2 == 1 or face == 5):
        material = "planks"
    if material == "planks" and shape[0] > shape[1]:
        turned = materials.planks(rng, shape[::-1], texel_m, tone)
        return np.ascontiguousarray(turned.transpose(1, 0, 2))
    return getattr(materials, material)(rng, shape, texel_m, tone)


def _room_face(seed, rng, face, shape, texel_m) -> np.ndarray:
    tones = {name: np.array(tone, np.float32) for name, tone in TONES.items()}
    if face == 2:
        return materials.planks(rng, shape, texel_m, tones["white"] * np.float32(0.95), 0.2)
    if face == 3:
        floor = materials.planks(rng, shape, texel_m, tones["oak"])
        rows, columns = shape
        high, wide = int(2.0 / texel_m), int(2.9 / texel_m)
        top, left = (rows - high) // 2, (columns - wide) // 2
        floor[top : top + high, left : left + wide] = materials.fabric(
            rng, (high, wide), texel_m, tones["clay"]
        )
        return floor
    order = np.random.default_rng([seed, 3]).permutation(4)
    kind = order[(0, 1, 2, 3)[(0, 1, 4, 5).index(face)]]
    if kind == 0:
        return materials.stones(rng, shape, texel_m, tones["stone"])
    if kind == 1:
        return materials.leaves(rng, shape, texel_m, tones["sand"])
    wall = materials.plaster(rng, shape, texel_m, tones["sage" if kind == 2 else "sand"])
    return materials.hung(rng, wall, texel_m, 4 if kind == 2 else 5)


def _ball(rng, material: str, tone: np.ndarray, directions: np.ndarray, texel: float):
    broad = fractal_on_sphere(rng, directions, 0.7, texel, 6, 0.6)
    fine = fractal_on_sphere(rng, directions, 0.15, texel, 4, 0.8)
    if material == "globe":
        land = np.clip(4 * broad, 0, 1)[..., None]
        image = tone * (1 - land) + np.float32([0.80, 0.72, 0.46]) * land
        image = image * (1 - 0.5 * (np.abs(broad) < 0.08)[..., None])
    elif material == "foliage":
        image = tone * (1 + 0.5 * np.sign(np.sin(6 * fine))[..., None] * 0.6)
        image = image + np.float32([0.12, 0.1, 0.0]) * broad[..., None]
    else:
        veins = np.exp(-8 * np.abs(broad))[..., None]
        image = tone * (1 - 0.5 * veins) + 0.05 * np.sign(fine)[..., None]
    return np.clip(materials.grained(image, fine, 0.12), 0, 1).astype(np.float32)


def _light(solids, means, i, face, shape, texel_m) -> np.ndarray:
    spacing = max(LIGHT_M if solids.kind[i] == ROOM else LIGHT_M / 2, 8 * texel_m)
    coarse = tuple(max(round(n * texel_m / spacing), 3) for n in shape)
    points, normals = face_points(solids, i, face, coarse)
    light = irradiance(solids, means, points, normals, 7).reshape(*coarse, 3)
    light = cv2.resize(light.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    return light


def _pack(images: list[np.ndarray], solids: Solids) -> Atlas:
    levels = np.zeros((len(images), 12, 3), np.int64)
    count = np.zeros(len(images), np.int64)
    per_m = np.zeros(len(images))
    parts, offset = [], 0
    for n, image in enumerate(images):
        per_m[n] = image.shape[1] / (2 * solids.half_m[n // 6, AXES_UV[n % 6 // 2][0]])
        while True:
            rows, columns = image.shape[:2]
            levels[n, count[n]] = offset, columns, rows
            count[n] += 1
            parts.append(image.reshape(-1, 3))
            offset += rows * columns
            if min(rows, columns) <= 2 or count[n] == levels.shape[1]:
                break
            image = cv2.resize(image, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
    return Atlas(texels=np.concatenate(parts), levels=levels, count=count, per_m=per_m)
