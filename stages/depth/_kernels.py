"""The decorator of this step's numba kernels; inside them unknown inverse depth is 0."""

from __future__ import annotations

from stages._kernels.compiling import kernel_decorator

__all__ = ["kernel"]

kernel = kernel_decorator()
