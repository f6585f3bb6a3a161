"""One connection to a camera: opened, read and decoded in a thread of its own.

FFmpeg is told to give up in time, but reads have been known to block for ever all the same. A
thread cannot be killed; so the supervisor watches for packets and frames, and abandons a
connection that sends none: an abandoned connection delivers nothing more.

No message of FFmpeg gets out of here as it is: they name the address with its password.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import av
import av.error
import av.logging
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.contract import Source
from pipeline.errors import SourceError
from stages.decode._error_text import named, one_line
from stages.decode._video.container import check_size, frame_rate
from stages.decode._video.packet_index import to_ns

if TYPE_CHECKING:
    from stages.decode._camera.options import Config

__all__ = ["Connection", "FrameReceiver", "ReceivedFrame", "StreamFormat"]

PROTOCOLS = {"rtsp": "rtsp,rtp,tcp", "rtsps": "rtsp,rtp,tcp,tls"}
"""What an address may make FFmpeg use; RTP always comes through the connection itself."""
KEYFRAME_WITHIN_S = 10.0
"""Cameras that refresh gradually never send a keyframe: then the decoder decides by itself."""
NO_ANSWER = "it does not answer"


@dataclass(frozen=True)
class StreamFormat:
    """What a connection says of its pictures."""

    codec: str
    fps: float | None
    aspect: Any
    """Width over height of a pixel (`Fraction`)."""


@dataclass(frozen=True)
class ReceivedFrame:
    """A decoded picture as it comes from the camera."""

    frame: av.VideoFrame
    camera_pts_ns: int | None
    """Its time by the camera's clock."""


class FrameReceiver(Protocol):
    """Where the frames of a connection go."""

    def take(self, connection: Connection, received: ReceivedFrame) -> None:
        """Take a frame; those of an abandoned connection are refused."""
        ...


class Connection(threading.Thread):
    """A connection under way; `ended` is set when it is over, and `why` says the reason."""

    def __init__(self, source: Source, options: Config, receiver: FrameReceiver) -> None:
        super().__init__(name="camera-connection", daemon=True)
        self._source = source
        self._options = options
        self._receiver = receiver
        self._abandoned = False
        self._awaiting_keyframe_since: float | None = None
        self._damaged_since: float | None = None
        self.stream: StreamFormat | None = None
        """Known once the connection stands."""
        self.last_packet_at = self.last_frame_at = time.monotonic()
        """When the last packet and the last picture came."""
        self.frames_decoded = 0
        self.damaged = 0
        """Pictures and packets that could not be used."""
        self.ended = threading.Event()
        self.why = ""
        self.unfit: SourceError | None = None
        """Set where what it sends can never be used."""
        self.refused = False
        """Whether it does not accept the user and password."""

    def abandon(self) -> None:
        """Read nothing more; returns at once, whatever the thread is in."""
        self._abandoned = True

    def run(self) -> None:
        """Connect, read until the end, close."""
        container: InputContainer | None = None
        try:
            container = self._open()
            self._read(container)
            self.why = self.why or "the camera closed the connection"
        except SourceError as error:
            self.unfit, self.why = error, str(error)
        except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
            self.refused = isinstance(error, av.error.HTTPUnauthorizedError)
            self.why = self._reason(error)
        except Exception as error:
            # Anything else may hold the address as well; its kind must do.
            self.why = f"reading failed ({type(error).__name__})"
        finally:
            self.ended.set()
            if container is not None:
                container.close()

    def _open(self) -> InputContainer:
        options = self._options
        # FFmpeg must not write to the terminal; what matters comes back as exceptions.
        av.logging.set_level(None)
        scheme = self._source.uri.partition(":")[0].lower()
        return av.open(
            self._source.uri,
            format="rtsp",
            timeout=(options.connect_s, options.read_s),
            options={
                "rtsp_transport": "tcp",
                "protocol_whitelist": PROTOCOLS[scheme],
                "allowed_media_types": "video",
                "max_streams": "16",
                "max_pixels": str(options.max_pixels),
                # Of the socket, in microseconds.
                "timeout": str(round(1e6 * options.read_s)),
            },
        )

    def _read(self, container: InputContainer) -> None:
        stream = self._video(container)
        base = stream.time_base
        for packet in self._from_keyframe(container, stream):
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                # What follows builds on it, up to the next keyframe.
                self.damaged += 1
                stream.codec_context.flush_buffers()
                self._awaiting_keyframe_since = time.monotonic()
                continue
            for frame in frames:
                if self._abandoned:
                    return
                if self._is_damaged(frame):
                    continue
                check_size(named(self._source), frame.width, frame.height, self._options.max_pixels)
                said = None if frame.pts is None else int(to_ns(frame.pts, base))
                self.frames_decoded += 1
                self.last_frame_at = time.monotonic()
                self._receiver.take(self, ReceivedFrame(frame, said))

    def _video(self, container: InputContainer) -> VideoStream:
        shown = named(self._source)
        stream = next(iter(container.streams.video), None)
        context: Any = None if stream is None else stream.codec_context
        if stream is None or context is None:
            what = "no video stream" if stream is None else "no video that can be decoded"
            raise SourceError(f"{shown} has {what}; choose another stream of the camera")
        if context.width and context.height:
            check_size(shown, context.width, context.height, self._options.max_pixels)
        # One thread says exactly which packet is damaged, and adds no delay.
        context.thread_count = 1
        context.options = {"max_pixels": str(self._options.max_pixels)}
        rate = frame_rate(stream)
        self.stream = StreamFormat(
            codec=context.name,
            fps=rate if rate and 0 < rate <= self._options.max_fps else None,
            aspect=stream.sample_aspect_ratio or context.sample_aspect_ratio,
        )
        return stream

    def _from_keyframe(self, container: InputContainer, stream: VideoStream) -> Iterator[Any]:
        """Yield the packets, except those before a keyframe: at the start and after damage."""
        self._awaiting_keyframe_since = time.monotonic()
        for packet in container.demux(stream):
            self.last_packet_at = time.monotonic()
            if self._abandoned:
                return
            if not packet.size:
                continue
            if self._awaiting_keyframe_since is not None:
                waited = self.last_packet_at - self._awaiting_keyframe_since
                if not packet.is_keyframe and waited < KEYFRAME_WITHIN_S:
                    continue
                self._awaiting_keyframe_since = None
            yield packet

    def _is_damaged(self, frame: av.VideoFrame) -> bool:
        """Say whether a picture is damaged, or builds on one that is: up to a keyframe.

        The decoder goes on meanwhile. Pictures that lead an open group are damaged after each
        new start, and the keyframe behind them is not. A B picture shown before the damaged one
        it builds on has gone out by then.
        """
        now = time.monotonic()
        if frame.is_corrupt:
            self._damaged_since = now
        elif frame.key_frame or now - (self._damaged_since or now) > KEYFRAME_WITHIN_S:
            self._damaged_since = None
        self.damaged += self._damaged_since is not None
        return self._damaged_since is not None

    def _reason(self, error: Exception) -> str:
        """Say in a few words what went wrong; never the address."""
        options = self._options
        silent_s = time.monotonic() - self.last_packet_at
        if isinstance(error, av.error.HTTPUnauthorizedError):
            return "it does not accept the user and password (401)"
        if isinstance(error, av.error.HTTPForbiddenError):
            return "it forbids this stream (403)"
        if isinstance(error, av.error.HTTPNotFoundError):
            return "it has no stream of that name (404)"
        if isinstance(error, ConnectionRefusedError):
            return "nothing listens there (connection refused)"
        if self.stream is None and silent_s >= 0.9 * min(options.connect_s, options.read_s):
            return f"{NO_ANSWER} within {silent_s:.0f} s"
        if self.stream is not None and silent_s >= 0.9 * options.read_s:
            return f"it sent nothing for {options.read_s:g} s"
        if isinstance(error, av.error.InvalidDataError):
            return "what it answers is no RTSP"
        if isinstance(error, OSError) and self.stream is None:
            return "it cannot be reached; its name may not be known or the network is down"
        said = getattr(error, "strerror", None) or type(error).__name__
        return one_line(str(said)).replace(self._source.uri, named(self._source))
