"""All of a clip but its pixels: enough to decode the same clip again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.contract import Array, Frames

__all__ = ["ClipMetadata"]

PIXELS = ("images", "depth", "right")
"""Fields of `Frames` that are decoded again; every other field is metadata."""


@dataclass(frozen=True)
class ClipMetadata:
    """A clip without its pixels, as JSON can hold it.

    The journal stores `values`; which fields there are follows from `Frames`.
    """

    values: dict[str, Any]

    @classmethod
    def of(cls, clip: Frames) -> ClipMetadata:
        """Return the metadata of a clip."""
        values: dict[str, Any] = {}
        for part in fields(clip):
            if part.name not in PIXELS:
                value = getattr(clip, part.name)
                values[part.name] = value.tolist() if isinstance(value, np.ndarray) else value
        return cls(values)

    @property
    def name(self) -> str:
        """Name of the clip."""
        return self.values["clip"]

    @property
    def index(self) -> list[int]:
        """Indices of the frames in the source."""
        return [int(i) for i in self.values["index"]]

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return len(self.values["pts_ns"])

    @property
    def end_s(self) -> float:
        """Timestamp of the last frame, in seconds."""
        return self.values["pts_ns"][-1] / 1e9

    def with_pixels(
        self,
        images: Sequence[Array],
        depth: Sequence[Array | None],
        right: Sequence[Array | None],
    ) -> Frames:
        """Return the clip, given its decoded frames.

        Args:
            images: RGB of each frame, uint8 [H, W, 3].
            depth: Sensor depth of each frame, or None.
            right: Right view of each frame, or None.
        """
        given = dict(self.values)
        for name, (dtype, _) in Frames.SPEC.items():
            if given.get(name) is not None:
                given[name] = np.array(given[name], dtype)
        return Frames(
            images=np.stack(images), depth=_stacked(depth), right=_stacked(right), **given
        )


def _stacked(parts: Sequence[Array | None]) -> Array | None:
    """Stack what every frame has; None if a frame has none."""
    present = [part for part in parts if part is not None]
    return np.stack(present) if len(present) == len(parts) else None
