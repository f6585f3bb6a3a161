"""Seeded random fields with detail at many scales, on a rectangle and on a sphere."""

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

AXES_UV = ((2, 1), (0, 2), (0, 1))
"""The two axes that run along the columns and rows of a face, by the axis the face looks along."""


def fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell_px: float | tuple[float, float],
    octaves: int = 8,
    gain: float = 0.6,
) -> np.ndarray:
    """Return value noise ``float32 [rows, columns]`` of zero mean and unit variance.

    Args:
        rng: Source of randomness.
        shape: Rows and columns.
        cell_px: Size of the coarsest cell, or (across the columns, across the rows).
        octaves: Each halves the cell; those below one and a half texels are left out.
        gain: Amplitude of an octave relative to the coarser one.
    """
    rows, columns = shape
    cell_x, cell_y = cell_px if isinstance(cell_px, tuple) else (cell_px, cell_px)
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cx, cy = max(cell_x / 2**octave, 1.0), max(cell_y / 2**octave, 1.0)
        grid = rng.standard_normal((int(rows / cy) + 4, int(columns / cx) + 4)).astype(np.float32)
        start_x, start_y = rng.random(2)
        scale = np.array([[1 / cx, 0.0, start_x + 1], [0.0, 1 / cy, start_y + 1]], np.float32)
        total += gain**octave * cv2.warpAffine(
            grid,
            scale,
            (columns, rows),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        if max(cx, cy) <= 1.5:
            break
    total -= total.mean()
    return total / max(float(total.std()), 1e-6)


def face_directions(axis: int, sign: int, side: int) -> np.ndarray:
    """Return unit directions ``float64 [side, side, 3]`` through a face of a cube."""
    ticks = (np.arange(side) + 0.5) / side * 2 - 1
    directions = np.full((side, side, 3), float(sign))
    u_axis, v_axis = AXES_UV[axis]
    directions[..., u_axis], directions[..., v_axis] = np.meshgrid(ticks, ticks)
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def fractal_on_sphere(
    rng: np.random.Generator,
    directions: np.ndarray,
    cell: float,
    texel: float,
    octaves: int = 6,
    gain: float = 0.6,
) -> np.ndarray:
    """Return value noise ``float32 [...]`` at unit directions ``[..., 3]``, seamless all round.

    ``cell`` is the coarsest cell and ``texel`` the spacing of the directions, as shares of the
    radius; octaves finer than it are left out. Mean and variance are about 0 and 1.
    """
    total = np.zeros(directions.shape[:-1], np.float32)
    power = 0.0
    for octave in range(octaves):
        per_radius = 2**octave / cell
        if octave and per_radius * texel > 0.7:
            break
        count = int(2 * per_radius) + 6
        grid = rng.standard_normal((count, count, count)).astype(np.float32)
        where = np.moveaxis((directions + 1.0) * per_radius + 2.0, -1, 0)
        total += gain**octave * map_coordinates(grid, where, order=1, mode="nearest")
        power += gain ** (2 * octave) * 0.3
    return total / np.float32(np.sqrt(power))
