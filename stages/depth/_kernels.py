"""Decorator of this step's numba kernels; unknown inverse depth is 0 inside them."""

from __future__ import annotations

from stages._kernels.compiling import kernel_decorator

__all__ = ["kernel"]

kernel = kernel_decorator()
