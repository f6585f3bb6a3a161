"""From evidence pixel by pixel to whole things: patches, followed from frame to frame."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.contract import Array

__all__ = ["followed", "grown", "numbered", "patches"]

SMALLEST = 1e-3
"""Share of the picture; smaller patches are errors at the edges of things."""
WHOLE = 0.02
"""Gaps up to this share of the longer side are closed: a thing has dull places."""
HALF_LIFE = 6
"""Pairs after which evidence counts half: a thing that pauses, or goes along with the camera for
a moment, is still the thing that moved."""
MOST = 2.0
"""Evidence that is carried along: where a thing has been for long it is forgotten as fast."""
ENOUGH = 1.5
"""Evidence of a pixel, summed over the pairs before and after it: one pair alone may err."""


def patches(strength: Array) -> Array:
    """Return whole patches where something moves, bool [H, W], of evidence float32 [H, W]."""
    found = (strength > 1).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    found = _large(cv2.morphologyEx(found, cv2.MORPH_CLOSE, _disc(found.shape, WHOLE)))
    return _filled(found)


def followed(pairs: Array, certain: Array, flow: Array) -> Array:
    """Join the patches of all pairs of a clip, each carried along by the flow.

    Args:
        pairs: bool [T-1, H, W], patches of the first frame of each pair.
        certain: bool [T-1, H, W], those that need no other pair to agree.
        flow: float32 [T-1, H, W, 2] px; NaN counts as no motion.

    Returns:
        Of each frame, float32 [T, H, W]: the evidence of what moves, 0 elsewhere.
    """
    count = len(pairs)
    own = np.zeros((count + 1, *pairs.shape[1:]), np.float32)
    own[:count] = np.where(certain, ENOUGH, pairs)
    keep = 0.5 ** (1 / HALF_LIFE)
    before, after = own.copy(), own.copy()
    for t in range(count):
        before[t + 1] += np.minimum(keep * _looked_up(before[t], _inverse(flow[t])), MOST)
    for t in reversed(range(count)):
        after[t] += np.minimum(keep * _looked_up(after[t + 1], np.nan_to_num(flow[t])), MOST)
    # With a pair or two there is nothing more to wait for.
    enough = min(ENOUGH, 0.75 * max(count, 1))
    total = before + after - own
    moving = np.stack([_filled(_large((one >= enough).astype(np.uint8))) for one in total])
    # Dull places inside of a thing count as the thing.
    return np.where(moving, np.maximum(total, enough), 0)


def grown(mask: Array, share: float) -> Array:
    """Return a mask [H, W] grown by a share of the longer side."""
    if share == 0 or not mask.any():
        return mask
    # A disc of many pixels would cost its area for every pixel of the picture.
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return away <= share * max(mask.shape)


def numbered(mask: Array) -> tuple[Array, Array]:
    """Return the patches of a mask, counted from 1: int32 [H, W], and their boxes [N, 4] px."""
    _, patch, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    left, top, width, height, _ = stats[1:].T
    return patch, np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)


def _disc(shape: tuple[int, ...], share: float) -> Array:
    """Return a structuring element whose width is a share of the longer side."""
    side = 2 * round(share * max(shape) / 2) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _large(found: Array) -> Array:
    _, patch, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= SMALLEST * found.size
    large[0] = False
    return large[patch]


def _filled(mask: Array) -> Array:
    """Return a mask without holes."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    out = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(out, outlines, -1, 1, cv2.FILLED)
    return out > 0


def _looked_up(values: Array, flow: Array) -> Array:
    """Return for each pixel p the value at p + flow(p); 0 outside."""
    height, width = values.shape
    v, u = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(values, u + flow[..., 0], v + flow[..., 1], cv2.INTER_LINEAR)


def _inverse(flow: Array) -> Array:
    """Return the flow back: from the second frame's pixels to the first's (fixed point)."""
    flow = np.nan_to_num(flow)
    back = -flow
    for _ in range(3):
        there = [_looked_up(np.ascontiguousarray(flow[..., i]), back) for i in (0, 1)]
        back = -np.stack(there, axis=-1)
    return back
