"""Images and videos of splats from any camera, rendered on the CPU without a graphics driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.contract import Splats
from stages._gaussians.draw import draw
from stages._gaussians.kernels import ThreadPool
from stages._rendering.colormaps import depth_colors, inverse_depth_range
from stages._rendering.video_writer import PreviewVideo

__all__ = ["SplatRenderer", "write_png"]

Array = npt.NDArray[Any]

SOLID = 0.5
"""Minimum coverage of a pixel by splats for known depth."""

SCALE_PICTURES = 8
"""Number of images of a path that determine its scale of depth colors."""

SECOND_NS = 1_000_000_000


class SplatRenderer:
    """Renders images and videos of one scene of splats.

    Args:
        splats: The scene.
        size: (width, height) px of every image.
        depth: Whether to render depth, in the colors of `depth.mp4`, instead of colors.
        threads: Number of threads.
    """

    def __init__(self, splats: Splats, size: tuple[int, int], *, depth: bool, threads: int) -> None:
        self._splats, self._size, self._depth = splats, size, depth
        self._pool = ThreadPool(threads)
        self._threads = threads
        self._range: tuple[float, float] | None = None

    def __enter__(self) -> SplatRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def render(self, K: Array, T_world_camera: Array) -> npt.NDArray[np.uint8]:
        """Render one camera's view; RGB [H, W, 3]."""
        if not self._depth:
            drawn = draw(self._splats, K, T_world_camera, self._size, pool=self._pool)
            return drawn.bytes()
        depth = self._depth_of(K, T_world_camera)
        return depth_colors(depth, self._range or inverse_depth_range(depth))

    def _depth_of(self, K: Array, T_world_camera: Array) -> Array:
        drawn = draw(self._splats, K, T_world_camera, self._size, depth=True, pool=self._pool)
        return np.where(drawn.alpha >= SOLID, drawn.depth, np.nan)

    def video(
        self,
        path: Path,
        K: Array,
        T_world_camera: Array,
        *,
        fps: float,
        quality: int,
        progress: Callable[[float, float], None],
    ) -> None:
        """Render a path to an MP4 file; all frames share one scale of depth colors.

        Args:
            path: The file.
            K: [N, 3, 3].
            T_world_camera: [N, 4, 4].
            fps: Frames per second.
            quality: x264's rate factor.
            progress: Called with the number of frames done and their total.
        """
        count = len(T_world_camera)
        if self._depth:
            some = np.unique(np.linspace(0, count - 1, SCALE_PICTURES).astype(int))
            seen = [self._depth_of(K[n], T_world_camera[n]) for n in some]
            self._range = inverse_depth_range(np.stack(seen))
        video = PreviewVideo(path, quality=quality, threads=self._threads)
        starts = [round(n * SECOND_NS / fps) for n in range(count + 1)]
        for n in range(count):
            image = self.render(K[n], T_world_camera[n])
            video.add(image, starts[n], starts[n + 1] - starts[n])
            progress(n + 1, count)
        video.close()


def write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an RGB image."""
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    # cv2.imwrite only returns False if the disk is full; writing the bytes raises.
    path.write_bytes(encoded.tobytes())
