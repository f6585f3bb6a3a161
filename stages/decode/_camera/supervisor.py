"""The line to a camera that is kept up: connections one after another, and what came over them.

A thread of its own connects, watches the connection, and connects again when it is lost, at
growing intervals with some chance in them, so that many readers do not come back at once. The
pictures wait in an edge that drops the oldest: a slow chain never holds up the camera.
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
"""How much later than FFmpeg's own limits a link counts as hung."""
NO_PICTURE_S = 10.0
"""A connection that sends, but no picture that can be decoded, is given up after this."""
REFUSED_S = 30.0
"""Cameras lock out who tries wrong passwords in a row."""
MOST_LEFT_BEHIND = 16
"""Links that hung, each a thread and its memory: with more of them something is wrong here."""
MOST_TOLD = 20
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
        self._chance = random.Random()
        self._link: Connection | None = None
        self._counted: Connection | None = None
        self._left_behind: list[Connection] = []
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self.edge: DropOldest[Received] = DropOldest(
            options.buffer_frames, options.buffer_mb * 2**20
        )
        self.told: deque[str] = deque()
        """Warnings that nobody has passed on yet."""
        self.failed: SourceError | None = None
        """Why there never was a picture."""
        self.first = threading.Event()
        """Set with the first picture, or when it is clear that there will be none."""
        self.stream: StreamFormat | None = None
        self.over = False
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
        self.edge.close()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def close(self) -> None:
        """Stop, and wait a little for the connection to be closed."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(1.0)
        link = self._link
        if link is not None and link.is_alive():
            link.join(1.0)

    def take(self, link: Connection, shot: ReceivedFrame) -> None:
        """Give a picture its place and put it into the edge."""
        now_ns = time.monotonic_ns()
        with self._lock:
            if link is not self._link or self.over:
                return
            if self._counted is not link:
                self._counted = link
                self._begin_segment(link)
            before_ns = round(self.seconds * 1e9)
            pts_ns = self._clock.place(shot.said_ns, now_ns)
            index, self.received = self.received, self.received + 1
            if index and pts_ns - before_ns < 0.5e9 / self._options.max_fps:
                self.too_fast += 1
                return
            self.seconds = pts_ns / 1e9
            self._last_at = time.monotonic()
            picture = Received(shot.frame, index, pts_ns, self.segments - 1)
        self.edge.put(picture, sum(plane.buffer_size for plane in shot.frame.planes))
        self.first.set()

    def _begin_segment(self, link: Connection) -> None:
        self._clock.begin()
        if link.stream is not None and link.stream.fps:
            self._clock.step_ns = round(1e9 / link.stream.fps)
        if not self.segments:
            self.stream = link.stream
            self._first_at = time.monotonic()
        else:
            self.reconnects += 1
            away_s = time.monotonic() - self._last_at
            if self._breaks <= MOST_TOLD:
                self._tell(f"the camera was back after {away_s:.1f} s")
        self.segments += 1

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stop.is_set():
                link = self._connection()
                failures = 0 if link.pictures else failures + 1
                if self._ends(link):
                    return
                wait_s = min(
                    self._options.retry_first_s * 2.0 ** min(failures, 20),
                    self._options.retry_longest_s,
                )
                if link.refused:
                    wait_s = max(wait_s, REFUSED_S)
                self._pause(wait_s * self._chance.uniform(0.5, 1.0))
        finally:
            with self._lock:
                self.over = True
                self.closed = self.segments - 1
            self.edge.close()
            self.first.set()

    def _connection(self) -> Connection:
        """Make one connection and stay until it is over."""
        link = Connection(self._source, self._options, self)
        with self._lock:
            self._link = link
        link.start()
        while not link.ended.wait(WATCH_S):
            hung = self._hung(link)
            if hung:
                link.why = hung
                self._left_behind.append(link)
            if hung or self._stop.is_set() or self._time_is_up():
                link.leave()
                break
        with self._lock:
            # From here on nothing of this link is taken, even where its thread goes on.
            self._link = None
            self.closed = self.segments - 1
            self.damaged += link.damaged
        return link

    def _hung(self, link: Connection) -> str:
        """Say why a link is to be left behind; empty where it is not."""
        options, now = self._options, time.monotonic()
        # Connecting has two parts, each with its own limit: the dialogue and the first packets.
        limit_s = 2 * options.connect_s if link.stream is None else options.read_s
        if now - link.sign_at > limit_s + GRACE_S:
            return f"it sent nothing for {now - link.sign_at:.0f} s"
        longest_s = max(NO_PICTURE_S, options.read_s)
        if link.stream is not None and now - link.picture_at > longest_s + options.connect_s:
            return "it sends, but nothing that decodes to a picture"
        return ""

    def _time_is_up(self) -> bool:
        for_s = self._options.for_s
        return for_s is not None and self.segments > 0 and time.monotonic() - self._first_at > for_s

    def _ends(self, link: Connection) -> bool:
        """Say whether that was the last connection."""
        options = self._options
        if self._stop.is_set() or self._time_is_up():
            return True
        if not self.segments:
            shown = named(self._source)
            self.failed = link.unfit or SourceError(
                f"cannot read {shown}: {link.why}; check the address, the user and the password, "
                "and that the camera is on"
            )
            return True
        if link is self._counted:
            self._breaks += 1
            last = "; further breaks are only counted" if self._breaks == MOST_TOLD else ""
            if self._breaks <= MOST_TOLD:
                self._tell(f"the connection was lost at {self.seconds:.1f} s: {link.why}{last}")
        away_s = time.monotonic() - self._last_at
        if options.give_up_s is not None and away_s > options.give_up_s:
            self._tell(f"the camera gave no picture for {away_s:.0f} s; the stream ends there")
            return True
        self._left_behind = [left for left in self._left_behind if left.is_alive()]
        if len(self._left_behind) > MOST_LEFT_BEHIND:
            self._tell(f"{MOST_LEFT_BEHIND} connections hung; the stream ends there")
            return True
        return False

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not (self._stop.is_set() or self._time_is_up()):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            self._stop.wait(min(left_s, 0.5))

    def _tell(self, text: str) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.told.append(f"{at}: {text}")
