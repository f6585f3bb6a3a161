"""The times of a camera's pictures: strictly rising, whatever the camera says."""

from __future__ import annotations

__all__ = ["CameraClock"]

BACK_NS = 1_000_000_000
"""A step back of more than this is a clock that was set; less is disorder."""
AHEAD_NS = 10_000_000_000
"""A clock that is so far ahead of the time that passed here was set, too."""


class CameraClock:
    """Counts ns from the first picture, by the camera's clock as long as it runs evenly.

    Where the camera gives no time, or its clock was set, or the connection was lost in between,
    the time that passed here stands in.
    """

    def __init__(self, step_ns: int = 40_000_000) -> None:
        self.step_ns = step_ns
        """How long a picture lasts, as far as is known."""
        self._last_ns: int | None = None
        self._arrived_ns = self._first_ns = 0
        self._offset_ns: int | None = None
        self._fresh = True

    def begin(self) -> None:
        """Begin a new connection: its times have nothing to do with those before."""
        self._offset_ns = None
        self._fresh = True

    def place(self, said_ns: int | None, arrived_ns: int) -> int:
        """Return the time of the next picture, ns since the first.

        Args:
            said_ns: Its time by the camera's clock, or None.
            arrived_ns: When it came, by a clock of this machine that never goes back.
        """
        last, waited = self._last_ns, max(0, arrived_ns - self._arrived_ns)
        fresh, self._fresh = self._fresh, False
        if last is None:
            out, self._first_ns = 0, arrived_ns
        elif fresh:
            out = last + max(self.step_ns, waited)
        elif said_ns is None or self._offset_ns is None:
            out = last + self.step_ns
        else:
            out = said_ns + self._offset_ns
            if out < last - BACK_NS or out > arrived_ns - self._first_ns + AHEAD_NS:
                out = last + max(self.step_ns, waited)
                self._offset_ns = None
            elif out <= last:
                out = last + max(1, self.step_ns // 4)
        if said_ns is not None and self._offset_ns is None:
            self._offset_ns = out - said_ns
        self._last_ns, self._arrived_ns = out, arrived_ns
        return out
