"""Remaining time of a run, as far as it can be known.

What is left of the videos is divided by the pace at which all of them together have moved in the
last half minute. What works on whole streams (poses, splats) is known once a stream has been
through it; until then the time is that of the videos alone, and says so. A camera has no end,
and where a container does not state its duration it is unknown.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pipeline.telemetry.status import RunStatus, StageStatus

__all__ = ["Estimate", "TimeLeft"]

WINDOW_S = 30.0
LEAST_S = 3.0
"""A pace measured over less would jump."""
ENDED = ("made", "failed")


@dataclass(frozen=True, kw_only=True)
class TimeLeft:
    """What is left of a run."""

    seconds: float
    whole: bool
    """Whether it is all; False: until the videos have passed, with what follows unknown."""


class Estimate:
    """Follows the standing of one run; feed it every status."""

    def __init__(self) -> None:
        self._passed: deque[tuple[float, float]] = deque()
        self._busy_s: dict[str, float] = {}
        """Worker-seconds spent in each stage that takes whole streams."""
        self._before_s: float | None = None

    def take(self, now_s: float, status: RunStatus) -> TimeLeft | None:
        """Return the remaining time, or None where it is unknown.

        Args:
            now_s: Seconds of a clock that only rises.
            status: Status of the run.
        """
        self._count(now_s, status)
        running = [stream for stream in status.streams if stream.state not in ENDED]
        if any(stream.live for stream in running):
            return None
        totals = [stream.total_s for stream in running if stream.total_s is not None]
        if len(totals) < len(running):
            return None
        left_s = sum(
            max(stream.total_s - stream.reached_s, 0.0)
            for stream in running
            if stream.total_s is not None
        )
        video_s = self._video_s(left_s)
        if video_s is None:
            return None
        queued_s = [s.backlog / s.rate_per_s for s in status.stages if _clips(s) and s.rate_per_s]
        video_s += max(queued_s, default=0.0)
        later = [self._stage_s(s, len(running)) for s in status.stages if not _clips(s)]
        known = [seconds for seconds in later if seconds is not None]
        if len(known) < len(later):
            # Nothing is worse than "0 s left" for ten minutes.
            return TimeLeft(seconds=video_s, whole=False) if left_s > 0 else None
        # The slowest stage keeps up with the videos or not; the last stream then goes through all.
        work_s = max((work for work, _ in known), default=0.0)
        through_s = sum(each for _, each in known) if running else 0.0
        return TimeLeft(seconds=max(video_s + through_s, work_s), whole=True)

    def _count(self, now_s: float, status: RunStatus) -> None:
        passed = sum(s.reached_s for s in status.streams if not s.live)
        self._passed.append((now_s, passed))
        while now_s - self._passed[0][0] > WINDOW_S:
            self._passed.popleft()
        since_s = now_s - (now_s if self._before_s is None else self._before_s)
        self._before_s = now_s
        for stage in status.stages:
            if not _clips(stage):
                spent_s = self._busy_s.get(stage.name, 0.0) + stage.busy * stage.workers * since_s
                self._busy_s[stage.name] = spent_s

    def _video_s(self, left_s: float) -> float | None:
        """Return the time that so many seconds of video take at the pace of late."""
        if left_s <= 0:
            return 0.0
        (first_s, before), (last_s, after) = self._passed[0], self._passed[-1]
        if last_s - first_s < LEAST_S or after <= before:
            return None
        return left_s * (last_s - first_s) / (after - before)

    def _stage_s(self, stage: StageStatus, streams: int) -> tuple[float, float] | None:
        """Return the time for all streams that are left, and for one; None if not known yet."""
        if not streams:
            return 0.0, 0.0
        if not stage.done:
            return None
        each_s = self._busy_s.get(stage.name, 0.0) / stage.done
        return streams * each_s / max(stage.workers, 1), each_s


def _clips(stage: StageStatus) -> bool:
    return stage.unit == "clips"
