"""Sparse pyramidal Lucas-Kanade (Bouguet 2001) on corners (Shi and Tomasi, CVPR 1994)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Context, Frames, Motion, Stage
from stages.flow._consistency import OUTSIDE_PX, confidence_of
from stages.flow._pairs import SMALLEST_PX, FlowOptions, lumas

__all__ = ["Config", "Model"]

CORNER_QUALITY = 0.002
"""Share of the best corner's smaller eigenvalue that a corner needs: low, since spread over the
image matters more than strength and the way back weeds out the rest."""


class Config(FlowOptions):
    """Options of the sparse Lucas-Kanade flow."""

    corners: int = Field(2000, ge=16, le=20000, description="most corners to track in a frame")
    spacing_px: int = Field(6, ge=1, le=100, description="least distance between corners")
    window_px: int = Field(15, ge=5, le=61, description="side of the window that is matched")
    levels: int = Field(4, ge=1, le=8, description="levels of the image pyramid, each half as wide")


class Model(Stage[Config]):
    """Flow at corners only: NaN with confidence 0 at every other pixel."""

    def open(self, context: Context) -> None:
        """Take the threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, frames: Frames) -> Motion:
        """Return the flow of the corners of every frame but the last."""
        count, h, w = len(frames.images) - 1, *frames.images.shape[1:3]
        flow = np.full((count, h, w, 2), np.nan, np.float32)
        trust = np.zeros((count, h, w), np.float32)
        gray = lumas(frames, self.config.working_side)
        if min(gray[0].shape) >= SMALLEST_PX:
            for t in range(count):
                self._track(gray[t], gray[t + 1], flow[t], trust[t])
        return Motion(clip=frames.clip, flow=flow, confidence=trust)

    def _track(self, first: Any, second: Any, flow: Any, trust: Any) -> None:
        config = self.config
        corners = cv2.goodFeaturesToTrack(first, config.corners, CORNER_QUALITY, config.spacing_px)
        if corners is None:
            return
        start: Any = None
        window: Any = {"winSize": (config.window_px,) * 2, "maxLevel": config.levels - 1}
        there, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, start, **window)
        again, back, _ = cv2.calcOpticalFlowPyrLK(second, first, there, start, **window)
        at, to, home = (points.reshape(-1, 2) for points in (corners, there, again))
        h, w = first.shape
        beyond = np.array([w, h]) - 1 + OUTSIDE_PX
        known = (found.ravel() == 1) & (back.ravel() == 1)
        known &= ((to >= -OUTSIDE_PX) & (to <= beyond)).all(axis=1)
        at, step, step_back = at[known], (to - at)[known], (home - to)[known]
        scale = np.array([flow.shape[1] / w, flow.shape[0] / h], np.float32)
        # Pixel centers map to pixel centers: (x + 0.5) * scale - 0.5, rounded.
        x, y = ((at + 0.5) * scale).astype(int).T
        flow[y, x] = step * scale
        trust[y, x] = confidence_of(*step.T, *step_back.T)
