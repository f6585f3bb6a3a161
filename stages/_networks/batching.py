"""How many things go to a network at a time: half as many where a GPU's memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.errors import UsageError

__all__ = ["Batches"]

T = TypeVar("T")


class Batches(Generic[T]):
    """The size of a batch.

    Args:
        size: To begin with.
        what: What a batch consists of, in the plural, such as `pairs`.
        advice: What the user may do where not even one fits, such as `lower flow.tile`.
        warn: Takes the warning when the size changes.
    """

    def __init__(self, size: int, what: str, advice: str, warn: Callable[[str], None]) -> None:
        self.size = size
        self._what = what
        self._advice = advice
        self._warn = warn

    def attempt(self, call: Callable[[int], T]) -> T:
        """Return what `call` makes, given the size; again with half of it where memory runs out.

        Raises:
            UsageError: Not even a batch of one fits.
        """
        import torch

        while True:
            try:
                return call(self.size)
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise UsageError(
                        f"the GPU's memory does not hold one of the {self._what}; {self._advice}"
                    ) from None
            torch.cuda.empty_cache()
            self.size //= 2
            self._warn(f"the GPU's memory ran out; from here on {self.size} {self._what} at a time")
