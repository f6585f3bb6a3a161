"""Images for training splats, and held-out images for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.contract import Views
from stages._geometry.transforms import invert, scale_intrinsics

__all__ = ["HELD_OUT_EVERY", "TrainingView", "TrainingViews"]

HELD_OUT_EVERY = 8
"""Every 8th view, starting with the first, is held out (Mip-NeRF 360, 3DGS, gsplat)."""
LEAST_TO_HOLD_OUT = 8
"""With fewer views, all are used for training."""


@dataclass(frozen=True, slots=True)
class TrainingView:
    """One image at some resolution, with its camera."""

    number: int
    """Index of the view."""
    target: Tensor
    """float32 [H, W, 3] in 0..1."""
    viewmat: Tensor
    """float32 [4, 4]: world to camera."""
    K: Tensor
    """float32 [3, 3] px for this resolution."""
    mask: Tensor | None = None
    """bool [H, W]: pixels of moving objects, which are ignored; None if there is no mask."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px."""
        return self.target.shape[1], self.target.shape[0]


class TrainingViews:
    """Images of the views at training resolution, halved early in training.

    Args:
        views: Posed keyframes.
        largest_px: Images whose longer side exceeds this are downscaled to it.
        device: torch device of the tensors.
    """

    def __init__(self, views: Views, largest_px: int, device: str) -> None:
        height, width = views.images.shape[1:3]
        share = min(1.0, largest_px / max(width, height))
        self.size = (max(1, round(width * share)), max(1, round(height * share)))
        self.device = device
        self._views = views
        self.count = count = len(views.images)
        every = np.arange(count)
        self.held_out = every[::HELD_OUT_EVERY] if count >= LEAST_TO_HOLD_OUT else every[:0]
        self.trained = np.setdiff1d(every, self.held_out)
        # A general inverse of a pose that is not exactly rigid would move the camera.
        self._viewmats = np.stack([invert(T) for T in views.T_world_camera]).astype(np.float32)
        self._scaled: dict[int, npt.NDArray[np.uint8]] = {}

    def get(self, number: int, halvings: int = 0) -> TrainingView:
        """Return a view whose sides are halved `halvings` times."""
        size = self._size(halvings)
        image = self._images(halvings)[number]
        height, width = self._views.images.shape[1:3]
        K = scale_intrinsics(self._views.intrinsics[number], size[0] / width, size[1] / height)
        target = torch.from_numpy(image).to(self.device).float().mul_(1 / 255)
        return TrainingView(
            number,
            target,
            torch.from_numpy(self._viewmats[number]).to(self.device),
            torch.from_numpy(K.astype(np.float32)).to(self.device),
            self._mask(number, size),
        )

    def _mask(self, number: int, size: tuple[int, int]) -> Tensor | None:
        """Return a view's mask at a size; a pixel that is partly masked becomes masked."""
        if self._views.masks is None:
            return None
        share = self._views.masks[number].astype(np.float32)
        if share.shape[::-1] != size:
            share = cv2.resize(share, size, interpolation=cv2.INTER_AREA)
        return torch.from_numpy(share > 0).to(self.device)

    def _size(self, halvings: int) -> tuple[int, int]:
        width, height = (max(1, side >> halvings) for side in self.size)
        return width, height

    def _images(self, halvings: int) -> npt.NDArray[np.uint8]:
        """Return all images at a resolution."""
        if halvings not in self._scaled:
            size = self._size(halvings)
            images: Any = self._views.images
            if images.shape[2:0:-1] != size:
                images = np.stack(
                    [cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in images]
                )
            self._scaled[halvings] = np.array(images)
        return self._scaled[halvings]

    def drop(self, halvings: int) -> None:
        """Drop the cached images at a resolution."""
        self._scaled.pop(halvings, None)
