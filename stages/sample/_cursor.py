"""Where a sampler stands in a file: what it has taken, and what it needs again to go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contract import DecodedFrame, Reader
from pipeline.errors import SourceError

__all__ = ["CarryOver", "Cursor"]


@dataclass
class CarryOver:
    """How the next clip begins: with frames that were kept before the last one was handed out."""

    frames: list[tuple[int, float, int]] = field(default_factory=list[tuple[int, float, int]])
    """Number in the source, sharpness and shot."""
    shared: int = 0
    """How many of them the last clip held as well."""

    def snapshot(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"frames": self.frames, "shared": self.shared}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> CarryOver:
        """Return what `snapshot` described."""
        return cls(
            [(index, sharp, shot) for index, sharp, shot in state["frames"]], state["shared"]
        )


class Cursor:
    """The wanted pictures of a file in order, from the first or from where another was left.

    Args:
        reader: The source, no camera.
        wanted: Numbers in the source, rising.
    """

    def __init__(self, reader: Reader, wanted: npt.ArrayLike) -> None:
        self.done = 0
        """How many of them came."""
        self._reader = reader
        # An array: searching a list would convert all of it for every picture.
        self._wanted = np.asarray(wanted, np.int64)
        self.total = len(self._wanted)
        self._exhausted = False
        self._gaps = False
        self._frames_left: Iterator[DecodedFrame] | None = None

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Yield the pictures from where it stands."""
        if self._exhausted:
            return
        frames = self._frames_left or iter(self._reader.frames_at(self._wanted))
        for frame in frames:
            place = int(np.searchsorted(self._wanted, frame.index))
            self._gaps |= place != self.done
            self.done = place + 1
            yield frame
        self._gaps |= self.done != self.total
        self._exhausted = True

    def snapshot(self, *, waiting: bool = False) -> dict[str, Any] | None:
        """Return where it stands, or None where another could not go on just like this one.

        What a damaged video lacks is told at its end, of the whole film, by the reader that has
        read all of it; so from the first gap on only this one can.

        Args:
            waiting: Whether pictures that came are still to be handled.
        """
        damaged = self._gaps and self._reader.probe.kind == "video"
        if damaged or (self._exhausted and waiting):
            return None
        return {"done": self.done, "over": self._exhausted}

    def resume(self, state: dict[str, Any], needed: Sequence[int]) -> dict[int, DecodedFrame]:
        """Go to where a snapshot was taken; return the `needed` pictures from before it.

        Raises:
            SourceError: The source does not hold them any more.
        """
        self.done, self._exhausted = state["done"], state["over"]
        if self._exhausted:
            return {}
        first = int(self._wanted[self.done - 1]) + 1 if self.done else 0
        again = sorted(set(needed))
        self._frames_left = iter(self._reader.frames_at(self._wanted, first, again))
        found: dict[int, DecodedFrame] = {}
        for index in again:
            frame = next(self._frames_left, None)
            if frame is None or frame.index != index:
                raise SourceError(
                    f"{self._reader.source.shown}: its frame {index} came before and does not come "
                    "again; leave the source as it is while it is read"
                )
            found[index] = frame
        return found
