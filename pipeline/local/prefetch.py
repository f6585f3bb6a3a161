"""Bounded look-ahead between stages: `Prefetch` runs the upstream stage ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetch"]

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
    is raised in the consumer.
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
