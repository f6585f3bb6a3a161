"""Supervises the connection to a camera: reconnects, and queues the frames that arrive.

A thread of its own connects, watches the connection, and connects again when it is lost, at
growing intervals with some chance in them, so that many readers do not come back at once. The
frames wait in a queue that drops the oldest: a slow chain never holds up the camera.
"""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av

from pipeline.contract import Source
from pipeline.errors import SourceError
from stages.decode._camera.clock import CameraClock
from stages.decode._camera.connection import Connection, ReceivedFrame, StreamFormat
from stages.decode._camera.drop_oldest import DropOldest
from stages.decode._error_text import named

if TYPE_CHECKING:
    from stages.decode._camera.options import Config

__all__ = ["ConnectionSupervisor", "Received"]

WATCH_S = 0.05
GRACE_S = 2.0
"""How much later than FFmpeg's own limits a connection counts as hung."""
NO_FRAME_S = 10.0
"""A connection that sends, but no picture that can be decoded, is given up after this."""
REFUSED_S = 30.0
"""Cameras lock out who tries wrong passwords in a row."""
MAX_HUNG_CONNECTIONS = 16
"""Connections that hung, each a thread and its memory: with more of them something is wrong."""
MAX_REPORTED_BREAKS = 20
"""Breaks that are told one by one; the rest is counted."""


@dataclass(frozen=True)
class Received:
    """A picture in its place."""

    frame: av.VideoFrame
    index: int
    pts_ns: int
    segment: int
    """Number of the connection it came over, from 0, of those that gave pictures."""


class ConnectionSupervisor:
    """Keeps the connection up from `start` until `close`, `stop` or the end of the time."""

    def __init__(self, source: Source, options: Config) -> None:
        self._source, self._options = source, options
        self._clock = CameraClock()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._jitter = random.Random()
        self._current: Connection | None = None
        self._delivering: Connection | None = None
        self._hung_connections: list[Connection] = []
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self.queue: DropOldest[Received] = DropOldest(
            options.buffer_frames, options.buffer_mb * 2**20
        )
        self.warnings: deque[str] = deque()
        """Warnings that nobody has passed on yet."""
        self.failed: SourceError | None = None
        """Why there never was a picture."""
        self.first_received = threading.Event()
        """Set with the first picture, or when it is clear that there will be none."""
        self.stream: StreamFormat | None = None
        self.finished = False
        """Whether nothing more will come."""
        self.closed = -1
        """The last segment that is complete."""
        self.segments = self.reconnects = self.received = self.damaged = self.too_fast = 0
        self.seconds = 0.0
        """Of stream, from the first picture to the last."""
        self._first_at = self._last_at = 0.0
        self._breaks = 0

    def start(self) -> None:
        """Connect, and keep connected."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more pictures, at once."""
        self._stop.set()
        self.queue.close()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def close(self) -> None:
        """Stop, and wait a little for the connection to be closed."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(1.0)
        connection = self._current
        if connection is not None and connection.is_alive():
            connection.join(1.0)

    def take(self, connection: Connection, received: ReceivedFrame) -> None:
        """Number and time a frame, and put it into the queue."""
        now_ns = time.monotonic_ns()
        with self._lock:
            if connection is not self._current or self.finished:
                return
            if self._delivering is not connection:
                self._delivering = connection
                self._begin_segment(connection)
            before_ns = round(self.seconds * 1e9)
            pts_ns = self._clock.place(received.camera_pts_ns, now_ns)
            index, self.received = self.received, self.received + 1
            if index and pts_ns - before_ns < 0.5e9 / self._options.max_fps:
                self.too_fast += 1
                return
            self.seconds = pts_ns / 1e9
            self._last_at = time.monotonic()
            placed = Received(received.frame, index, pts_ns, self.segments - 1)
        self.queue.put(placed, sum(plane.buffer_size for plane in received.frame.planes))
        self.first_received.set()

    def _begin_segment(self, connection: Connection) -> None:
        self._clock.begin()
        if connection.stream is not None and connection.stream.fps:
            self._clock.step_ns = round(1e9 / connection.stream.fps)
        if not self.segments:
            self.stream = connection.stream
            self._first_at = time.monotonic()
        else:
            self.reconnects += 1
            away_s = time.monotonic() - self._last_at
            if self._breaks <= MAX_REPORTED_BREAKS:
                self._report(f"the camera was back after {away_s:.1f} s")
        self.segments += 1

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stop.is_set():
                connection = self._connect_once()
                failures = 0 if connection.frames_decoded else failures + 1
                if self._is_last(connection):
                    return
                wait_s = min(
                    self._options.retry_first_s * 2.0 ** min(failures, 20),
                    self._options.retry_longest_s,
                )
                if connection.refused:
                    wait_s = max(wait_s, REFUSED_S)
                self._pause(wait_s * self._jitter.uniform(0.5, 1.0))
        finally:
            with self._lock:
                self.finished = True
                self.closed = self.segments - 1
            self.queue.close()
            self.first_received.set()

    def _connect_once(self) -> Connection:
        """Make one connection and stay until it is over."""
        connection = Connection(self._source, self._options, self)
        with self._lock:
            self._current = connection
        connection.start()
        while not connection.ended.wait(WATCH_S):
            hung = self._why_hung(connection)
            if hung:
                connection.why = hung
                self._hung_connections.append(connection)
            if hung or self._stop.is_set() or self._time_is_up():
                connection.abandon()
                break
        with self._lock:
            # From here on nothing of this connection is taken, even where its thread goes on.
            self._current = None
            self.closed = self.segments - 1
            self.damaged += connection.damaged
        return connection

    def _why_hung(self, connection: Connection) -> str:
        """Return why a connection counts as hung; empty where it does not."""
        options, now = self._options, time.monotonic()
        # Connecting has two parts, each with its own limit: the dialogue and the first packets.
        limit_s = 2 * options.connect_s if connection.stream is None else options.read_s
        if now - connection.last_packet_at > limit_s + GRACE_S:
            return f"it sent nothing for {now - connection.last_packet_at:.0f} s"
        longest_s = max(NO_FRAME_S, options.read_s)
        if (
            connection.stream is not None
            and now - connection.last_frame_at > longest_s + options.connect_s
        ):
            return "it sends, but nothing that decodes to a picture"
        return ""

    def _time_is_up(self) -> bool:
        for_s = self._options.for_s
        return for_s is not None and self.segments > 0 and time.monotonic() - self._first_at > for_s

    def _is_last(self, connection: Connection) -> bool:
        """Say whether that was the last connection."""
        options = self._options
        if self._stop.is_set() or self._time_is_up():
            return True
        if not self.segments:
            shown = named(self._source)
            self.failed = connection.unfit or SourceError(
                f"cannot read {shown}: {connection.why}; check the address, the user and the "
                "password, and that the camera is on"
            )
            return True
        if connection is self._delivering:
            self._breaks += 1
            last = (
                "; further breaks are only counted" if self._breaks == MAX_REPORTED_BREAKS else ""
            )
            if self._breaks <= MAX_REPORTED_BREAKS:
                self._report(
                    f"the connection was lost at {self.seconds:.1f} s: {connection.why}{last}"
                )
        away_s = time.monotonic() - self._last_at
        if options.give_up_s is not None and away_s > options.give_up_s:
            self._report(f"the camera gave no picture for {away_s:.0f} s; the stream ends there")
            return True
        self._hung_connections = [left for left in self._hung_connections if left.is_alive()]
        if len(self._hung_connections) > MAX_HUNG_CONNECTIONS:
            self._report(f"{MAX_HUNG_CONNECTIONS} connections hung; the stream ends there")
            return True
        return False

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not (self._stop.is_set() or self._time_is_up()):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            self._stop.wait(min(left_s, 0.5))

    def _report(self, text: str) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.warnings.append(f"{at}: {text}")
