"""Which pixels of a pair move by themselves: what no motion of the camera explains.

The homography that most of the picture follows is the motion of its dominant plane; a camera that
only turns or zooms moves all of it so. What is left over is parallax or an object. Parallax is as
long as depth allows, and points to or from one epipole (plane + parallax: Irani and Anandan, PAMI
1998, eq. 7). So what is too long counts first, and is kept out of the fundamental matrix that the
rest is then held to: one that may use it takes it for parallax (measured: a ball that covers a
fifth of a room becomes an inlier).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.contract import Array
from stages.segment._change import beyond, change

__all__ = ["MotionEvidence", "evidence_of_motion"]

ACROSS = 64
"""Samples to a row of the picture."""
LEAST_SAMPLES = 40
TEXTURED = 4.0
"""Squared gray levels a pixel; below it flow is a guess."""
SURE = 0.5
"""Confidence of the flow below which a pixel is no witness."""
MOVING_PX, LEAST_PX = (0.25, 1.0), (0.6, 1.2)
"""Least residual of an object before a camera at rest, and before one that moves by the second
figure: edges slide along themselves by up to a pixel (as `action/motion` has measured)."""
TIMES_NOISE = 5.0
"""Least residual of an object in medians of all residuals."""
OF_MOTION = 0.15
"""Least residual of an object in sizes of the camera's motion: flow errs by a share of it."""
FLAT = 0.02
"""Median residual, in sizes of the camera's motion, up to which there is no parallax."""
DEPTH = (0.3, 2.0)
"""Longest residual, in sizes of the camera's motion, that depth is believed to cause: where there
is no parallax to speak of, and where there is."""
NEAR = 0.03
"""Share of the longer side: flow counts only so near to a change of the picture."""
CELLS = 24
"""Along the longer side, for the question whether the camera rests."""
CLEARLY, LEAST_VOTE = 0.9, 0.05
"""A cell votes if the one change is less than such a share of the other, by so many gray levels."""
LEAST_OFF_LINE_PX = 1.0
"""Least distance of an object from its epipolar line."""


@dataclass(frozen=True, slots=True)
class _Samples:
    here: Array
    there: Array


@dataclass(frozen=True, slots=True)
class MotionEvidence:
    """What a pair of frames tells of each pixel; 1 is the limit, above it something moves."""

    motion: Array
    """float32 [H, W]: how far its flow goes beyond what the camera explains, where the picture
    changes; 0 where the flow is not known."""
    change: Array
    """float32 [H, W]: how much it changes beyond noise, where that cannot be parallax."""
    change_there: Array
    """float32 [H, W]: the same of the pixels of the next frame, looking back."""


def evidence_of_motion(flow: Array, confidence: Array, gray: Array, after: Array) -> MotionEvidence:
    """Return what moves between two frames.

    Nothing, where too little of the picture has texture to tell the camera's motion.

    Args:
        flow: float32 [H, W, 2] px to the next frame.
        confidence: float32 [H, W] in 0..1.
        gray: uint8 [H, W], the first frame.
        after: uint8 [H, W], the next one.
    """
    nothing = np.zeros(gray.shape, np.float32)
    texture = _texture(gray)
    samples = _sampled(flow, confidence, texture)
    H = np.eye(3)
    if samples is not None:
        H, _ = cv2.findHomography(samples.here, samples.there, cv2.USAC_MAGSAC, 1.0)
        if H is None or not np.isfinite(H).all() or abs(np.linalg.det(H)) < 1e-9:
            H = np.eye(3)
    (changed, noise), (still, unrest) = change(gray, after, H), change(gray, after, np.eye(3))
    at_rest = _rests(still, changed)
    if at_rest:
        H, changed = np.eye(3), still
    elif samples is None:
        return MotionEvidence(nothing, nothing, nothing)
    changed = beyond(changed, min(noise, unrest))
    height, width = gray.shape
    v, u = np.mgrid[:height, :width].astype(np.float32) + 0.5
    here = np.stack([u, v], axis=-1)
    known = np.isfinite(flow).all(axis=-1) & (confidence >= SURE)
    there = here + np.where(known[..., None], flow, 0)
    residual = np.linalg.norm(_moved(H, here) - there, axis=-1)
    if samples is None:
        size = noise = 0.0
    else:
        fitted = _moved(H, samples.here)
        size = float(np.mean(np.linalg.norm(fitted - samples.here, axis=-1)))
        length = np.linalg.norm(fitted - samples.there, axis=-1)
        noise = 0.0 if at_rest else float(np.median(length))
    flat = at_rest or noise < FLAT * size or size < MOVING_PX[0]
    least = max(float(np.interp(size, MOVING_PX, LEAST_PX)), TIMES_NOISE * noise)
    limit = max(least, OF_MOTION * size, DEPTH[0 if flat else 1] * size)
    strength = residual / limit
    if not flat and samples is not None:
        fits = length < limit
        off = _off_line(samples.here[fits], samples.there[fits], here, there, size)
        strength = np.maximum(strength, off)
    there_too = beyond(*change(after, gray, np.linalg.inv(H))) if flat else nothing
    # Whole things are dull inside and change at their borders.
    near = cv2.dilate(changed, _square(NEAR * max(height, width)))
    motion = np.where(known & (near > 1), strength, 0).astype(np.float32)
    return MotionEvidence(motion, changed if flat else nothing, there_too)


def _square(side: float) -> Array:
    return np.ones((2 * round(side / 2) + 1,) * 2, np.uint8)


def _rests(still: Array, moved: Array) -> bool:
    """Whether the picture looks more like one that stands still than like one that has moved.

    Each cell votes, not each pixel: where the background is dull and a thing is not, the thing has
    most of the texture, and a homography follows it.

    Args:
        still: float32 [H, W], how much it changes if the camera rests.
        moved: The same, if it moves as the homography says.
    """
    height, width = still.shape
    cells = CELLS / max(height, width)
    size = (max(1, round(cells * width)), max(1, round(cells * height)))
    a, b = (cv2.resize(c, size, interpolation=cv2.INTER_AREA) for c in (still, moved))
    for_rest = np.count_nonzero(a < CLEARLY * b - LEAST_VOTE)
    return for_rest >= np.count_nonzero(b < CLEARLY * a - LEAST_VOTE)


def _texture(gray: Array) -> Array:
    """Return the mean squared gradient round each pixel, squared gray levels a pixel."""
    dx = cv2.Sobel(gray, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(gray, cv2.CV_32F, 0, 1, scale=1 / 8)
    return cv2.blur(dx * dx + dy * dy, (5, 5))


def _sampled(flow: Array, confidence: Array, texture: Array) -> _Samples | None:
    """Return textured, trusted points of a grid and where they went, float64 [N, 2] px."""
    height, width = texture.shape
    step = max(1, round(max(width, height) / ACROSS))
    v, u = (a.ravel() for a in np.mgrid[step // 2 : height : step, step // 2 : width : step])
    moved = flow[v, u].astype(np.float64)
    good = (confidence[v, u] >= SURE) & (texture[v, u] >= TEXTURED) & np.isfinite(moved).all(1)
    if good.sum() < LEAST_SAMPLES:
        return None
    here = np.stack([u[good], v[good]], axis=1) + 0.5
    return _Samples(here, here + moved[good])


def _moved(H: Array, points: Array) -> Array:
    """Return points [..., 2] moved by a homography; far away where it sends them to infinity."""
    x, y = points[..., 0], points[..., 1]
    w = H[2, 0] * x + H[2, 1] * y + H[2, 2]
    w = np.where(np.abs(w) < 1e-9, 1e-9, w)
    along = [(H[i, 0] * x + H[i, 1] * y + H[i, 2]) / w for i in (0, 1)]
    return np.stack(along, axis=-1)


def _off_line(a: Array, b: Array, here: Array, there: Array, size: float) -> Array:
    """Return the distance of all pixels from the epipolar lines of the points a to b, in limits.

    The distance is Sampson's (Hartley and Zisserman, eq. 11.9, its root).
    """
    nothing = np.zeros(here.shape[:2], np.float32)
    if len(a) < LEAST_SAMPLES:
        return nothing
    F, _ = cv2.findFundamentalMat(a, b, cv2.USAC_MAGSAC, 0.5, 0.999, 2000)
    if F is None or F.shape != (3, 3):
        return nothing
    median = float(np.median(_sampson(F, a, b)))
    limit = max(LEAST_OFF_LINE_PX, TIMES_NOISE * median, OF_MOTION * size)
    return _sampson(F, here, there) / limit


def _sampson(F: Array, a: Array, b: Array) -> Array:
    x, y, u, v = a[..., 0], a[..., 1], b[..., 0], b[..., 1]
    forth = [F[i, 0] * x + F[i, 1] * y + F[i, 2] for i in range(3)]
    back = [F[0, i] * u + F[1, i] * v + F[2, i] for i in range(2)]
    error = np.abs(u * forth[0] + v * forth[1] + forth[2])
    length = np.sqrt(forth[0] ** 2 + forth[1] ** 2 + back[0] ** 2 + back[1] ** 2)
    return error / np.maximum(length, 1e-12)
