"""Opening a video file that nobody vouches for.

Containers and protocols are allow-listed, so that a playlist cannot make us read other files;
size, duration, frame rate and number of streams are checked before the first frame is decoded.
Every refusal is a `SourceError` of one line.
"""

from __future__ import annotations

import math
import os
import stat
from fractions import Fraction
from typing import Any

import av
import av.error
import av.logging
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.contract import Source
from pipeline.errors import SourceError
from stages.decode._error_text import named
from stages.decode._options import VideoOptions
from stages.decode._video.diagnose import what_it_is

__all__ = ["check_duration", "check_file", "check_size", "frame_rate", "open_video", "pixel_aspect"]

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mxf,nut,dv,rm,"
    "ivf,h264,hevc,av1,obu,m4v,mjpeg,gif,yuv4mpegpipe,wtv,"
    # Sound alone, to be able to say so.
    "mp3,wav,flac,aac,ac3"
)
SMALLEST_SIDE_PX = 16
"""Below this no stage can say anything of a picture (DIS flow starts at 16 px)."""
PROBED_PIXELS = 1 << 27
"""Up to here the size is read even where it is refused, so that the refusal can name it."""
ATTACHED_PICTURE = 0x400
"""AV_DISPOSITION_ATTACHED_PIC: a cover, not a video."""


def check_file(source: Source) -> None:
    """Refuse what is no readable, regular, filled file.

    Raises:
        SourceError: With what it is and what to do.
    """
    shown = named(source)
    try:
        status = os.stat(source.uri)
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise SourceError(f"cannot read {shown}: it may not be read by this user") from error
        if isinstance(error, OSError) and not isinstance(
            error, FileNotFoundError | NotADirectoryError
        ):
            raise SourceError(f"cannot read {shown}: {error.strerror}") from error
        raise SourceError(
            f"cannot read {shown}: there is no such file; give a video file, a folder of images "
            "or a glob such as 'frames/*.png'"
        ) from error
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise SourceError(
            f"cannot read {shown} as a video: it is a folder; a folder of images is read with "
            "decode.model=images"
        )
    if not stat.S_ISREG(mode):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise SourceError(
            f"cannot read {shown}: it is {kind}; give a regular file, so that it can be read twice"
        )
    if status.st_size == 0:
        raise SourceError(f"cannot read {shown}: it is empty (0 bytes); copy or record it again")
    if not os.access(source.uri, os.R_OK):
        raise SourceError(f"cannot read {shown}: it may not be read by this user")


def open_video(source: Source, options: VideoOptions) -> tuple[InputContainer, VideoStream]:
    """Open a container and choose its video stream; nothing is decoded yet by us.

    Raises:
        SourceError: It is no video, or one beyond the limits.
    """
    check_file(source)
    # FFmpeg must not write to the terminal; what matters comes back as exceptions.
    av.logging.set_level(None)
    # The prefix keeps names such as "concat:a" from being taken for a protocol.
    url = "file:" + source.uri
    try:
        container = av.open(
            url,
            options={
                "protocol_whitelist": "file",
                "format_whitelist": CONTAINERS,
                "max_streams": str(options.max_streams),
                # For the decoders that probing runs: larger pictures are never allocated.
                "max_pixels": str(max(options.max_pixels, PROBED_PIXELS)),
            },
        )
    except (av.error.FFmpegError, UnicodeError, ValueError, OSError) as error:
        raise SourceError(
            f"cannot read {named(source)}: {what_it_is(source.uri, error)}"
        ) from error
    try:
        stream = _choose(source, container, options)
        _check_limits(source, container, stream, options)
    except BaseException:
        container.close()
        raise
    return container, stream


def _choose(source: Source, container: InputContainer, options: VideoOptions) -> VideoStream:
    shown = named(source)
    everything = list(container.streams)
    videos = [s for s in container.streams.video if not int(s.disposition) & ATTACHED_PICTURE]
    if len(everything) > options.max_streams:
        raise SourceError(
            f"{shown} has {len(everything)} streams; at most {options.max_streams} are allowed "
            "(decode.max_streams)"
        )
    if options.stream is not None:
        for video in videos:
            if video.index == options.stream:
                return video
        allowed = ", ".join(str(v.index) for v in videos) or "none"
        raise SourceError(
            f"{shown} has no video stream number {options.stream}; its video streams are {allowed} "
            "(decode.stream)"
        )
    if not videos:
        kinds = {s.type for s in everything}
        cover = len(container.streams.video) > 0
        if "audio" in kinds:
            held = "audio and a cover picture" if cover else "audio"
            raise SourceError(f"{shown} has no video stream: only {held}; give a video file")
        raise SourceError(f"{shown} has no video stream; give a video file")
    best = container.streams.best("video")
    return next((v for v in videos if best is not None and v.index == best.index), videos[0])


def frame_rate(stream: VideoStream) -> float | None:
    """Return the mean frame rate that the container states, or None."""
    rate: Any = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _check_limits(
    source: Source, container: InputContainer, stream: VideoStream, options: VideoOptions
) -> None:
    shown = named(source)
    context = stream.codec_context
    if context is None:
        raise SourceError(f"{shown}: no decoder for its video; convert it to H.264 with ffmpeg")
    width, height = context.width, context.height
    if width < 1 or height < 1:
        raise SourceError(
            f"{shown} does not say how large its pictures are, or they are far beyond "
            f"{options.max_pixels} pixels (decode.max_pixels); it is damaged, or scale it down"
        )
    check_size(shown, width, height, options.max_pixels)
    rate = frame_rate(stream)
    if rate is not None and not 0 <= rate <= options.max_fps:
        raise SourceError(
            f"{shown} says {rate:g} frames a second; at most {options.max_fps:g} are allowed "
            "(decode.max_fps); its header may be damaged"
        )
    duration = container.duration
    if duration is not None:
        check_duration(source, duration / 1e6, options)


def check_size(shown: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse pictures that are too large or too small.

    Raises:
        SourceError: With the size, and what is allowed.
    """
    if width * height > max_pixels:
        raise SourceError(
            f"{shown} is {width}x{height}: {width * height} pixels; at most {max_pixels} "
            "(8192x4320) are read; scale it down, or raise decode.max_pixels"
            if max_pixels == 8192 * 4320
            else f"{shown} is {width}x{height}: {width * height} pixels; at most "
            f"{max_pixels} are allowed (decode.max_pixels)"
        )
    if min(width, height) < SMALLEST_SIDE_PX:
        raise SourceError(
            f"{shown} is {width}x{height}; pictures need at least "
            f"{SMALLEST_SIDE_PX}x{SMALLEST_SIDE_PX} pixels"
        )


def check_duration(source: Source, duration_s: float, options: VideoOptions) -> None:
    """Refuse a video that is too long, or whose header is absurd.

    Raises:
        SourceError: It is longer than `max_duration_s`.
    """
    start = options.start_s
    end = min(duration_s, options.end_s) if options.end_s is not None else duration_s
    if not math.isfinite(duration_s) or end - start > options.max_duration_s:
        raise SourceError(
            f"{named(source)} lasts {duration_s:g} s; at most {options.max_duration_s:g} are read "
            "(decode.max_duration_s); take a part with decode.start_s and decode.end_s"
        )


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Return width / height of one pixel; 1 where it is unknown or absurd."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not ratio:
        return Fraction(1)
    ratio = Fraction(int(ratio.numerator), int(ratio.denominator))
    return ratio if Fraction(1, 8) <= ratio <= 8 else Fraction(1)
