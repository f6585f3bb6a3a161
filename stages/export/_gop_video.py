"""Video out of groups of pictures that are each encoded by themselves.

The state of an encoder cannot be put aside. So every group goes to a fresh encoder of the same
settings, its packets go to a spool at once, and the file is put together from them at the end.
Against one encoder for all that costs 1 to 3 % of the size (measured: flow of three real clips,
groups of 15 pictures) and the same file comes out with any number of threads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType

from stages._rendering.video_writer import (
    FRAME_RATE,
    TIME_BASE,
    configure,
    encoder_options,
    even_size,
    ticks,
    yuv,
)
from stages.export._scratch import Spool

__all__ = ["GopVideo"]

HEADER = struct.Struct("<qqI?")
"""Presentation time and duration (ticks), bytes, and whether it is a keyframe."""

GLOBAL_HEADER = 1 << 22
"""AV_CODEC_FLAG_GLOBAL_HEADER: the parameter sets go to the file's header."""

SEI = 6
"""NAL unit type of supplemental information (H.264, table 7-1): x264 signs its work there."""


class GopVideo:
    """H.264 in MP4 as `PreviewVideo` writes it, for a stream that must survive a crash.

    Args:
        spool: Where the packets wait.
        quality: x264's constant rate factor: 18 looks lossless, 28 is small.
    """

    def __init__(self, spool: Spool, *, quality: int) -> None:
        self._spool = spool
        self._quality = quality
        self._size: tuple[int, int] | None = None
        self._alone = False
        """Whether the last group had one picture and the first of two numbers of a group."""

    def add(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        pts_ns: Sequence[int],
        ends_ns: Sequence[int],
    ) -> None:
        """Encode a group: show each image (RGB, uint8 [H, W, 3]) from `pts_ns` until `ends_ns`."""
        if self._size is None:
            self._size = even_size(images[0])
        frames = [yuv(i, self._size, t) for i, t in zip(images, pts_ns, strict=True)]
        # Two keyframes in a row must differ in idr_pic_id (H.264, 7.4.3); an encoder begins with
        # 0 and gives its second one 1.
        again = self._alone
        if again:
            frames.insert(0, yuv(images[0], self._size, pts_ns[0]))
            frames[0].pts = ticks(pts_ns[0]) - 1
            frames[1].pict_type = PictureType.I
        packets = self._encode(frames)[again:]
        ends = [ticks(end) for end in ends_ns]
        data = b""
        for n, (packet, end) in enumerate(zip(packets, ends, strict=True)):
            payload = bytes(packet)
            if n == 0 and self._spool.length:
                payload = _unsigned(payload)
            duration = max(1, end - packet.pts)
            data += HEADER.pack(packet.pts, duration, len(payload), packet.is_keyframe) + payload
        self._spool.append(data)
        self._alone = len(packets) == 1 and not again

    def _encode(self, frames: list[av.VideoFrame]) -> list[Any]:
        context: Any = av.CodecContext.create("libx264", "w")
        assert self._size is not None
        configure(context, self._size, threads=1)
        context.framerate = FRAME_RATE
        context.options = encoder_options(self._quality)
        context.flags |= GLOBAL_HEADER
        packets = [packet for frame in frames for packet in context.encode(frame)]
        return [*packets, *context.encode(None)]

    def write(self, path: Path) -> None:
        """Put the packets into an .mp4 file; there must be one."""
        assert self._size is not None, "a video has at least one picture"
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as file:
            options = encoder_options(self._quality)
            stream: Any = file.add_stream("libx264", rate=FRAME_RATE, options=options)
            # Never encodes: opening it gives the file's header the same parameter sets.
            configure(stream.codec_context, self._size, threads=1)
            file.start_encoding()
            for pts, duration, key, payload in self._packets():
                packet = av.Packet(payload)
                packet.stream = stream
                packet.time_base = TIME_BASE
                packet.pts = packet.dts = pts
                packet.duration = duration
                packet.is_keyframe = key
                file.mux(packet)

    def _packets(self) -> Iterator[tuple[int, int, bool, bytes]]:
        with self._spool.reading() as file:
            while header := file.read(HEADER.size):
                pts, duration, size, key = HEADER.unpack(header)
                yield pts, duration, key, file.read(size)

    def snapshot(self) -> dict[str, Any]:
        """Return where it stands as plain data."""
        return {"spool": self._spool.length, "size": self._size, "alone": self._alone}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._spool.restore(state["spool"])
        self._size = state["size"] and tuple(state["size"])
        self._alone = state["alone"]


def _unsigned(packet: bytes) -> bytes:
    """Leave out leading supplemental information: once a film is enough."""
    while packet[packet.index(b"\0\0\1") + 3] & 31 == SEI:
        packet = packet[packet.index(b"\0\0\1", 4) :]
    return packet
