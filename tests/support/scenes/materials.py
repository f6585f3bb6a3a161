"""Procedural surfaces: each paints a rectangle of a given size with colors that never repeat.

A painter takes (rng, shape, texel_m) and returns RGB ``float32 [rows, columns, 3]`` in [0, 1];
rows run downwards on walls. Detail spans decimeters to single texels, so that corners and flow
are found from near and from afar.
"""

import cv2
import numpy as np
from scipy.spatial import cKDTree

from tests.support.scenes.noise import fractal

Shape = tuple[int, int]

WARM = (
    np.array(
        [
            [196, 92, 62],
            [222, 164, 84],
            [238, 214, 170],
            [92, 124, 112],
            [52, 78, 104],
            [150, 70, 74],
            [122, 138, 86],
            [214, 130, 96],
            [70, 60, 66],
            [176, 190, 190],
        ],
        np.float32,
    )
    / 255
)


def tinted(rng: np.random.Generator, color: np.ndarray, spread: float) -> np.ndarray:
    """Return a color near ``color``: brighter or darker, and a little off in hue."""
    return color * (1 + spread * rng.standard_normal()) + 0.08 * spread * rng.normal(size=3)


def grained(image: np.ndarray, noise: np.ndarray, contrast: float) -> np.ndarray:
    """Return the image with its brightness modulated by noise of unit variance."""
    return image * np.maximum(1 + contrast * noise, 0.1)[..., None]


def plaster(rng: np.random.Generator, shape: Shape, texel_m: float, tone: np.ndarray) -> np.ndarray:
    """Paint a wall: limewash, trowel marks, and flecks of straw a little off its tone."""
    image = np.full((*shape, 3), tone, np.float32)
    for lightness, per_m2 in ((0.80, 90.0), (1.17, 60.0)):
        strewn = tone * np.float32(lightness)
        image = scattered(rng, image, texel_m, strewn, per_m2, (0.004, 0.022), 0.07)
    for _ in range(2):
        angle = rng.uniform(-0.5, 0.5) + np.pi / 2 * rng.integers(2)
        strokes = _strokes(rng, shape, texel_m, angle)
        image = grained(image, strokes, 0.035)
    return grained(image, fractal(rng, shape, 0.9 / texel_m, 10, 0.8), 0.06)


def _strokes(rng: np.random.Generator, shape: Shape, texel_m: float, angle: float) -> np.ndarray:
    """Return brush marks along a direction, ``float32 [rows, columns]`` of unit variance."""
    field = np.zeros(shape, np.float32)
    rows, columns = shape
    along = np.array([np.cos(angle), np.sin(angle)])
    for _ in range(int(55 * rows * columns * texel_m**2)):
        at = rng.uniform(0, [columns, rows])
        end = at + along * rng.uniform(0.05, 0.25) / texel_m + rng.normal(0, 0.02, 2) / texel_m
        thick = max(int(rng.uniform(0.004, 0.03) / texel_m), 1)
        ends = (tuple(at.astype(int)), tuple(end.astype(int)))
        cv2.line(field, *ends, float(rng.normal()), thick)
    return field / max(float(field.std()), 1e-6)


def scattered(
    rng: np.random.Generator,
    image: np.ndarray,
    texel_m: float,
    tone: np.ndarray,
    per_m2: float,
    radius_m: tuple[float, float],
    spread: float,
) -> np.ndarray:
    """Strew ellipses of log-uniform size over the image, in place, and return it."""
    rows, columns = image.shape[:2]
    for _ in range(int(per_m2 * rows * columns * texel_m**2)):
        radius = np.exp(rng.uniform(*np.log(radius_m))) / texel_m
        center = (rng.uniform(0, columns), rng.uniform(0, rows))
        axes = (radius, radius * rng.uniform(0.3, 1.0))
        _ellipse(image, center, axes, rng.uniform(0, 180), tinted(rng, tone, spread))
    return image


def _ellipse(image, center, axes, angle, color) -> None:
    cv2.ellipse(
        image,
        tuple(int(16 * c) for c in center),
        tuple(max(int(16 * a), 8) for a in axes),
        angle,
        0,
        360,
        [float(c) for c in color],
        -1,
        cv2.LINE_8,
        4,
    )


def leaves(rng: np.random.Generator, shape: Shape, texel_m: float, tone: np.ndarray) -> np.ndarray:
    """Wallpaper: sprays of leaves of all sizes, each with its vein, on a stained ground."""
    image = plaster(rng, shape, texel_m, tone)
    rows, columns = shape
    greens = np.float32(
        [
            [0.42, 0.50, 0.38],
            [0.55, 0.58, 0.42],
            [0.35, 0.45, 0.45],
            [0.72, 0.55, 0.38],
            [0.62, 0.40, 0.34],
        ]
    )
    for _ in range(int(60 * rows * columns * texel_m**2)):
        length = np.exp(rng.uniform(*np.log([0.025, 0.16]))) / texel_m
        angle = rng.uniform(0, 360)
        center = np.array([rng.uniform(0, columns), rng.uniform(0, rows)])
        color = tinted(rng, greens[rng.integers(len(greens))], 0.12)
        _ellipse(image, center, (length / 2, length * rng.uniform(0.12, 0.25)), angle, color)
        along = length / 2 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        ends = [tuple(int(c) for c in center + s * along) for s in (-1.2, 0.9)]
        thick = max(int(length / 40), 1)
        cv2.line(image, *ends, [float(c) for c in 0.7 * color], thick)
    return grained(image, fractal(rng, shape, 0.05 / texel_m, 5, 0.8), 0.06)


def stones(rng: np.random.Generator, shape: Shape, texel_m: float, tone: np.ndarray) -> np.ndarray:
    """Paint a wall of irregular stones in pale mortar."""
    rows, columns = shape
    step = max(int(0.012 / texel_m), 1)
    y, x = np.mgrid[0:rows:step, 0:columns:step].astype(np.float32) * texel_m
    y, x = y * 1.7, x + 0
    bend = np.stack([fractal(rng, x.shape, 0.12 / texel_m / step, 4) for _ in range(2)], -1)
    where = np.stack([x, y], -1) + 0.012 * bend
    seeds = np.stack(
        np.meshgrid(np.arange(-0.3, x.max() + 0.3, 0.24), np.arange(-0.3, y.max() + 0.3, 0.24)), -1
    ).reshape(-1, 2)
    seeds = seeds + rng.uniform(-0.11, 0.11, seeds.shape)
    distance, index = cKDTree(seeds).query(where, k=2)
    palette = np.stack([tinted(rng, tone, 0.13) for _ in seeds]).astype(np.float32)
    gap = np.clip((distance[..., 1] - distance[..., 0] - 0.014) / 0.02, 0, 1).astype(np.float32)
    gap = cv2.resize(gap, (columns, rows), interpolation=cv2.INTER_LINEAR)[..., None]
    cells = palette[index[..., 0]]
    image = cv2.resize(cells, (columns, rows), interpolation=cv2.INTER_NEAREST)
    image = grained(image, fractal(rng, shape, 0.10 / texel_m, 7, 0.8), 0.13)
    mortar = grained(np.full_like(image, 0.74), fractal(rng, shape, 0.02 / texel_m, 4), 0.06)
    rounded = 0.82 + 0.18 * gap
    return mortar * (1 - gap) + image * gap * rounded


def planks(
    rng: np.random.Generator,
    shape: Shape,
    texel_m: float,
    tone: np.ndarray,
    width_m: float = 0.13,
) -> np.ndarray:
    """Lay boards of random length along the columns, each of its own tone, with grain."""
    rows, columns = shape
    image = np.empty((*shape, 3), np.float32)
    grain = fractal(rng, shape, (0.6 / texel_m, 0.03 / texel_m), 6, 0.85)
    rings = np.sin(5 * fractal(rng, shape, (1.2 / texel_m, 0.05 / texel_m), 3, 0.5))
    gap = max(round(0.004 / texel_m), 1)
    for top in np.arange(0, rows, width_m / texel_m):
        bottom = int(top + width_m / texel_m)
        left = -rng.uniform(0, 1.0) / texel_m
        while left < columns:
            right = left + rng.uniform(0.5, 1.4) / texel_m
            board = np.s_[int(top) : bottom, max(int(left), 0) : int(right)]
            image[board] = tinted(rng, tone, 0.13)
            image[int(top) : bottom, max(int(right) - gap, 0) : int(right)] = tone * 0.45
            left = right
        image[max(bottom - gap, 0) : bottom] = tone * 0.45
    image = grained(image, grain, 0.10)
    image = grained(image, rings, 0.06)
    return scattered(rng, image, texel_m, tone * np.float32(0.5), 5.0, (0.005, 0.02), 0.2)


def fabric(rng: np.random.Generator, shape: Shape, texel_m: float, tone: np.ndarray) -> np.ndarray:
    """Weave cloth with uneven stripes both ways and embroidered patches."""
    image = np.full((*shape, 3), tone, np.float32)
    for axis in (0, 1):
        at = 0.0
        while at < shape[axis] * texel_m:
            width = rng.uniform(0.01, 0.09)
            band = [slice(None), slice(None)]
            band[axis] = slice(int(at / texel_m), int((at + width) / texel_m) + 1)
            color = tinted(rng, WARM[rng.integers(len(WARM))], 0.08).astype(np.float32)
            image[tuple(band)] = 0.72 * image[tuple(band)] + 0.28 * color
            at += width + rng.uniform(0.02, 0.14)
    dots = WARM[rng.integers(len(WARM))]
    image = scattered(rng, image, texel_m, dots, 60.0, (0.006, 0.04), 0.25)
    return grained(image, fractal(rng, shape, 0.06 / texel_m, 6, 0.9), 0.08)


def painting(
    rng: np.random.Generator, shape: Shape, texel_m: float, tone: np.ndarray
) -> np.ndarray:
    """Paint an abstract landscape: bands of hills, a sun, brush strokes."""
    rows, columns = shape
    x = np.arange(columns)
    image = np.full((*shape, 3), tinted(rng, tone, 0.1), np.float32)
    sun = (rng.uniform(0.2, 0.8) * columns, rng.uniform(0.15, 0.4) * rows)
    _ellipse(image, sun, (rows * 0.1, rows * 0.1), 0, WARM[1])
    for level in np.linspace(0.35, 0.9, int(rng.integers(4, 7))):
        ridge = level * rows + 0.07 * rows * fractal(rng, (1, columns), columns / 2, 6)[0]
        hill = np.stack([np.append(x, [columns, 0]), np.append(ridge, [rows, rows])], -1)
        color = tinted(rng, WARM[rng.integers(len(WARM))], 0.1)
        cv2.fillPoly(image, [hill.astype(np.int32)], [float(c) for c in color])
    strokes = 700.0 * min(1.0, 0.25 / max(shape[0] * texel_m, 1e-3))
    for _ in range(int(strokes * rows * columns * texel_m**2)):
        at = rng.uniform(0, [columns, rows])
        angle, length = rng.uniform(-0.6, 0.6), rng.uniform(0.005, 0.04) / texel_m
        end = at + length * np.array([np.cos(angle), np.sin(angle)])
        under = image[int(at[1]), int(at[0])]
        cv2.line(
            image,
            tuple(at.astype(int)),
            tuple(end.astype(int)),
            [float(c) for c in tinted(rng, under, 0.2)],
            max(int(0.006 / texel_m), 1),
        )
    return grained(image, fractal(rng, shape, 0.05 / texel_m, 5, 0.8), 0.05)


def books(rng: np.random.Generator, shape: Shape, texel_m: float, tone: np.ndarray) -> np.ndarray:
    """Fill the shelves of a bookcase with spines of random size, color and lettering."""
    rows, columns = shape
    image = planks(rng, shape, texel_m, tone * np.float32(0.35))
    board = max(int(0.03 / texel_m), 2)
    shelf = max((rows - board) // max(round((rows - board) * texel_m / 0.36), 1), board + 2)
    for top in range(board, rows - shelf // 2, shelf):
        bottom = min(top + shelf - board, rows - board)
        left = board
        while left < columns - board:
            right = min(left + max(int(rng.uniform(0.018, 0.06) / texel_m), 2), columns - board)
            if rng.random() < 0.93:
                high = bottom - int((bottom - top) * rng.uniform(0.62, 0.96))
                _spine(rng, image[high:bottom, left:right])
            left = right
        image[bottom : bottom + board] = tone
    for edge in (np.s_[:, :board], np.s_[:, -board:], np.s_[:board], np.s_[-board:]):
        image[edge] = tone
    return grained(image, fractal(rng, shape, 0.05 / texel_m, 5, 0.8), 0.06)


def _spine(rng: np.random.Generator, spine: np.ndarray) -> None:
    color = tinted(rng, WARM[rng.integers(len(WARM))], 0.12).astype(np.float32)
    spine[:] = color
    for _ in range(int(rng.integers(2, 7))):
        at, thick = rng.uniform(0, 1), rng.uniform(0.01, 0.07)
        band = slice(int(at * len(spine)), int((at + thick) * len(spine)) + 1)
        spine[band, 1:-1] = tinted(rng, WARM[rng.integers(len(WARM))], 0.1)
    spine[:, :1] = color * 0.5


def hung(rng: np.random.Generator, image: np.ndarray, texel_m: float, count: int) -> np.ndarray:
    """Hang framed pictures side by side on a wall (in place) and return it."""
    rows, columns = image.shape[:2]
    slot = columns // count
    rim = max(int(0.03 / texel_m), 2)
    for i in range(count):
        width = int(min(rng.uniform(0.5, 1.0) / texel_m, 0.85 * slot))
        height = int(rng.uniform(0.45, 0.9) / texel_m)
        left = i * slot + int(rng.uniform(0.05, 0.95) * (slot - width))
        top = int(rng.uniform(0.5, 0.85) / texel_m)
        place = np.s_[top : min(top + height, rows), left : left + width]
        tone = WARM[rng.integers(len(WARM))]
        frame = planks(rng, image[place].shape[:2], texel_m, np.float32([0.36, 0.24, 0.16]))
        inner = np.s_[rim:-rim, rim:-rim]
        frame[inner] = painting(rng, frame[inner].shape[:2], texel_m, tone)
        image[place] = frame
    return image
