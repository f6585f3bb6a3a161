"""How running out of memory shows: Python, numpy, torch on the CPU and CUDA each in its own way."""

from __future__ import annotations

import torch

__all__ = ["OUT_OF_MEMORY", "is_memory"]

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError, RuntimeError)


def is_memory(error: BaseException) -> bool:
    """Return whether an error tells of memory; torch's CPU allocator raises RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return any(
        words in text for words in ("can't allocate memory", "ot enough memory", "t of memory")
    )
