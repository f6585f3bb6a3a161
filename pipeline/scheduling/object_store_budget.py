"""Bytes that the clips of a run hold in the object store."""

from __future__ import annotations

from typing import Any

from pipeline.worker import MessageRef

__all__ = ["ObjectStoreBudget"]


class ObjectStoreBudget:
    """Counts the bytes of a run in the object store; messages may share objects."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self._held: dict[Any, tuple[int, int]] = {}
        """Object to (number of messages that hold it, bytes)."""

    def hold(self, packed: MessageRef) -> int:
        """Count the objects of a message; return the bytes that were not counted yet."""
        new = 0
        for ref, size in zip(packed.refs, packed.sizes, strict=True):
            holders, _ = self._held.get(ref, (0, size))
            if not holders:
                new += size
            self._held[ref] = (holders + 1, size)
        self.used_bytes += new
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return new

    def release(self, packed: MessageRef) -> None:
        """Uncount a message; an object is freed with the last message that holds it."""
        for ref in packed.refs:
            holders, size = self._held[ref]
            if holders == 1:
                del self._held[ref]
                self.used_bytes -= size
            else:
                self._held[ref] = (holders - 1, size)
