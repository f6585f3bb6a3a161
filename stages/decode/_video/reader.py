"""Reading a video by plan: each group of pictures at most once, only what is wanted converted."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.contract import Probe, Source, Timeline
from pipeline.errors import SourceError
from stages.decode._delivery import Delivery, fitted
from stages.decode._error_text import named
from stages.decode._options import VideoOptions
from stages.decode._stereo_packing import Packing
from stages.decode._video.container import check_duration, frame_rate, open_video, pixel_aspect
from stages.decode._video.frame import HDR, Converter, DecodedVideoFrame, orientation_of
from stages.decode._video.gap_report import GapReport, Reporter
from stages.decode._video.packet_index import PacketIndex, nominal_step, rising, to_ns

__all__ = ["VideoReader"]

Ints = npt.NDArray[np.int64]
_Placed = tuple[int, "Packet[VideoStream]"]

NON_REFERENCE_IS_EXACT = frozenset({"h264", "mpeg1video", "mpeg2video"})
"""Codecs in which a picture marked as no reference is needed by none (H.264 7.4.1: nal_ref_idc
0). In HEVC a sub-layer non-reference picture may be needed by a higher sub-layer."""

TRUE_KEYFRAMES = (
    "h264 hevc vvc vp8 vp9 av1 libdav1d mpeg1video mpeg2video mpeg4 h263 msmpeg4v2 msmpeg4v3 "
    "wmv1 wmv2 wmv3 vc1 theora mjpeg prores dnxhd ffv1 rawvideo huffyuv utvideo dvvideo"
)
"""Codecs whose keyframes can be believed. Old AVI codecs mark frames as key that build on the one
before (measured: Cinepak in tree.avi)."""

SEEKS_BY_INDEX = frozenset({"mov", "mp4", "matroska", "webm", "avi", "asf", "flv", "nut", "mxf"})
"""Containers whose seeks land on a packet that is the same as when read in sequence. In MPEG
streams the first packets after a seek may lack their times: they are read through instead."""

THREADED_PIXELS = 1920 * 1088
"""Pictures above full HD are decoded with as many threads as are allowed."""

SEEK_AFTER_PACKETS = 16
"""Reading past fewer packets than this is cheaper than a seek."""


class VideoReader:
    """An opened video file."""

    metric = False
    baseline_m = None

    def __init__(
        self, source: Source, options: VideoOptions, reporter: Reporter, threads: int
    ) -> None:
        self.source = source
        self._options = options
        self._reporter = reporter
        self._threads = threads
        self._stopped = False
        self._container, self._stream = open_video(source, options)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and end the decoder's threads."""
        self._container.close()

    def stop(self) -> None:
        """End `scan` and `frames_at` after the frame they are at."""
        self._stopped = True

    def timeline(self) -> Timeline:
        """Return the times of the frames between `start_s` and `end_s`."""
        span = slice(*self._span)
        return Timeline(
            pts_ns=self._pts_ns[span],
            keyframe=self._keyframe[span],
            index=np.arange(*self._span, dtype=np.int64),
        )

    def scan(self) -> Iterator[DecodedVideoFrame]:
        """Decode every frame in order."""
        return self.frames_at(range(*self._span))

    def frames_at(
        self, wanted: Iterable[int], first: int = 0, again: Iterable[int] = ()
    ) -> Iterator[DecodedVideoFrame]:
        """Decode the frames of these rising indices.

        Frames that do not decode are left out; at the end each gap is told as a loss.
        `first` and `again` go on where another reader of this source was left: of the frames
        before number `first`, which it delivered, only those of `again` come once more.
        """
        ranks = np.fromiter(wanted, dtype=np.int64)
        if np.any(np.diff(ranks) <= 0) or np.any((ranks < 0) | (ranks >= len(self._pts_ns))):
            raise ValueError(f"indices must rise within 0..{len(self._pts_ns) - 1}")
        gaps = GapReport(self._pts_ns, self._expected, self._span, self._reporter, ranks)
        gaps.skip_before(first)
        repeated = np.fromiter(again, dtype=np.int64)
        return self._until_stopped(np.union1d(repeated, ranks[ranks >= first]), gaps)

    def _until_stopped(self, ranks: Ints, gaps: GapReport) -> Iterator[DecodedVideoFrame]:
        # Closing tells what was missing so far.
        with closing(self._deliver(ranks, gaps)) as frames:
            for frame in frames:
                if self._stopped:
                    return
                yield frame

    # Opening

    def _prepare(self) -> None:
        options = self._options
        self._limit_decoder(self._stream)
        packets, first = self._survey()
        if first is None:
            raise SourceError(
                f"{named(self.source)} holds no frame that decodes ({packets.count} packets of "
                f"{self._stream.codec_context.name} were tried); copy it again or convert it with "
                "ffmpeg"
            )
        self._order(packets)
        times = to_ns(self._ticks, self._stream.time_base)
        self._pts_ns, start_s = self._from_zero(times)
        duration_s = self._duration_s()
        check_duration(self.source, float(self._pts_ns[-1]) / 1e9, options)
        low, high = np.searchsorted(
            self._pts_ns,
            [
                round(options.start_s * 1e9),
                np.iinfo(np.int64).max if options.end_s is None else round(options.end_s * 1e9),
            ],
        )
        self._span = (int(low), int(high))
        if low >= high:
            raise SourceError(
                f"{named(self.source)} has no frame between decode.start_s = {options.start_s:g} "
                f"and decode.end_s = {options.end_s if options.end_s is not None else 'its end'}; "
                f"its frames lie between {self._pts_ns[0] / 1e9:.3f} and "
                f"{self._pts_ns[-1] / 1e9:.3f} s"
            )
        self._describe(first, start_s, duration_s)

    def _limit_decoder(self, stream: VideoStream) -> None:
        context = stream.codec_context
        # One thread costs the least CPU and says exactly which packet is damaged. Large pictures
        # would hold up the rest of the chain.
        threads = self._threads if context.width * context.height > THREADED_PIXELS else 1
        context.thread_count = threads
        context.thread_type = "AUTO" if threads > 1 else "NONE"
        context.options = {"max_pixels": str(self._options.max_pixels)}

    def _survey(self) -> tuple[_Packets, av.VideoFrame | None]:
        """Read all packets, and decode until one frame shows how the picture lies."""
        packets, first = _Packets(), None
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    packets.add(packet)
                if first is None:
                    first = _first(self._decode(packet))
        except av.error.FFmpegError as error:
            self._reporter.warn(f"the file cannot be read to its end: {error.strerror}")
        if first is None and packets.count:
            first = _first(self._decode(None))
        return packets, first

    def _decode(self, packet: Packet[VideoStream] | None) -> list[av.VideoFrame]:
        try:
            return self._stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            return []

    def _order(self, packets: _Packets) -> None:
        """Settle the frames' order and times: by the packets, or by decoding all where they lie."""
        pts = packets.pts
        # AVI stores no presentation times: with reordering, what it gives are decoding times.
        guessed = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        if None not in pts and len(set(pts)) == len(pts) and not guessed:
            discard = np.array(packets.discard, dtype=bool)
            keyframe = np.array(packets.keyframe, dtype=bool)
            if self._stream.codec_context.name not in TRUE_KEYFRAMES.split():
                keyframe[1:] = False
            self._index = PacketIndex.of(
                np.array(pts, dtype=np.int64), packets.dts, keyframe, discard
            )
            if len(self._index.shown):
                self._ticks = self._index.pts[self._index.shown]
                self._keyframe = self._index.keyframe[self._index.shown]
                return
        self._index = None
        step = nominal_step(frame_rate(self._stream), self._stream.time_base)
        ticks: list[int | None] = []
        keys: list[bool] = []
        self._rewind()
        for frame in self._all_frames():
            ticks.append(frame.pts if frame.pts is not None else frame.dts)
            keys.append(bool(frame.key_frame))
        if not ticks:
            raise SourceError(f"{named(self.source)} holds no frame that decodes; copy it again")
        known = sorted({tick for tick in ticks if tick is not None})
        if guessed and len(known) == len(ticks):
            # Decoding times are the presentation times in another order.
            ticks = list(known)
        self._ticks, changed = rising(ticks, step)
        self._keyframe = np.array(keys, dtype=bool)
        lacking = sum(tick is None for tick in ticks)
        if changed:
            self._reporter.warn(
                f"{changed} of {len(ticks)} frames have no presentation time or one that does not "
                f"rise ({lacking} have none); they were put after the frame before"
            )

    def _from_zero(self, times: Ints) -> tuple[Ints, float]:
        """Count time from the container's start, as players and the ffmpeg command do.

        A video that begins after its sound therefore begins above zero.
        """
        start = self._container.start_time
        zero = int(times[0])
        # The container's start is given in microseconds: closer than that it is the first frame.
        # Times that had to be made up say nothing of the start.
        if self._index is not None and start is not None and zero - start * 1000 > 1000:
            zero = start * 1000
        return times - zero, zero / 1e9

    def _duration_s(self) -> float | None:
        """Return how long the container says it lasts."""
        stream = self._stream
        if stream.duration:
            return float(to_ns([stream.duration], stream.time_base)[0]) / 1e9
        return self._container.duration / 1e6 if self._container.duration else None

    def _describe(self, first: av.VideoFrame, start_s: float, duration_s: float | None) -> None:
        stream, options, reporter = self._stream, self._options, self._reporter
        orientation, exact = orientation_of(first)
        if not exact:
            reporter.warn(
                f"it is turned by no quarter turn; it was turned by {orientation.turn_deg} degrees"
            )
        aspect = pixel_aspect(stream)
        self._packing = Packing(self.source, options.stereo, orientation)
        view = self._packing.view_size(first)
        scaled = fitted(*view, options.max_side, aspect)
        delivery = Delivery(scaled, orientation)
        hdr = HDR.get(int(first.color_trc))
        if hdr:
            reporter.warn(
                f"it is HDR ({hdr}); its tones were mapped to an ordinary screen (BT.709)"
            )
        self._converter = Converter(delivery, hdr=hdr is not None)
        self._coded = (first.width, first.height, first.format.name)
        self._size_change_reported = False
        count = len(self._pts_ns)
        self._expected = max(count, self._stated_count())
        length_s = float(self._pts_ns[-1] - self._pts_ns[0]) / 1e9
        # Times are to be trusted before a header's rate, except where part of them is gone.
        whole = count > 1 and self._expected == count
        measured = (count - 1) / length_s if whole else frame_rate(stream)
        width, height = delivery.size
        self.probe = Probe(
            kind="video",
            width=width,
            height=height,
            source_width=first.width,
            source_height=first.height,
            duration_s=duration_s,
            fps=round(measured, 6) if measured else None,
            frames=stream.frames or None,
            codec=stream.codec_context.name,
            pixel_format=first.format.name,
            rotation_deg=orientation.turn_deg,
            sample_aspect_ratio=f"{aspect.numerator}:{aspect.denominator}",
            container=self._container.format.name,
            stereo=self._packing.name,
            start_s=start_s,
        )
        if duration_s and self._expected == count and duration_s > 1.1 * (length_s + 1):
            reporter.warn(
                f"the header says {duration_s:.2f} s, but its last frame lies at {length_s:.2f} s; "
                "the file may be cut off"
            )

    def _stated_count(self) -> int:
        """Return the header's number of shown frames, where such headers can be trusted (MP4).

        AVI counts frames that were dropped while recording.
        """
        if self._index is None or "mp4" not in self._container.format.name:
            return 0
        return self._stream.frames - (len(self._index.pts) - len(self._index.shown))

    # Delivering

    def _deliver(self, ranks: Ints, gaps: GapReport) -> Generator[DecodedVideoFrame]:
        if self._index is None:
            yield from self._deliver_in_sequence(ranks)
            return
        try:
            for run in self._index.plan(ranks):
                want = dict(
                    zip(
                        self._index.pts[self._index.shown[run.ranks]].tolist(),
                        run.ranks.tolist(),
                        strict=True,
                    )
                )
                for frame in self._decode_run_or_restart(run.first, run.last, want, gaps):
                    rank = want.pop(frame.pts)
                    gaps.mark_decoded(rank)
                    yield self._decoded_frame(frame, rank)
        finally:
            gaps.report()

    def _deliver_in_sequence(self, ranks: Ints) -> Iterator[DecodedVideoFrame]:
        """Decode from the start and count, where times do not identify a frame."""
        wanted = iter(ranks.tolist())
        rank = next(wanted, None)
        self._rewind()
        for place, frame in enumerate(self._all_frames()):
            if rank is None:
                return
            if place == rank:
                yield self._decoded_frame(frame, rank)
                rank = next(wanted, None)

    def _decoded_frame(self, frame: av.VideoFrame, rank: int) -> DecodedVideoFrame:
        width, height, _ = self._coded
        if (frame.width, frame.height) != (width, height) and not self._size_change_reported:
            self._size_change_reported = True
            self._reporter.warn(
                f"its pictures change from {width}x{height} to {frame.width}x{frame.height} at "
                f"{self._pts_ns[rank] / 1e9:.2f} s; all are delivered in the first size"
            )
        left, right = self._packing.views(frame)
        return DecodedVideoFrame(
            left,
            self._converter,
            index=rank,
            pts_ns=int(self._pts_ns[rank]),
            keyframe=bool(self._keyframe[rank]),
            right=right,
        )

    def _decode_run_or_restart(
        self, first: int, last: int, want: dict[int, int], gaps: GapReport
    ) -> Iterator[av.VideoFrame]:
        """Decode a run; where its keyframe was none (gradual refresh), begin at the beginning."""
        count = len(want)
        yield from self._decode_run(first, last, want, gaps)
        if first > 0 and len(want) == count and not gaps.failed:
            yield from self._decode_run(0, last, want, gaps)

    def _decode_run(
        self, first: int, last: int, want: dict[int, int], gaps: GapReport
    ) -> Iterator[av.VideoFrame]:
        """Decode the packets `first`..`last` and yield the frames whose ticks are in `want`."""
        assert self._index is not None
        landed = self._go_to(first)
        # Only now: moving may have opened the file anew.
        index, context = self._index, self._stream.codec_context
        context.flush_buffers()
        skips = context.name in NON_REFERENCE_IS_EXACT
        skipping = False
        begin, least = first, None
        for place, packet in self._packets(landed):
            if place < begin:
                continue
            if place > last:
                break
            if skips and skipping != (packet.pts not in want):
                skipping = not skipping
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            try:
                frames = context.decode(packet)
            except av.error.FFmpegError as error:
                # What follows builds on the damaged picture: go on at the next keyframe.
                gaps.record_failure(error.strerror or type(error).__name__)
                context.flush_buffers()
                resume = index.next_keyframe(place)
                if resume is None or resume > last:
                    break
                begin, least = resume, int(index.pts[resume])
                continue
            for frame in frames:
                if frame.pts in want and (least is None or frame.pts >= least):
                    yield frame
            if not want:
                break
        else:
            if want:
                gaps.record_early_end()
        if skipping:
            context.skip_frame = "DEFAULT"
        if want:
            for frame in self._decode(None):
                if frame.pts in want and (least is None or frame.pts >= least):
                    yield frame

    def _go_to(self, first: int) -> _Placed | None:
        """Move to the packet at `first` or before it; return one that was read on the way."""
        ahead = first - self._at if self._at is not None else -1
        return None if 0 <= ahead <= SEEK_AFTER_PACKETS else self._seek(first)

    def _packets(self, landed: _Placed | None) -> Iterator[_Placed]:
        """Yield the packets from here on with their place in decoding order."""
        assert self._index is not None
        if landed is not None:
            yield landed
        places = self._places()
        for packet in self._demuxer:
            place = places.get(packet.pts) if packet.size else None
            if place is not None:
                self._at = place + 1
                yield place, packet
        self._at = len(self._index.pts)

    def _seek(self, first: int) -> _Placed | None:
        """Move to the packet at `first` or shortly before it; seeks of some formats overshoot."""
        assert self._index is not None
        index = self._index
        places = self._places()
        seekable = not SEEKS_BY_INDEX.isdisjoint(self._container.format.name.split(","))
        ways = (index.pts[first], index.dts[first], index.dts[max(0, first - 100)])
        for ticks in ways if seekable else ():
            try:
                self._container.seek(int(ticks), stream=self._stream, backward=True)
            except (av.error.FFmpegError, OSError):
                continue
            self._demuxer = self._container.demux(self._stream)
            for packet in self._demuxer:
                place = places.get(packet.pts) if packet.size else None
                if place is not None:
                    if place > first:
                        break
                    self._at = place + 1
                    return place, packet
        if self._at is None or self._at > first or seekable:
            self._rewind()
        return None

    def _places(self) -> dict[int, int]:
        assert self._index is not None
        if self._place_of is None:
            self._place_of = {int(p): i for i, p in enumerate(self._index.pts)}
        return self._place_of

    _place_of: dict[int, int] | None = None
    _at: int | None = None
    """Place of the packet that the demuxer gives next, or None where it is not known."""

    def _rewind(self) -> None:
        """Begin again at the first packet: a fresh container, since not every format seeks."""
        # Nothing of a container may be touched once it is closed: PyAV does not guard it.
        chosen = self._options.model_copy(update={"stream": self._stream.index})
        self._container.close()
        container, stream = open_video(self.source, chosen)
        self._container: InputContainer = container
        self._stream: VideoStream = stream
        self._limit_decoder(stream)
        self._demuxer = container.demux(stream)
        self._at = 0

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self._demuxer:
                yield from self._decode(packet)
        except av.error.FFmpegError:
            return


class _Packets:
    """The packets of a stream as lists, in decoding order."""

    def __init__(self) -> None:
        self.pts: list[int | None] = []
        self.dts: list[int | None] = []
        self.keyframe: list[bool] = []
        self.discard: list[bool] = []

    @property
    def count(self) -> int:
        return len(self.pts)

    def add(self, packet: Packet[VideoStream]) -> None:
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.keyframe.append(packet.is_keyframe)
        self.discard.append(packet.is_discard)


def _first(frames: list[av.VideoFrame]) -> av.VideoFrame | None:
    return frames[0] if frames else None
