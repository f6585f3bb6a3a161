"""As many frames as the motion asks for, sharp ones, and never across a cut: the default.

Every frame is decoded once and looked at as a small luma preview; only those kept are converted.
A frame is kept when the picture has moved by `motion` of its width since the last one kept, or
when `1 / min_fps` has passed. Memory is bounded by a few frames.

Images without times of their own may lie any way apart: among them only the motion counts, and
none of them is a cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

import cv2
from pydantic import Field, model_validator

from pipeline.messages import Frames
from pipeline.source import Picture, Reader
from pipeline.stage import Context, Stage
from stages.sample._clips import Kept, SampleOptions, clips, keep, sharpness_of, stretches
from stages.sample._shots import Look, Matcher, looks, shots

__all__ = ["Config", "Model"]

SHARPER = 1.15
"""How much sharper a neighbour must be to be taken instead: less is noise."""
NEIGHBOURS = 3
"""How many of the latest frames are weighed against one another."""
PROGRESS_EVERY = 32


class Config(SampleOptions):
    """Options of `sample/adaptive`."""

    min_fps: float = Field(5.0, gt=0, le=240, description="frames a second of a still camera")
    max_fps: float = Field(15.0, gt=0, le=240, description="frames a second under fast motion")
    motion: float = Field(
        0.015, gt=0, le=0.5, description="motion between kept frames, as a fraction of the width"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_fps < self.min_fps:
            raise ValueError(
                f"max_fps ({self.max_fps:g}) must be at least min_fps ({self.min_fps:g})"
            )
        return self


class Model(Stage[Config]):
    """Keeps frames by motion, time and sharpness; numbers the shots."""

    isolated = True

    def open(self, context: Context) -> None:
        """Hold OpenCV to the threads that are allowed."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, reader: Reader) -> Iterator[Frames]:
        """Take frames as they are decoded and group them into clips."""
        shot = 0
        for pictures in stretches(reader):
            kept = self._take(reader, pictures, shot)
            seconds, frames = self.config.clip_s, self.config.clip_frames
            for clip in clips(reader, kept, frames=frames, seconds=seconds):
                yield clip
                shot = clip.shot + 1

    def _take(self, reader: Reader, pictures: Iterator[Picture], first_shot: int) -> Iterator[Kept]:
        matcher = Matcher()
        seen: Iterator[Look] = looks(pictures)
        camera = reader.probe.kind == "camera"
        if not camera:
            seen = self._counted(seen, reader)
        timed = camera or reader.probe.fps is not None
        if timed:
            seen = shots(seen, matcher)
        for look, sharpness in self._select(seen, matcher, timed=timed):
            yield keep(look.picture, shot=first_shot + look.shot, sharpness=sharpness)

    def _counted(self, seen: Iterable[Look], reader: Reader) -> Iterator[Look]:
        total = len(reader.timeline().index)
        for done, look in enumerate(seen, start=1):
            yield look
            if done % PROGRESS_EVERY == 0 or done == total:
                self.progress(done, total)

    def _select(
        self, seen: Iterable[Look], matcher: Matcher, *, timed: bool
    ) -> Iterator[tuple[Look, float]]:
        """Yield the frames to keep with their sharpness."""
        # Containers round times: a frame may come a little early or late.
        longest_ns = round(1.02e9 / self.config.min_fps)
        shortest_ns = round(0.95e9 / self.config.max_fps) if timed else 1
        last: Look | None = None
        before: Look | None = None
        near: list[tuple[Look, float, bool]] = []
        for look in seen:
            if last is None or look.shot != last.shot:
                if last is not None and before is not None:
                    yield from self._closing(before, last, shortest_ns)
                yield look, sharpness_of(look.luma)
                last, before, near = look, look, []
                continue
            assert before is not None
            step_ns = look.picture.pts_ns - before.picture.pts_ns
            gap_ns = look.picture.pts_ns - last.picture.pts_ns
            before = look
            if gap_ns < shortest_ns:
                continue
            motion = matcher.motion(last.preview, look.preview)
            # As good as due: a sharp one of these may stand for one that is due.
            ripe = motion > 0.6 * self.config.motion or gap_ns > 0.7 * longest_ns
            near = [*near[1 - NEIGHBOURS :], (look, sharpness_of(look.luma), ripe)]
            due = motion >= self.config.motion or gap_ns + step_ns > longest_ns
            if due:
                last, sharpness = _sharpest(near)
                near = []
                yield last, sharpness
        if last is not None and before is not None:
            yield from self._closing(before, last, shortest_ns)

    def _closing(self, end: Look, last: Look, shortest_ns: int) -> Iterator[tuple[Look, float]]:
        """Keep the last frame of a shot too, so that what happens at its end is seen."""
        if end.picture.pts_ns - last.picture.pts_ns >= shortest_ns:
            yield end, sharpness_of(end.luma)


def _sharpest(near: list[tuple[Look, float, bool]]) -> tuple[Look, float]:
    """Return the newest frame, or a ripe neighbour that is clearly sharper."""
    best, sharpness, _ = near[-1]
    for look, other, ripe in near[:-1]:
        if ripe and other > SHARPER * sharpness:
            best, sharpness = look, other
    return best, sharpness
