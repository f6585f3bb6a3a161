"""From the coded picture to the delivered one: square pixels, upright, not too large."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Delivery", "Orientation", "fitted"]

AnyImage = npt.NDArray[np.uint8]

_ROTATE = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class Orientation:
    """What makes a coded picture upright: mirrored left to right first, then turned clockwise."""

    turn_deg: int = 0
    """0, 90, 180 or 270, clockwise."""
    mirrored: bool = False

    def apply(self, image: AnyImage) -> AnyImage:
        """Make `image` [H, W] or [H, W, 3] upright."""
        if self.mirrored:
            image = cv2.flip(image, 1)
        if self.turn_deg:
            image = cv2.rotate(image, _ROTATE[self.turn_deg])
        return image

    @property
    def sideways(self) -> bool:
        """Whether width and height change places."""
        return self.turn_deg in (90, 270)


@dataclass(frozen=True)
class Delivery:
    """How the pictures of one source are delivered."""

    scaled: tuple[int, int]
    """(width, height) to scale the coded picture to, before it is turned."""
    orientation: Orientation = Orientation()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the delivered, upright image."""
        width, height = self.scaled
        return (height, width) if self.orientation.sideways else (width, height)


def fitted(
    width: int, height: int, max_side: int, pixel_aspect: Fraction = Fraction(1)
) -> tuple[int, int]:
    """Return the size (width, height) with square pixels and a long side of at most `max_side`.

    Wide pixels stretch the width, tall ones the height, so that no row or column is thrown away;
    only `max_side` makes the picture smaller.
    """
    w, h = Fraction(width), Fraction(height)
    if pixel_aspect > 1:
        w *= pixel_aspect
    else:
        h /= pixel_aspect
    shrink = min(Fraction(1), Fraction(max_side) / max(w, h))
    return max(1, round(w * shrink)), max(1, round(h * shrink))
