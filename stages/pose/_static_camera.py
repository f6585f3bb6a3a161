"""Detects a static camera from pixels before any SfM, even if the scene moves."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.contract import Array

__all__ = ["STATIC_SHARE", "static_share"]

WIDTH = 480
BLOCK = 16
TEXTURE = 3.0
"""Minimum standard deviation of gray values of a textured block, above compression noise."""
ALIKE = 0.8
"""Normalized cross-correlation above which a block is the same half a shot later."""
STATIC_SHARE = 0.06
"""Share of unchanged blocks above which the camera is static. Measured (median over pairs): fixed
cameras 0.12 (cars filling the road) to 0.89; hand-held, driving, flying and orbiting ones 0.00 to
0.02."""


def static_share(images: Array, shot: Array) -> float:
    """Return the share of textured blocks that are unchanged half a shot later.

    It is the median over the pairs of a shot, and the minimum over the shots; NaN where no shot
    has three keyframes and texture. `images` is uint8 [K, H, W, 3], `shot` is [K].
    """
    scale = min(1.0, WIDTH / max(images.shape[1:3]))
    shares = []
    for number in np.unique(shot):
        rows = np.flatnonzero(shot == number)
        if len(rows) < 3:
            continue
        blocks = [_blocks(images[row], scale) for row in rows]
        half = len(rows) // 2
        alike = [_alike(blocks[k], blocks[k + half]) for k in range(len(rows) - half)]
        known = [share for share in alike if share is not None]
        if known:
            shares.append(float(np.median(known)))
    return min(shares, default=float("nan"))


def _blocks(image: Array, scale: float) -> Array:
    """Return the blocks of an image without shading, float32 [N, 256]."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # Shading (sky, vignette, defocus) correlates anywhere: keep only variation within a block.
    gray = cv2.subtract(gray, cv2.blur(gray, (BLOCK, BLOCK)), dtype=cv2.CV_32F)
    down, across = gray.shape[0] // BLOCK, gray.shape[1] // BLOCK
    cut = gray[: down * BLOCK, : across * BLOCK].reshape(down, BLOCK, across, BLOCK)
    flat = cut.transpose(0, 2, 1, 3).reshape(down * across, BLOCK * BLOCK)
    return flat - flat.mean(axis=1, keepdims=True)


def _alike(a: Array, b: Array) -> float | None:
    deviation = np.minimum(a.std(axis=1), b.std(axis=1))
    textured = deviation > TEXTURE
    if textured.sum() < 10:
        return None
    a, b = a[textured], b[textured]
    correlation = np.mean(a * b, axis=1) / (a.std(axis=1) * b.std(axis=1))
    return float(np.mean(correlation > ALIKE))
