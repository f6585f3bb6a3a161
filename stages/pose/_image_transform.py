"""Network input images, and the mapping from their pixels to those of the keyframe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.contract import Array
from stages.pose._features import Features

__all__ = ["SMALLEST_SIDE", "ImageTransform", "reduced", "reduced_size", "strongest"]

SMALLEST_SIDE = 32
"""Below this side in px, the networks' coarsest feature maps have nothing to compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTransform:
    """Mapping from a network's coordinates to those of a keyframe.

    The networks put the center of the first pixel at 0; keyframes, like COLMAP, put it at 0.5.
    """

    size: tuple[int, int]
    """(width, height) px of the network's input image."""
    full: tuple[int, int]
    """(width, height) px of the keyframe."""
    center: tuple[float, float] = (0.5, 0.5)
    """(x, y): offset added to the network's coordinates to put pixel centers at 0.5."""

    def to_image(self, xy: Array) -> Array:
        """Convert points [N, 2] from network coordinates to keyframe pixels, float32."""
        scale = np.divide(self.full, self.size)
        return ((xy.astype(np.float64) + self.center) * scale).astype(np.float32)

    def to_network(self, xy: Array) -> Array:
        """Convert points [N, 2] from keyframe pixels to network coordinates, float32."""
        scale = np.divide(self.size, self.full)
        return (xy.astype(np.float64) * scale - self.center).astype(np.float32)


def reduced_size(full: tuple[int, int], side: int, step: int = 1) -> tuple[int, int]:
    """Return (width, height) with the longer side at most `side`, multiples of `step`."""
    scale = min(1.0, side / max(full))
    width, height = (max(step, round(length * scale / step) * step) for length in full)
    return width, height


def reduced(images: Array, size: tuple[int, int]) -> Array:
    """Return images uint8 [N, H, W, 3] resized to (width, height)."""
    if (images.shape[2], images.shape[1]) == size:
        return images
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])


def strongest(
    transform: ImageTransform, xy: Any, descriptors: Any, scores: Any, most: int
) -> Features:
    """Return features in keyframe coordinates, the strongest first.

    Args:
        transform: Mapping from network to keyframe coordinates.
        xy: Tensor [N, 2], in the network's coordinates.
        descriptors: Tensor [N, D].
        scores: Tensor [N].
        most: Maximum number of features.
    """
    order = scores.argsort(descending=True, stable=True)[:most]
    return Features(
        xy=transform.to_image(xy[order].float().cpu().numpy()),
        descriptors=np.ascontiguousarray(descriptors[order].float().cpu().numpy()),
    )
