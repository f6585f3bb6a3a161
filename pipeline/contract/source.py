"""The start of the chain: a source, what is known of it, and an opened one to read frames from.

`decode` turns a `Source` into a `Reader`; `sample` takes from the `Reader` the frames that are
wanted and groups them into clips (`Frames`). Both run in one worker, so that the choice is made
before a frame is converted: a frame that is not selected never becomes RGB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["DecodedFrame", "Probe", "Reader", "Source", "Timeline"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the user named: a file, a folder or glob of images, or a camera's URL."""

    uri: str = field(repr=False)
    """As given; may hold credentials, so never print it: print `shown`."""
    shown: str
    """`uri` with credentials masked."""
    name: str
    """Short, clean and unique within the run: the first part of every clip id."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the container says and what a reader will deliver; written into the manifest."""

    kind: str
    """`video`, `images` or `camera`: a live stream without an end, read once, in order."""
    width: int
    """Of the delivered images, px: upright, square pixels, after `max_side`."""
    height: int
    source_width: int
    """As coded in the container, px."""
    source_height: int
    duration_s: float | None
    """None where the container does not say."""
    fps: float | None
    """Mean frame rate; None for images without times."""
    frames: int | None
    """Number of frames as the container says; None where it does not."""
    codec: str
    pixel_format: str = ""
    rotation_deg: int = 0
    """Clockwise turn that makes the coded picture upright."""
    sample_aspect_ratio: str = "1:1"
    container: str = ""
    poses: str = ""
    """Where poses or intrinsics came from, such as `transforms.json`; empty for none."""
    depth: str = ""
    """Where sensor depth came from, such as `depth.txt`; empty for none."""
    stereo: str = ""
    """Where right views came from, such as `side_by_side` or `image_3/`; empty for none."""
    start_s: float = 0.0
    """The container's own time of what counts as 0 here."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The frames of a source in presentation order, known without decoding any.

    Time runs from the container's own start, as players count it: `pts_ns[0]` is above 0 where
    the video begins after its sound. A trim (`start_s`, `end_s`) leaves out rows, and changes
    neither times nor indices.
    """

    pts_ns: npt.NDArray[np.int64]
    """int64 [N], strictly rising."""
    keyframe: npt.NDArray[np.bool_]
    """bool [N]: the codec's random access points."""
    index: npt.NDArray[np.int64]
    """int64 [N]: number in the source, rising; what `Reader.frames_at` takes."""


class DecodedFrame(Protocol):
    """One decoded frame that has not been converted yet."""

    index: int
    """Number in the source, in presentation order."""
    pts_ns: int
    keyframe: bool

    def luma(self, width: int) -> npt.NDArray[np.uint8]:
        """Return a small gray preview, uint8 [h, width], cheaply (no RGB conversion)."""
        ...

    def rgb(self) -> npt.NDArray[np.uint8]:
        """Return the upright image at the delivered size, uint8 [H, W, 3]."""
        ...

    def depth(self) -> npt.NDArray[np.float32] | None:
        """Return the sensor's depth for `rgb()`, float32 [H, W], z in meters, NaN unknown.

        None where the source has none.
        """
        ...

    def right(self) -> npt.NDArray[np.uint8] | None:
        """Return the right view of the rectified stereo pair, uint8 [H, W, 3] as `rgb()`.

        All 0 where this frame has none; None where the source has none.
        """
        ...

    @property
    def intrinsics(self) -> npt.NDArray[np.float64] | None:
        """float64 [3, 3] px for `rgb()`, or None where the source does not say."""
        ...

    @property
    def T_world_camera(self) -> npt.NDArray[np.float64] | None:
        """float64 [4, 4], NaN where this frame has none; None where the source has no poses."""
        ...


class Reader(Protocol):
    """An opened source. Close it; it holds file handles and decoder threads."""

    source: Source
    probe: Probe
    metric: bool
    """Whether the poses that came with the source are in meters."""
    baseline_m: float | None
    """Distance of the cameras of a stereo pair, meters; None where the source does not say."""

    def timeline(self) -> Timeline:
        """Read the times and keyframes of all frames without decoding (demuxing only).

        Raises:
            SourceError: The source cannot say (a live camera).
        """
        ...

    def frames_at(
        self, wanted: Iterable[int], first: int = 0, again: Iterable[int] = ()
    ) -> Iterator[DecodedFrame]:
        """Decode the frames of these rising indices, each group of pictures at most once.

        Goes forward inside a group of pictures and seeks only across groups.
        `first` and `again` go on where another reader of this source was left: of the frames
        before number `first`, which it delivered, only those of `again` come once more.
        """
        ...

    def scan(self) -> Iterator[DecodedFrame]:
        """Decode every frame in order; the consumer converts those that it keeps.

        A camera's scan ends where the stream breaks off. The next one waits for the connection
        to come back and continues with it; it is empty when the camera has ended.
        """
        ...

    def stop(self) -> None:
        """Ask `scan` to end after the frame it is at; callable from any thread."""
        ...

    def close(self) -> None:
        """Give back files and threads."""
        ...
