"""Detection of out-of-memory errors, which differ between Python, numpy, torch and CUDA."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["fits"]

WORDS = ("can't allocate memory", "ot enough memory", "t of memory")
"""Phrases of a RuntimeError raised by torch's CPU allocator or by CUDA when memory runs out."""


def fits(work: Callable[[], object]) -> bool:
    """Run `work` and return whether it fit into memory; its memory is freed on return."""
    try:
        work()
    except (MemoryError, torch.OutOfMemoryError):
        return False
    except RuntimeError as error:
        if not any(words in str(error) for words in WORDS):
            raise
        return False
    return True
