"""Compilation of this package's numba kernels, and the threads that run them.

A kernel processes a range of Gaussians or tiles and writes only their own data, so that results do
not depend on the partition: they are bit-equal for any number of threads. Kernels accept float32
(training) and float64 (gradient checks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from stages._kernels.compiling import kernel_decorator

__all__ = ["ThreadPool", "exp_negative", "kernel"]

kernel = kernel_decorator(
    Path(__file__).with_name(name) for name in ("kernels.py", "projection.py", "binning.py")
)
"""Decorator of this package's kernels; functions of these files are inlined into others."""


@intrinsic
def _float_of_bits(typing: Any, bits: Any) -> Any:
    """Return the float32 with these 32 bits."""
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def exp_negative(x: float) -> float:  # pragma: no cover (for the compiler)
    """Return e^-x for x in 0..80; float32 uses a polynomial that compiles to SIMD."""
    return math.exp(-x)


@overload(exp_negative, jit_options={"fastmath": {"contract"}}, inline="always")
def _exp_negative(x):
    if x != types.float32:
        return lambda x: math.exp(-x)

    def fast(x):
        # Cody and Waite 1980: e^-x = 2^whole e^-t with t in -ln 2..0. With one fused multiply-add t
        # is exact, whereas the fraction of -x / ln 2 would contain the rounding of the quotient.
        whole = np.floor(x * np.float32(-1.4426950408889634))
        t = whole * np.float32(0.6931471805599453) + x
        # Minimax of e^-t by reweighted least squares, relative error 8e-8.
        p = np.float32(-1.17346564e-2)
        p = p * t + np.float32(3.89426918e-2)
        p = p * t + np.float32(-1.67634191e-1)
        p = p * t + np.float32(4.99848289e-1)
        p = p * t + np.float32(-1.00000850)
        p = p * t + np.float32(9.99999925e-1)
        return p * _float_of_bits(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))

    return fast


class ThreadPool:
    """A fixed number of threads that process ranges of work."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "splat") if threads > 1 else None

    def each(self, work: Callable[[int, int], object], bounds: Sequence[int]) -> None:
        """Call `work(start, end)` for every pair of consecutive bounds."""
        spans = [(int(a), int(b)) for a, b in pairwise(bounds) if b > a]
        if self._pool is None or len(spans) < 2:
            for span in spans:
                work(*span)
            return
        waiting = iter(spans)

        def take() -> None:
            # `next` on one iterator is safe under the interpreter lock.
            for span in waiting:
                work(*span)

        helpers = [self._pool.submit(take) for _ in range(min(self.threads, len(spans)) - 1)]
        try:
            take()
        finally:
            # Arrays they write into must not be used before they have finished.
            wait(helpers)
        for helper in helpers:
            helper.result()

    def rows(
        self, work: Callable[[int, int], object], count: int, least: int = 2048, step: int = 1
    ) -> None:
        """Distribute `count` rows evenly, in ranges of at least `least`, at multiples of `step`."""
        # Two ranges per thread: a thread that starts late leaves its second one to the others.
        parts = max(1, min(2 * self.threads, count // least)) if self.threads > 1 else 1
        self.each(work, [*(count * i // parts // step * step for i in range(parts)), count])

    def weighted(self, work: Callable[[int, int], object], costs: npt.NDArray[np.int64]) -> None:
        """Distribute items by estimated costs, in several ranges per thread for load balance."""
        if self.threads == 1:
            self.each(work, (0, len(costs)))
            return
        total = np.cumsum(costs)
        shares = np.linspace(0, total[-1] if len(total) else 0, 6 * self.threads + 1)[1:-1]
        self.each(work, [0, *np.searchsorted(total, shares).tolist(), len(costs)])

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
