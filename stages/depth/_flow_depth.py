"""Depth by triangulating optical flow: core of `depth/multiview`, also used by other models."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Options, Views
from stages.depth._filter import finish_maps, neighbors_or_reason
from stages.depth._rig import Rig
from stages.depth._sweep import SURFACE_STEP, enlarge, shrink, sweep
from stages.depth._triangulate import combine, targets, triangulate, warp_map

__all__ = ["FlowDepth", "FlowDepthOptions"]

Image = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Rough = Callable[[int], Map]
Matcher = Callable[[int], tuple[Map, Map]]

ROUGH_SIDE_PX = 320
"""Longer side in px of the images from which the rough depth is swept."""
ROUGH_PLANES = 64
FLAT_WINDOW_PX = 11
"""Side of the contrast window: DIS's 8 px patches and a margin."""
AGREE_PX = 1.0
"""Maximum difference in px between two pairs that support each other at a pixel."""


class FlowDepthOptions(Options):
    """Options for matching flow and filtering matches."""

    neighbors: int = Field(4, ge=1, le=16, description="views to match each view with")
    max_back_px: float = Field(
        1.0, gt=0, le=10, description="maximum forward-backward error of the flow, in px"
    )
    max_epipolar_px: float = Field(
        1.0, gt=0, le=10, description="maximum distance of a match from its epipolar line, in px"
    )
    min_parallax_px: float = Field(
        6.0, ge=0, le=100, description="minimum parallax of a pixel over all neighbors, in px"
    )
    min_contrast: float = Field(
        1.0, ge=0, le=128, description="minimum local contrast of a pixel, gray levels of 255"
    )
    consistency: float = Field(
        0.02, gt=0, le=0.5, description="maximum difference of neighboring maps, share of depth"
    )


class FlowDepth:
    """Triangulates flow to neighboring views.

    Args:
        options: Matching and filtering options.
        threads: Number of views processed in parallel.
        progress: Called with the work done and the total work.
        measure: Called with the name and the value of each quality metric.
    """

    def __init__(
        self,
        options: FlowDepthOptions,
        *,
        threads: int,
        progress: Callable[[float, float], None],
        measure: Callable[[str, float], None],
    ) -> None:
        self._options = options
        self._threads = threads
        self._progress = progress
        self._measure = measure

    def depth(self, views: Views) -> Map:
        """Return the depth of each view, float32 [K, H, W], NaN where unknown.

        Raises:
            PartNotMade: There are fewer than two views, they are too small, or none has parallax.
        """
        rig = Rig.of(views)
        neighbors = neighbors_or_reason(rig, views.images, self._options.neighbors)
        count, rows, columns = views.images.shape[:3]
        gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in views.images]
        near = np.zeros((count, rows, columns), np.float32)
        with ThreadPoolExecutor(self._threads) as pool:
            rough = list[Map]()
            for swept in pool.map(self._rough(rig, neighbors, gray), range(count)):
                rough.append(swept)
                self._progress(len(rough), 2 * count + 1)
            waiting: list[dict[int, Map]] = [{} for _ in range(count)]
            done = set[tuple[int, int]]()
            for i in range(count):
                # Each pair is matched once for both its views, and kept until both are combined.
                mates = [j for j in range(count) if j in neighbors[i] or i in neighbors[j]]
                todo = [j for j in mates if (min(i, j), max(i, j)) not in done]
                match = self._matcher(rig, i, gray, rough)
                for j, (here, there) in zip(todo, pool.map(match, todo), strict=True):
                    waiting[i][j], waiting[j][i] = here, there
                    done.add((min(i, j), max(i, j)))
                near[i] = self._combined(rig, i, waiting[i], rough[i])
                near[i][contrast(gray[i]) < self._options.min_contrast] = 0
                waiting[i] = {}
                self._progress(count + i + 1, 2 * count + 1)
        depth = finish_maps(
            self._measure, rig, neighbors, near, self._options.consistency, views.masks
        )
        self._progress(2 * count + 1, 2 * count + 1)
        return depth

    def _rough(self, rig: Rig, neighbors: list[list[int]], gray: list[Image]) -> Rough:
        rows, columns = gray[0].shape
        scale = min(ROUGH_SIDE_PX / max(rows, columns), 1.0)
        size = (max(round(columns * scale), 8), max(round(rows * scale), 8))
        small = [shrink(image, size) for image in gray]
        ratio = np.array([size[0] / columns, size[1] / rows])

        def rough(i: int) -> Map:
            near = sweep(rig, i, neighbors[i], small, scale, ROUGH_PLANES)
            out = np.empty((rows, columns), np.float32)
            enlarge(cv2.medianBlur(near, 3), ratio, SURFACE_STEP, out)
            return out

        return rough

    def _matcher(self, rig: Rig, i: int, gray: list[Image], rough: list[Map]) -> Matcher:
        def match(j: int) -> tuple[Map, Map]:
            dis = _flow()
            found = []
            for a, b in ((i, j), (j, i)):
                A, t = rig.relative(a, b)
                where = np.empty((*gray[a].shape, 2), np.float32)
                warp_map(rough[a], A, t, where)
                warped = cv2.remap(gray[b], where, None, cv2.INTER_LINEAR)
                flow = dis.calc(gray[a], warped, None)
                targets(flow, rough[a], A, t, where)
                found.append((where, A, t))
            (there, A, t), (back, A_back, t_back) = found
            here, other = np.empty_like(rough[i]), np.empty_like(rough[i])
            limits = self._options.max_back_px, self._options.max_epipolar_px
            triangulate(there, back, A, t, *limits, here)
            triangulate(back, there, A_back, t_back, *limits, other)
            return here, other

        return match

    def _combined(self, rig: Rig, i: int, pairs: dict[int, Map], rough: Map) -> Map:
        out = np.zeros_like(rough)
        if pairs:
            order = sorted(pairs)
            A, b = rig.relatives(i, order)
            stack = np.stack([pairs[j] for j in order])
            least = min(2, len(order))
            combine(stack, rough, A, b, AGREE_PX, least, self._options.min_parallax_px, out)
        return out


def _flow() -> cv2.DISOpticalFlow:
    """Return DIS flow configured for the small motion that remains after warping.

    Measured on the rendered tour: 2 refinement iterations instead of 5 and three scales instead of
    all save a twelfth of the time without loss (error .0057 instead of .0059).
    """
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setCoarsestScale(2)
    dis.setVariationalRefinementIterations(2)
    return dis


def contrast(gray: Image) -> Map:
    """Return the standard deviation of the gray levels around each pixel [H, W].

    On blank walls flow comes from smoothness alone, which is a guess, not a measurement.
    """
    value = gray.astype(np.float32)
    window = (FLAT_WINDOW_PX, FLAT_WINDOW_PX)
    mean = cv2.blur(value, window)
    return np.sqrt(np.maximum(cv2.blur(value * value, window) - mean * mean, 0))
