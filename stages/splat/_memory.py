"""Work that may not fit into memory: Python, numpy, torch and CUDA each say so in their own way."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["fits"]

WORDS = ("can't allocate memory", "ot enough memory", "t of memory")
"""torch's CPU allocator and CUDA's own raise RuntimeError with one of these."""


def fits(work: Callable[[], object]) -> bool:
    """Do `work` and return whether it fitted into memory; on return what it held is free again."""
    try:
        work()
    except (MemoryError, torch.OutOfMemoryError):
        return False
    except RuntimeError as error:
        if not any(words in str(error) for words in WORDS):
            raise
        return False
    return True
