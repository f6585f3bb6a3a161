"""Kernels: photometric loss of a rendering against an image (L1 and SSIM), and its gradient.

Wang et al. 2004: structural similarity with a Gaussian window of 11 px and sigma 1.5, zero padding
as in 3DGS. The window is separable, so each pass is along rows or columns, over arrays [H, W * 3]
where SIMD runs along the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stages._gaussians.kernels import ThreadPool, kernel

__all__ = ["photometric", "ssim"]

Array = npt.NDArray[Any]

REACH = 5
C1, C2 = 0.01**2, 0.03**2
_weights = np.exp(-0.5 * (np.arange(-REACH, REACH + 1) / 1.5) ** 2)
WINDOW = _weights / _weights.sum()
PAD = np.uint64(3 * REACH)
TAPS = np.uint64(2 * REACH + 1)


@kernel()
def _along_rows(source, window, padded, out):
    """Blur a row [3 W] of 3-channel pixels; `padded` [3 W + 30] is 0 at its ends."""
    size = np.uint64(len(source))
    for k in range(size):
        padded[k + PAD] = source[k]
    for k in range(size):
        out[k] = window[np.uint64(0)] * padded[k]
    for tap in range(np.uint64(1), TAPS):
        weight, shift = window[tap], np.uint64(3) * tap
        for k in range(size):
            out[k] += weight * padded[k + shift]


@kernel()
def _along_columns(blurred, row, window, out):
    """Blur [H, 3 W] along the columns, for one row."""
    height, size = blurred.shape
    out[:] = 0
    for tap in range(2 * REACH + 1):
        line = row + tap - REACH
        if line < 0 or line >= height:
            continue
        weight, here = window[tap], blurred[line]
        for k in range(np.uint64(size)):
            out[k] += weight * here[k]


@kernel()
def _moments(first, last, image, target, window, maps):
    """Blur both images, their squares and their product along rows into `maps` [5, H, 3 W]."""
    size = image.shape[1]
    padded = np.zeros(size + 6 * REACH, image.dtype)
    row = np.empty(size, image.dtype)
    for y in range(first, last):
        a, b = image[y], target[y]
        _along_rows(a, window, padded, maps[0, y])
        _along_rows(b, window, padded, maps[1, y])
        for k in range(size):
            row[k] = a[k] * a[k]
        _along_rows(row, window, padded, maps[2, y])
        for k in range(size):
            row[k] = b[k] * b[k]
        _along_rows(row, window, padded, maps[3, y])
        for k in range(size):
            row[k] = a[k] * b[k]
        _along_rows(row, window, padded, maps[4, y])


@kernel()
def _compare(first, last, maps, window, slopes, totals):
    """Sum SSIM by row into `totals` [H]; fill `slopes` [3, H, 3 W], blurred along rows.

    The slopes are derivatives with respect to the blurred image, its square and the product.
    """
    size = maps.shape[2]
    dtype = maps.dtype
    zero, one, two = dtype.type(0), dtype.type(1), dtype.type(2)
    c1, c2 = dtype.type(C1), dtype.type(C2)
    blurred = np.empty((5, size), dtype)
    s = np.empty((3, size), dtype)
    padded = np.zeros(size + 6 * REACH, dtype)
    for y in range(first, last):
        for n in range(5):
            _along_columns(maps[n], y, window, blurred[n])
        total = dtype.type(0)
        for k in range(np.uint64(size)):
            ma, mb = blurred[0, k], blurred[1, k]
            # Rounding can make the variance of a bright, uniform patch negative.
            va, vb = max(blurred[2, k] - ma * ma, zero), max(blurred[3, k] - mb * mb, zero)
            A, B = two * ma * mb + c1, two * (blurred[4, k] - ma * mb) + c2
            C, D = ma * ma + mb * mb + c1, va + vb + c2
            inverse = one / (C * D)
            value = A * B * inverse
            total += value
            s[0, k] = two * (mb * (B - A) * inverse - value * ma * (one / C - one / D))
            s[1, k] = -value / D
            s[2, k] = two * A * inverse
        totals[y] = total
        for n in range(3):
            _along_rows(s[n], window, padded, slopes[n, y])


@kernel()
def _gradient(first, last, image, target, slopes, window, l1, dssim, totals, out):
    """Fill the gradient of the loss, float [H, 3 W], and sum |a - b| by row into `totals` [H]."""
    size = image.shape[1]
    dtype = image.dtype
    zero, two = dtype.type(0), dtype.type(2)
    blurred = np.empty((3, size), dtype)
    for y in range(first, last):
        for n in range(3):
            _along_columns(slopes[n], y, window, blurred[n])
        total = zero
        for k in range(np.uint64(size)):
            a, b = image[y, k], target[y, k]
            difference = a - b
            total += abs(difference)
            sign = l1 if difference > zero else (-l1 if difference < zero else zero)
            slope = blurred[0, k] + two * a * blurred[1, k] + b * blurred[2, k]
            out[y, k] = sign - dssim * slope
        totals[y] = total


def photometric(
    pool: ThreadPool, image: Array, target: Array, dssim: float
) -> tuple[float, float, Array]:
    """Return (1 - dssim) L1 + dssim (1 - SSIM), the mean SSIM, and the gradient of the loss.

    Args:
        pool: Thread pool for the kernels.
        image: float [H, W, 3], contiguous.
        target: float [H, W, 3], contiguous.
        dssim: Weight of the structural term, 0 to 1.

    Returns:
        The loss, the mean SSIM, and the gradient of the loss for `image` [H, W, 3].
    """
    height = image.shape[0]
    a, b = image.reshape(height, -1), target.reshape(height, -1)
    window = WINDOW.astype(a.dtype)
    maps, slopes = np.empty((5, *a.shape), a.dtype), np.empty((3, *a.shape), a.dtype)
    like, far, out = np.empty(height, a.dtype), np.empty(height, a.dtype), np.empty_like(a)
    count = a.size
    l1, weight = a.dtype.type((1 - dssim) / count), a.dtype.type(dssim / count)
    pool.rows(lambda y, z: _moments(y, z, a, b, window, maps), height, 16)
    pool.rows(lambda y, z: _compare(y, z, maps, window, slopes, like), height, 16)
    pool.rows(lambda y, z: _gradient(y, z, a, b, slopes, window, l1, weight, far, out), height, 16)
    similarity = float(like.sum(dtype=np.float64)) / count
    loss = (1 - dssim) * float(far.sum(dtype=np.float64)) / count + dssim * (1 - similarity)
    return loss, similarity, out.reshape(image.shape)


def ssim(image: Array, target: Array) -> float:
    """Return the mean structural similarity of two images, float [H, W, 3] in 0..1."""
    a, b = (np.ascontiguousarray(x, np.float32) for x in (image, target))
    return photometric(ThreadPool(1), a, b, 1.0)[1]
