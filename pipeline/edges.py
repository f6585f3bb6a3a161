"""Bounded edges between stages, and what happens when they fill up.

`Prefetch` lets the upstream stage run ahead in a thread, but only so far: then it waits. A camera
cannot wait: behind `DropOldest` what is newest counts, and what had to go is counted.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["DropOldest", "Prefetch"]

T = TypeVar("T")

CLOSE_GRACE_S = 1.0
"""After this a thread that is busy in a stage is left behind; it is a daemon."""


class _End:
    """Marks the end of the upstream, with the exception that ended it, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Prefetch(Iterator[T], Generic[T]):
    """Run an iterator in a thread of its own, at most `depth` items ahead of the consumer.

    Closing it stops the thread and closes the upstream generator; an exception of the upstream
    is raised where the consumer stands.
    """

    def __init__(self, upstream: Iterator[T], depth: int, name: str = "prefetch") -> None:
        self._queue: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._upstream = upstream
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        end = _End()
        try:
            for item in self._upstream:
                if not self._put(item):
                    break
        except BaseException as error:
            end = _End(error)
        finally:
            close = getattr(self._upstream, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Prefetch[T]:
        return self

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, _End):
            self._ended = True
            self._thread.join()
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def close(self) -> None:
        """Stop the upstream; its thread is waited for, unless a stage keeps it for long."""
        self._ended = True
        self._stop.set()
        self._thread.join(CLOSE_GRACE_S)


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
