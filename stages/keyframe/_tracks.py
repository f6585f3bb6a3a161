"""Following points of a frame through the flow of the frames that come after it."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.contract import Array
from stages._geometry.pure_rotation import fit_rotation_zoom

__all__ = ["PointTracks", "parallax_between"]

LEAST_CONFIDENCE = 0.3
"""Of the flow where a track stands; below it the point is taken for hidden or lost."""


class PointTracks:
    """A grid of points laid over one frame, carried along by chaining flow."""

    def __init__(self, height: int, width: int, across: int = 24) -> None:
        spacing = max(width, height) / across
        u = np.arange(spacing / 2, width, spacing)
        v = np.arange(spacing / 2, height, spacing)
        self.start = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2).astype(np.float32)
        """float32 [N, 2] px, pixel centers at 0.5."""
        self.now = self.start.copy()
        self.alive = np.ones(len(self.start), bool)

    def follow(self, flow: Array, confidence: Array) -> None:
        """Go one frame further with flow [H, W, 2] and its confidence [H, W]."""
        height, width = confidence.shape
        u, v = self.now.T
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        column = np.clip(u, 0, width - 1).astype(np.int64)
        row = np.clip(v, 0, height - 1).astype(np.int64)
        step = flow[row, column]
        known = inside & (confidence[row, column] >= LEAST_CONFIDENCE) & np.isfinite(step).all(1)
        self.alive &= known
        self.now[self.alive] += step[self.alive]

    def snapshot(self) -> dict[str, Array]:
        """Return where the points are as plain data."""
        return {"now": self.now.copy(), "alive": self.alive.copy()}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from a snapshot of tracks over a frame of the same size."""
        self.now, self.alive = state["now"].copy(), state["alive"].copy()

    def lose_all(self) -> None:
        """Give up: the next frame has nothing to do with this one."""
        self.alive[:] = False

    @property
    def share(self) -> float:
        """Share of the points that are still followed."""
        return float(self.alive.mean())

    @property
    def displacement_px(self) -> float:
        """Median way from the start of the points still followed; 0 if there are none."""
        if not self.alive.any():
            return 0.0
        moved = self.now[self.alive] - self.start[self.alive]
        return float(np.median(np.linalg.norm(moved, axis=1)))


def parallax_between(a: Array, b: Array, most: int = 300) -> float:
    """Return the median motion between two gray images, px, that no turn or zoom explains.

    Corners are followed by pyramidal Lucas-Kanade there and back; NaN where fewer than 20, or
    less than a quarter of them, come back to within a pixel.
    """
    height, width = a.shape
    if min(height, width) < 32:
        return float("nan")
    corners = cv2.goodFeaturesToTrack(a, most, 0.005, max(width, height) / 60)
    if corners is None or len(corners) < 20:
        return float("nan")
    corners = corners.reshape(-1, 1, 2)
    window = (21, 21)
    there, _, _ = cv2.calcOpticalFlowPyrLK(a, b, corners, None, winSize=window, maxLevel=4)
    back, _, _ = cv2.calcOpticalFlowPyrLK(b, a, there, None, winSize=window, maxLevel=4)
    good = np.linalg.norm(back - corners, axis=2)[:, 0] < 1
    if good.sum() < max(20, len(corners) / 4):
        return float("nan")
    rotation_zoom = fit_rotation_zoom(
        corners[good, 0], there[good, 0], (width, height), noise_px=0.5
    )
    return float(np.median(rotation_zoom.residual_px))
