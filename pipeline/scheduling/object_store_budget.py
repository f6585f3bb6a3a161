"""Byte budget of the object store: what is held there, and what tasks in flight will add."""

from __future__ import annotations

from typing import Any

from pipeline.worker.serialization import Packed


class Budget:
    """Bytes in the object store: what lies there, and what the clips on their way will need."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self._held: dict[Any, tuple[int, int]] = {}
        """Object to (how many messages hold it, bytes)."""

    def hold(self, packed: Packed) -> int:
        """Count the objects of a message; return the bytes that are new."""
        new = 0
        for ref, size in zip(packed.refs, packed.sizes, strict=True):
            holders, _ = self._held.get(ref, (0, size))
            if not holders:
                new += size
            self._held[ref] = (holders + 1, size)
        self.used_bytes += new
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return new

    def let_go(self, packed: Packed) -> None:
        """Take a message off; an object that no message holds any more is free."""
        for ref in packed.refs:
            holders, size = self._held[ref]
            if holders == 1:
                del self._held[ref]
                self.used_bytes -= size
            else:
                self._held[ref] = (holders - 1, size)
