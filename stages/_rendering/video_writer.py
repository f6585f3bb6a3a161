"""Preview videos that every browser plays: H.264, 4:2:0, 8 bit, real timestamps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "FRAME_RATE",
    "TIME_BASE",
    "PreviewVideo",
    "configure",
    "encoder_options",
    "even_size",
    "fit_width",
    "frame_of_planes",
    "ticks",
    "yuv",
]

TIME_BASE = Fraction(1, 90_000)
"""MPEG's clock, which represents 24, 25, 30 and 60 frames per second without rounding."""

FRAME_RATE = 30
"""Nominal frame rate; every frame has its own timestamp."""

BT709 = 1
LIMITED_RANGE = 1


def fit_width(image: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """Downscale the image to at most `width` px wide; never enlarges."""
    if image.shape[1] <= width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


class PreviewVideo:
    """Encodes frames as they arrive; memory is bounded by the encoder's look-ahead.

    Args:
        path: An .mp4 file.
        quality: x264's constant rate factor: 18 looks lossless, 28 is small.
        threads: Number of encoder threads.
    """

    def __init__(self, path: Path, *, quality: int, threads: int) -> None:
        # The index is at the front, so that a browser can start before it has the whole file.
        self._file = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._quality = quality
        self._threads = threads
        self._stream: Any = None
        self._size = (0, 0)
        self._durations: dict[int, int] = {}

    def add(self, image: npt.NDArray[np.uint8], pts_ns: int, duration_ns: int) -> None:
        """Show `image` (RGB, uint8 [H, W, 3]) from `pts_ns` for `duration_ns`."""
        if self._stream is None:
            self._open(image)
        frame = yuv(image, self._size, pts_ns)
        begin = ticks(pts_ns)
        self._durations[begin] = max(1, ticks(pts_ns + duration_ns) - begin)
        self._write(frame)

    def _write(self, frame: av.VideoFrame | None) -> None:
        assert self._stream is not None, "the first frame opens the stream"
        for packet in self._stream.encode(frame):
            # The encoder drops durations; the muxer derives all but the last.
            packet.duration = self._durations.pop(packet.pts)
            self._file.mux(packet)

    def _open(self, image: npt.NDArray[np.uint8]) -> None:
        self._size = even_size(image)
        options = encoder_options(self._quality)
        self._stream = self._file.add_stream("libx264", rate=FRAME_RATE, options=options)
        configure(self._stream.codec_context, self._size, self._threads)

    def close(self) -> None:
        """Flush the encoder and finish the file."""
        if self._stream is not None:
            self._write(None)
        self._file.close()


def encoder_options(quality: int) -> dict[str, str]:
    """Return x264's options for a constant rate factor."""
    # MP4 derives a track's duration from decoding times, wrong for B-frames with uneven gaps.
    return {"crf": str(quality), "preset": "veryfast", "bf": "0"}


def configure(context: Any, size: tuple[int, int], threads: int) -> None:
    """Configure an encoder: frames of `size` (height, width), time base, threads and colors."""
    context.height, context.width = size
    context.pix_fmt = "yuv420p"
    context.time_base = TIME_BASE
    context.thread_count = threads
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


def even_size(image: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the height and width rounded up to even sides, which 4:2:0 needs."""
    return image.shape[0] + image.shape[0] % 2, image.shape[1] + image.shape[1] % 2


def frame_of_planes(
    planes: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    pts_ns: int,
) -> av.VideoFrame:
    """Return luma [H, W], Cb and Cr [H/2, W/2] (BT.709, limited range) as a frame to encode."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[arg-type]
        rows[: values.shape[0], : values.shape[1]] = values
    frame.colorspace, frame.color_range = BT709, LIMITED_RANGE
    frame.pts = ticks(pts_ns)
    frame.time_base = TIME_BASE
    return frame


def yuv(image: npt.NDArray[np.uint8], size: tuple[int, int], pts_ns: int) -> av.VideoFrame:
    """Return the image (RGB, uint8 [H, W, 3]) as a frame of `size` (height, width) to encode."""
    height, width = size
    if image.shape[:2] != size:
        # A missing row or column replicates the border.
        pad = (height - image.shape[0], width - image.shape[1])
        if pad[0] in (0, 1) and pad[1] in (0, 1):
            image = np.pad(image, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
        else:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)
    frame.pts = ticks(pts_ns)
    frame.time_base = TIME_BASE
    return frame


def ticks(time_ns: int) -> int:
    """Convert nanoseconds to ticks of `TIME_BASE`."""
    return round(Fraction(int(time_ns), 1_000_000_000) / TIME_BASE)
