"""Renders trained splats on the CPU, without torch, for exports, reports and viewers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contract import Splats
from stages._gaussians.kernels import ThreadPool
from stages._gaussians.passes import Camera, draw_pass, project_pass, shade_pass
from stages._geometry.transforms import invert

__all__ = ["RenderedView", "draw"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RenderedView:
    """Rendering of a scene of splats from one camera."""

    rgb: Array
    """float32 [H, W, 3] in 0..1."""
    alpha: Array
    """float32 [H, W] in 0..1: coverage of the background."""
    depth: Array
    """float32 [H, W]: expected z in the camera's frame, world units; NaN where alpha is 0."""

    def bytes(self) -> npt.NDArray[np.uint8]:
        """Return the colors as uint8 [H, W, 3]."""
        return np.rint(self.rgb * 255).astype(np.uint8)


def draw(
    splats: Splats,
    K: Array,
    T_world_camera: Array,
    size: tuple[int, int],
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    depth: bool = False,
    pool: ThreadPool | None = None,
) -> RenderedView:
    """Render splats with the same model as in training.

    Args:
        splats: The scene.
        K: [3, 3] intrinsics in px for images of `size`.
        T_world_camera: [4, 4]: pose of the camera.
        size: (width, height) px.
        background: RGB in 0..1.
        depth: Whether to render depth too, which takes 50 % more time; else it is NaN.
        pool: Threads to use; one by default.
    """
    pool = pool or ThreadPool(1)
    camera = Camera.of(invert(np.asarray(T_world_camera)), K, size, np.float32)
    center = np.asarray(T_world_camera)[:3, 3].astype(np.float32)
    projection = project_pass(
        pool,
        splats.means,
        splats.quats,
        splats.log_scales,
        splats.opacity_logits,
        camera,
        splats.antialiased,
    )
    degree = int(np.sqrt(splats.sh.shape[1])) - 1
    sh0, shN = np.ascontiguousarray(splats.sh[:, :1]), np.ascontiguousarray(splats.sh[:, 1:])
    colors = shade_pass(pool, degree, splats.means, center, sh0, shN, projection.radii)
    drawing = draw_pass(pool, projection, colors, np.array(background), size)
    alpha = 1 - drawing.left
    z = np.full(alpha.shape, np.nan, np.float32)
    if depth:
        layers = np.repeat(projection.depths[:, None], 3, axis=1)
        total = draw_pass(pool, projection, layers, np.zeros(3), size).image[..., 0]
        np.divide(total, alpha, out=z, where=alpha > 0)
    return RenderedView(np.clip(drawing.image, 0, 1), alpha, z)
