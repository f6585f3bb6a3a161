"""The CPU rasterizer as plain functions on numpy arrays, with hand-written backward passes.

Three passes, as in gsplat: project, shade, rasterize. Training wraps them in autograd functions;
rendering a trained scene needs only the forward passes, without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages._gaussians.binning import WIDTH, Bins, bin_tiles
from stages._gaussians.kernels import ThreadPool
from stages._gaussians.projection import BLOCK, project, project_backward
from stages._gaussians.rasterize import GRADIENTS, gather, rasterize, rasterize_backward
from stages._gaussians.spherical_harmonics import shade, shade_backward

__all__ = [
    "EPS2D",
    "FAR",
    "NEAR",
    "Camera",
    "Drawing",
    "Projection",
    "draw_pass",
    "draw_pass_backward",
    "project_pass",
    "project_pass_backward",
    "shade_pass",
    "shade_pass_backward",
]

Array = npt.NDArray[Any]

NEAR, FAR, EPS2D = 0.01, 1e10, 0.3
"""gsplat's defaults: near and far plane in world units, blur of every Gaussian in px^2."""


class Camera(NamedTuple):
    """A pinhole camera in the format of the kernels."""

    view: Array
    """[4, 4]: world to camera."""
    lens: Array
    """[4]: fx, fy, cx, cy in px."""
    frame: Array
    """[5]: width, height, near plane, far plane, eps2d."""

    @classmethod
    def of(cls, view: Array, K: Array, size: tuple[int, int], dtype: npt.DTypeLike) -> Camera:
        """Return the camera with intrinsics K [3, 3] for images of (width, height) px."""
        lens = np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], dtype)
        return cls(
            np.ascontiguousarray(view, dtype),
            lens,
            np.array([*size, NEAR, FAR, EPS2D], dtype),
        )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px."""
        return int(self.frame[0]), int(self.frame[1])


class Projection(NamedTuple):
    """Gaussians on the image, see `project`."""

    means2d: Array
    """[N, 2] px."""
    depths: Array
    """[N]: z in the camera's frame, world units."""
    conics: Array
    """[N, 3]: xx, xy, yy of the inverse covariance, px^-2."""
    opacities: Array
    """[N] in 0..1, with antialiasing applied."""
    radii: npt.NDArray[np.int32]
    """[N, 2] px; 0 for invisible Gaussians."""


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def project_pass(
    pool: ThreadPool,
    means: Array,
    quats: Array,
    log_scales: Array,
    logits: Array,
    camera: Camera,
    antialiased: bool,
) -> Projection:
    """Project all Gaussians; arguments as for `project`."""
    count, dtype = len(means), means.dtype
    out = Projection(
        np.empty((count, 2), dtype),
        np.empty(count, dtype),
        np.empty((count, 3), dtype),
        np.empty(count, dtype),
        np.empty((count, 2), np.int32),
    )
    pool.rows(
        lambda a, b: project(a, b, means, quats, log_scales, logits, *camera, antialiased, *out),
        count,
    )
    return out


def project_pass_backward(
    pool: ThreadPool,
    inputs: tuple[Array, Array, Array, Array],
    camera: Camera,
    antialiased: bool,
    radii: Array,
    gradients: tuple[Array, Array, Array, Array],
    wants_view: bool,
) -> tuple[Array, Array, Array, Array, Array | None]:
    """Return gradients with respect to means, quats, log scales, logits and optionally the view."""
    count, dtype = len(radii), inputs[0].dtype
    outs = tuple(np.empty_like(array) for array in inputs)
    v_view = np.zeros((_blocks(count), 3, 4), dtype)
    pool.rows(
        lambda a, b: project_backward(
            a, b, *inputs, *camera, antialiased, radii, *gradients, *outs, v_view, wants_view
        ),
        count,
        step=BLOCK,
    )
    view = np.concatenate([v_view.sum(axis=0), np.zeros((1, 4), dtype)]) if wants_view else None
    return outs[0], outs[1], outs[2], outs[3], view


def shade_pass(
    pool: ThreadPool, degree: int, means: Array, center: Array, sh0: Array, shN: Array, radii: Array
) -> Array:
    """Return the colors [N, 3]; arguments as for `shade`."""
    colors = np.empty((len(means), 3), means.dtype)
    pool.rows(lambda a, b: shade(a, b, degree, means, center, sh0, shN, radii, colors), len(means))
    return colors


def shade_pass_backward(
    pool: ThreadPool,
    degree: int,
    inputs: tuple[Array, Array, Array, Array],
    radii: Array,
    colors: Array,
    v_colors: Array,
) -> tuple[Array, Array, Array, Array]:
    """Return the gradients with respect to means, the camera's center, sh0 and shN."""
    means, center, sh0, shN = inputs
    count, dtype = len(means), means.dtype
    v_means, v_sh0, v_shN = np.empty_like(means), np.empty_like(sh0), np.empty_like(shN)
    v_center = np.zeros((_blocks(count), 3), dtype)
    pool.rows(
        lambda a, b: shade_backward(
            a, b, degree, means, center, sh0, shN, radii, colors, v_colors,
            v_means, v_center, v_sh0, v_shN,
        ),
        count,
        step=BLOCK,
    )  # fmt: skip
    return v_means, v_center.sum(axis=0), v_sh0, v_shN


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image, and the state needed by its backward pass."""

    image: Array
    """[H, W, 3] with the background."""
    left: Array
    """[H, W]: remaining transmittance."""
    final: npt.NDArray[np.int32]
    """[H, W]: position in its tile's list at which each pixel ended."""
    bins: Bins
    """Lists of the tiles."""
    background: Array
    """[3]"""

    @property
    def costs(self) -> npt.NDArray[np.int64]:
        """Estimated cost of each tile, for load balancing."""
        return np.diff(self.bins.tiles) + 8


def draw_pass(
    pool: ThreadPool,
    projection: Projection,
    colors: Array,
    background: Array,
    size: tuple[int, int],
) -> Drawing:
    """Rasterize projected Gaussians with colors [N, 3]; `size` is (width, height)."""
    width, height = size
    bins = bin_tiles(pool, *projection[:4], colors, projection.radii, size)
    dtype = colors.dtype
    drawing = Drawing(
        np.empty((height, width, 3), dtype),
        np.empty((height, width), dtype),
        np.empty((height, width), np.int32),
        bins,
        background.astype(dtype),
    )
    across = -(-width // WIDTH)
    pool.weighted(
        lambda a, b: rasterize(
            a, b, bins.pack, bins.tiles, bins.row, across, drawing.background,
            drawing.image, drawing.left, drawing.final,
        ),
        drawing.costs,
    )  # fmt: skip
    return drawing


def draw_pass_backward(
    pool: ThreadPool, drawing: Drawing, count: int, v_image: Array, v_alpha: Array
) -> tuple[Array, Array, Array, Array]:
    """Return gradients with respect to means2d, conics, opacities and colors, for N = `count`."""
    bins, dtype = drawing.bins, drawing.image.dtype
    across = -(-drawing.left.shape[1] // WIDTH)
    v_slots = np.empty((len(bins.row), GRADIENTS), dtype)
    pool.weighted(
        lambda a, b: rasterize_backward(
            a, b, bins.pack, bins.tiles, bins.row, bins.slot, across, drawing.background,
            drawing.left, drawing.final, v_image, v_alpha, v_slots,
        ),
        drawing.costs,
    )  # fmt: skip
    outs = (
        np.zeros((count, 2), dtype),
        np.zeros((count, 3), dtype),
        np.zeros(count, dtype),
        np.zeros((count, 3), dtype),
    )
    pool.rows(
        lambda a, b: gather(a, b, bins.gaussian, bins.slots, v_slots, *outs), len(bins.gaussian)
    )
    return outs
