"""Bounded queue that drops its oldest item when full."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["DropOldest"]

T = TypeVar("T")


class DropOldest(Generic[T]):
    """Hands items from one thread to another; when full, the oldest go. `put` never waits."""

    def __init__(self, most: int, most_bytes: int) -> None:
        """Hold at most `most` items of together at most `most_bytes`, and always the newest."""
        self._most, self._most_bytes = most, most_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._filled = threading.Condition()
        self._closed = False
        self._bytes = 0
        self.taken = 0
        """How many items were put."""
        self.dropped = 0
        """How many of them nobody will get."""

    def put(self, item: T, nbytes: int = 0) -> None:
        """Add an item of so many bytes; after `close` it is not taken."""
        with self._filled:
            if self._closed:
                return
            self._items.append((item, nbytes))
            self._bytes += nbytes
            self.taken += 1
            while len(self._items) > 1 and (
                len(self._items) > self._most or self._bytes > self._most_bytes
            ):
                self._bytes -= self._items.popleft()[1]
                self.dropped += 1
            self._filled.notify()

    def get(self, timeout_s: float) -> T | None:
        """Return the oldest item; None where none comes in time or after `close` when empty."""
        with self._filled:
            self._filled.wait_for(lambda: bool(self._items) or self._closed, timeout_s)
            if not self._items:
                return None
            item, nbytes = self._items.popleft()
            self._bytes -= nbytes
            return item

    def close(self) -> None:
        """Take nothing more; what waits can still be got."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
