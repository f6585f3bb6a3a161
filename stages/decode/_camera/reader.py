"""A live camera as a reader: pictures as they come, until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pipeline.contract import Probe, Source, Timeline
from pipeline.errors import SourceError
from stages.decode._camera.supervisor import ConnectionSupervisor, Received
from stages.decode._delivery import Delivery, fitted
from stages.decode._error_text import named
from stages.decode._stereo_packing import Packing
from stages.decode._video.frame import HDR, Converter, DecodedVideoFrame, orientation_of

if TYPE_CHECKING:
    from stages.decode._camera.options import Config

__all__ = ["CameraReader"]

LISTEN_S = 0.25
WARN_DROPPED_SHARE = 0.01
"""A larger share of dropped frames is a warning."""
REPORT_EVERY_S = 5.0
"""How often figures are told while nothing comes: also a sign of life to whoever waits."""


class CameraReader:
    """An opened camera. `scan` gives what comes over one connection; call it again for the next."""

    metric = False
    baseline_m = None

    def __init__(
        self,
        source: Source,
        options: Config,
        warn: Callable[[str], None],
        measure: Callable[[str, float], None],
    ) -> None:
        """Connect and wait for the first picture.

        Raises:
            SourceError: There is none, or none that is allowed.
        """
        self.source = source
        self._options = options
        self._warn, self._measure = warn, measure
        self._supervisor = ConnectionSupervisor(source, options)
        self._pending: Received | None = None
        self._size_change_reported = False
        self._reported_at = time.monotonic()
        self._supervisor.start()
        try:
            self._pending = self._wait_for_first()
            self._describe(self._pending)
        except BaseException:
            self._supervisor.close()
            raise

    def _wait_for_first(self) -> Received:
        supervisor = self._supervisor
        while not supervisor.first_received.wait(LISTEN_S):
            self._report_if_due()
        first = supervisor.queue.get(LISTEN_S)
        if first is None:
            raise supervisor.failed or SourceError(f"{named(self.source)} gave no picture")
        return first

    def _describe(self, first: Received) -> None:
        frame, stream = first.frame, self._supervisor.stream
        orientation, _ = orientation_of(frame)
        aspect = _aspect(stream.aspect if stream else None)
        self._packing = Packing(self.source, self._options.stereo, orientation)
        view = self._packing.view_size(frame)
        delivery = Delivery(fitted(*view, self._options.max_side, aspect), orientation)
        self._converter = Converter(delivery, hdr=int(frame.color_trc) in HDR)
        self._coded = (frame.width, frame.height)
        width, height = delivery.size
        self.probe = Probe(
            kind="camera",
            width=width,
            height=height,
            source_width=frame.width,
            source_height=frame.height,
            duration_s=None,
            fps=stream.fps if stream else None,
            frames=None,
            codec=stream.codec if stream else "",
            pixel_format=frame.format.name,
            rotation_deg=orientation.turn_deg,
            sample_aspect_ratio=f"{aspect.numerator}:{aspect.denominator}",
            container="rtsp",
            stereo=self._packing.name,
        )

    def timeline(self) -> Timeline:
        """Refuse: nobody knows the frames of a camera beforehand.

        Raises:
            SourceError: Always.
        """
        raise SourceError(
            f"{named(self.source)} is a camera, and its frames are not known beforehand; "
            "sample.model must be adaptive, fps or dense"
        )

    def frames_at(
        self, wanted: Iterable[int], first: int = 0, again: Iterable[int] = ()
    ) -> Iterator[DecodedVideoFrame]:
        """Refuse, as `timeline` does."""
        del wanted, first, again
        self.timeline()
        return iter(())

    def scan(self) -> Iterator[DecodedVideoFrame]:
        """Yield the pictures of one connection; wait for it where there is none.

        Empty when the camera was stopped, its time is up or it was given up.
        """
        supervisor, segment = self._supervisor, None
        while not supervisor.stopped:
            # Before looking: what was put until then is seen.
            finished, closed = supervisor.finished, supervisor.closed
            received, self._pending = self._pending, None
            if received is None:
                received = supervisor.queue.get(LISTEN_S)
            self._report_if_due()
            if received is None:
                if finished or (segment is not None and closed >= segment):
                    break
                continue
            if segment is None:
                segment = received.segment
            elif received.segment != segment:
                self._pending = received
                break
            yield self._decoded_frame(received)
        self._report()

    def _decoded_frame(self, received: Received) -> DecodedVideoFrame:
        frame = received.frame
        if (frame.width, frame.height) != self._coded and not self._size_change_reported:
            self._size_change_reported = True
            width, height = self._coded
            self._warn(
                f"its pictures change from {width}x{height} to {frame.width}x{frame.height} at "
                f"{received.pts_ns / 1e9:.2f} s; all are delivered in the first size"
            )
        left, right = self._packing.views(frame)
        return DecodedVideoFrame(
            left,
            self._converter,
            index=received.index,
            pts_ns=received.pts_ns,
            keyframe=bool(frame.key_frame),
            right=right,
        )

    def stop(self) -> None:
        """End `scan` after the frame it is at, also while it waits for a connection."""
        self._supervisor.stop()

    def close(self) -> None:
        """Close the connection."""
        self._supervisor.close()
        self._report()
        dropped, received = self._supervisor.queue.dropped, self._supervisor.received
        if dropped > WARN_DROPPED_SHARE * received:
            self._warn(
                f"{dropped} of {received} frames were dropped: the chain is slower than the "
                "camera; take fewer (sample.max_fps) or smaller ones (decode.max_side)"
            )

    def _report_if_due(self) -> None:
        if self._supervisor.warnings or time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self._report()

    def _report(self) -> None:
        """Pass on warnings and figures: only ever from the thread that reads."""
        supervisor = self._supervisor
        self._reported_at = time.monotonic()
        while supervisor.warnings:
            self._warn(supervisor.warnings.popleft())
        dropped = supervisor.queue.dropped + supervisor.too_fast
        self._measure("received_frames", supervisor.received)
        self._measure("dropped_frames", dropped)
        self._measure("dropped_share", dropped / max(1, supervisor.received))
        self._measure("damaged_frames", supervisor.damaged)
        self._measure("segments", supervisor.segments)
        self._measure("reconnects", supervisor.reconnects)
        self._measure("stream_s", round(supervisor.seconds, 3))


def _aspect(said: Any) -> Fraction:
    if not said:
        return Fraction(1)
    ratio = Fraction(int(said.numerator), int(said.denominator))
    return ratio if Fraction(1, 8) <= ratio <= 8 else Fraction(1)
