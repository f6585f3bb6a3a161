"""How this step's numba kernels are compiled.

`fastmath` without `nnan` and `ninf`: those would let the compiler drop the tests that keep
infinities and NaN out of the depth. Inside the kernels unknown inverse depth is 0.
"""

from __future__ import annotations

from functools import partial

from numba import njit

__all__ = ["kernel"]

kernel = partial(
    njit,
    cache=True,
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "arcp", "nsz", "afn"},
)
