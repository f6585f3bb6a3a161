"""One decoded video frame, converted only when somebody asks for it."""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, VideoReformatter

from stages.decode._delivery import Delivery, Orientation

__all__ = ["Converter", "DecodedVideoFrame", "orientation_of"]

AnyImage = npt.NDArray[np.uint8]

HDR = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
"""Transfer functions that need tone mapping to look right on an ordinary screen."""


def orientation_of(frame: av.VideoFrame) -> tuple[Orientation, bool]:
    """Read the display matrix of a frame.

    Returns:
        The orientation, rounded to quarter turns, and whether that was exact.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation(), True
    # int32 [3, 3] in 16.16 fixed point (libavutil/display.h); p_shown = p_coded @ matrix.
    a, b, c, d = np.frombuffer(data, dtype=np.int32)[[0, 1, 3, 4]].astype(np.float64) / 65536
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    # The picture's x axis points to (a, b) on the screen, y down: the angle is clockwise.
    angle = float(np.degrees(np.arctan2(b, a)))
    turn = round(angle / 90) * 90
    return Orientation(turn % 360, bool(mirrored)), abs(angle - turn) < 0.5


class Converter:
    """Converts the frames of one stream; colors and sizes are settled once."""

    def __init__(self, delivery: Delivery, *, hdr: bool = False) -> None:
        self.delivery = delivery
        self._hdr = hdr
        self._rgb = VideoReformatter()
        self._gray = VideoReformatter()

    def rgb(self, frame: av.VideoFrame) -> AnyImage:
        """Scale and convert in one pass of swscale, then turn upright."""
        width, height = self.delivery.scaled
        color: dict[str, Any] = {}
        if self._hdr:
            # swscale maps tones and gamut itself (FFmpeg 8); else PQ would look gray and flat.
            color = {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}
        out = self._rgb.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            dst_color_range=ColorRange.JPEG,
            # One thread: swscale's own threads cost more CPU than they save at these sizes.
            threads=1,
            **color,
        )
        return self.delivery.orientation.apply(out.to_ndarray())

    def luma(self, frame: av.VideoFrame, width: int) -> AnyImage:
        """Shrink the luma plane as it lies in the decoder's memory."""
        full_w, full_h = self.delivery.size
        size = (width, max(1, round(width * full_h / full_w)))
        if self.delivery.orientation.sideways:
            size = size[::-1]
        plane = _luma_plane(frame)
        if plane is None:
            gray = self._gray.reformat(
                frame, width=size[0], height=size[1], format="gray", threads=1
            )
            return self.delivery.orientation.apply(gray.to_ndarray())
        small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        if small.dtype != np.uint8:
            small = (small >> (frame.format.components[0].bits - 8)).astype(np.uint8)
        return self.delivery.orientation.apply(small)


def _luma_plane(frame: av.VideoFrame) -> npt.NDArray[Any] | None:
    """Return the luma plane without a copy, or None where the format packs it with color."""
    name = frame.format.name
    if not name.startswith(("yuv", "nv12", "gray")) or name.startswith("yuyv"):
        return None
    bits = frame.format.components[0].bits
    if bits > 8 and not name.endswith("le"):
        return None
    plane = frame.planes[0]
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: frame.height, : frame.width]


class DecodedVideoFrame:
    """One decoded frame."""

    __slots__ = ("_converter", "_frame", "_right", "index", "keyframe", "pts_ns")

    intrinsics = None
    T_world_camera = None

    def __init__(
        self,
        frame: av.VideoFrame,
        converter: Converter,
        *,
        index: int,
        pts_ns: int,
        keyframe: bool,
        right: av.VideoFrame | None = None,
    ) -> None:
        self._frame = frame
        self._right = right
        self._converter = converter
        self.index = index
        self.pts_ns = pts_ns
        self.keyframe = keyframe

    def luma(self, width: int) -> AnyImage:
        """Return a small gray preview, uint8 [h, width]."""
        return self._converter.luma(self._frame, width)

    def rgb(self) -> AnyImage:
        """Return the upright image at the delivered size, uint8 [H, W, 3]."""
        return self._converter.rgb(self._frame)

    def depth(self) -> None:
        """Say that videos come without depth."""

    def right(self) -> AnyImage | None:
        """Return the right view at the size of `rgb()`; None where frames hold one view."""
        return None if self._right is None else self._converter.rgb(self._right)
