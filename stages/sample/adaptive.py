"""As many frames as the motion asks for, sharp ones, and never across a cut: the default.

Every frame is decoded once and looked at as a small luma preview; only those kept are converted.
A frame is kept when the picture has moved by `motion` of its width since the last one kept, or
when `1 / min_fps` has passed. Memory is bounded by a few frames.

Images without times of their own may lie any way apart: among them only the motion counts, and
none of them is a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import cv2
from pydantic import Field, model_validator

from pipeline.contract import Context, Frames, Reader, Stage
from stages.sample._clips import SampleOptions, SelectedFrame, clips, keep, sharpness_of, stretches
from stages.sample._cursor import CarryOver, Cursor
from stages.sample._shots import Preview, PreviewFlow, ShotDetector, in_shot, looks, shots

__all__ = ["Config", "Model"]

SHARPER = 1.15
"""How much sharper a neighbor must be to be taken instead: less is noise."""
NEIGHBORS = 3
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


@dataclass
class SelectionState:
    """What the choice of frames remembers between two of them."""

    last: Preview | None = None
    """The last frame kept."""
    before: Preview | None = None
    """The frame before the next one."""
    near: list[tuple[Preview, float, bool]] = field(
        default_factory=list[tuple[Preview, float, bool]]
    )
    """The latest frames with their sharpness, and whether each may stand for one that is due."""
    ready: deque[tuple[Preview, float]] = field(default_factory=deque[tuple[Preview, float]])
    """Kept frames with their sharpness, not handed out yet."""

    def snapshot(self) -> dict[str, Any]:
        """Return it as plain data; frames by their number in the source, and their shot."""
        return {
            "last": self.last and _named(self.last),
            "before": self.before and _named(self.before),
            "near": [(*_named(look), sharp, ripe) for look, sharp, ripe in self.near],
            "ready": [(*_named(look), sharp) for look, sharp in self.ready],
        }

    @classmethod
    def restored(cls, state: dict[str, Any], seen: Mapping[int, Preview]) -> SelectionState:
        """Return what `snapshot` described, with a new look at its frames."""

        def look(index: int, shot: int) -> Preview:
            return in_shot(seen[index], shot)

        return cls(
            state["last"] and look(*state["last"]),
            state["before"] and look(*state["before"]),
            [(look(index, shot), sharp, ripe) for index, shot, sharp, ripe in state["near"]],
            deque((look(index, shot), sharp) for index, shot, sharp in state["ready"]),
        )


class Model(Stage[Config]):
    """Keeps frames by motion, time and sharpness; numbers the shots."""

    isolated = True

    def open(self, context: Context) -> None:
        """Hold OpenCV to the threads that are allowed."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, reader: Reader) -> Iterator[Frames]:
        """Take frames as they are decoded and group them into clips."""
        if reader.probe.kind == "camera":
            return self._from_camera(reader)
        return self._from_file(reader)

    def snapshot(self) -> dict[str, Any] | None:
        """Return where it stands between two clips; None with a camera."""
        if self._course is None:
            return None
        pending = len(self._carry.frames) > self._carry.shared
        waiting = pending or bool(self._shots.ready or self._choice.ready)
        course = self._course.snapshot(waiting=waiting)
        return course and {
            "course": course,
            "carry": self._carry.snapshot(),
            "shots": self._shots.snapshot(),
            "choice": self._choice.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Let `process` yield the clips after a snapshot."""
        self._restored = state

    _course: Cursor | None = None
    _restored: dict[str, Any] | None = None

    def _from_camera(self, reader: Reader) -> Iterator[Frames]:
        shot = 0
        for pictures in stretches(reader):
            matcher = PreviewFlow()
            seen = shots(looks(pictures), matcher, ShotDetector())
            kept = self._kept(self._select(seen, matcher, SelectionState(), timed=True), shot)
            seconds, frames = self.config.clip_s, self.config.clip_frames
            for clip in clips(reader, kept, frames=frames, seconds=seconds):
                yield clip
                shot = clip.shot + 1

    def _from_file(self, reader: Reader) -> Iterator[Frames]:
        self._course = course = Cursor(reader, reader.timeline().index.tolist())
        self._carry, self._shots, self._choice = CarryOver(), ShotDetector(), SelectionState()
        carried: list[SelectedFrame] = []
        if self._restored is not None and not self._restored["course"]["over"]:
            carried = self._go_on(course, self._restored)
        elif self._restored is not None:
            return iter(())
        matcher = PreviewFlow()
        seen: Iterator[Preview] = self._counted(looks(course), course)
        timed = reader.probe.fps is not None
        if timed:
            seen = shots(seen, matcher, self._shots)
        kept = self._kept(self._select(seen, matcher, self._choice, timed=timed))
        return clips(
            reader,
            chain(carried, kept),
            frames=self.config.clip_frames,
            seconds=self.config.clip_s,
            carry=self._carry,
        )

    def _go_on(self, course: Cursor, state: dict[str, Any]) -> list[SelectedFrame]:
        """Take up everything where a snapshot left it; return how the next clip begins."""
        carry, cuts, choice = state["carry"], state["shots"], state["choice"]
        needed = [index for index, _, _ in carry["frames"]]
        needed += [index for index in (cuts["before"], cuts["waiting"]) if index is not None]
        needed += [row[0] for row in (choice["last"], choice["before"]) if row is not None]
        needed += [row[0] for row in (*cuts["ready"], *choice["near"], *choice["ready"])]
        pictures = course.go_on(state["course"], needed)
        seen = {look.picture.index: look for look in looks(pictures.values())}
        self._carry = CarryOver.restored(carry)
        self._shots = ShotDetector.restored(cuts, seen)
        self._choice = SelectionState.restored(choice, seen)
        return [
            keep(pictures[index], shot=shot, sharpness=sharpness)
            for index, sharpness, shot in self._carry.frames
        ]

    def _kept(
        self, chosen: Iterable[tuple[Preview, float]], first_shot: int = 0
    ) -> Iterator[SelectedFrame]:
        for look, sharpness in chosen:
            yield keep(look.picture, shot=first_shot + look.shot, sharpness=sharpness)

    def _counted(self, seen: Iterable[Preview], course: Cursor) -> Iterator[Preview]:
        for look in seen:
            yield look
            if course.done % PROGRESS_EVERY == 0 or course.done == course.total:
                self.progress(course.done, course.total)

    def _select(
        self, seen: Iterable[Preview], matcher: PreviewFlow, choice: SelectionState, *, timed: bool
    ) -> Iterator[tuple[Preview, float]]:
        """Yield the frames to keep with their sharpness; `choice` is complete at every one."""
        # Containers round times: a frame may come a little early or late.
        shortest_ns = round(0.95e9 / self.config.max_fps) if timed else 1
        while choice.ready:
            yield choice.ready.popleft()
        for look in seen:
            self._weigh(look, matcher, choice, shortest_ns)
            while choice.ready:
                yield choice.ready.popleft()
        _close(choice, shortest_ns)
        while choice.ready:
            yield choice.ready.popleft()

    def _weigh(
        self, look: Preview, matcher: PreviewFlow, choice: SelectionState, shortest_ns: int
    ) -> None:
        last, before = choice.last, choice.before
        if last is None or before is None or look.shot != last.shot:
            _close(choice, shortest_ns)
            choice.ready.append((look, sharpness_of(look.luma)))
            choice.last, choice.before, choice.near = look, look, []
            return
        longest_ns = round(1.02e9 / self.config.min_fps)
        step_ns = look.picture.pts_ns - before.picture.pts_ns
        gap_ns = look.picture.pts_ns - last.picture.pts_ns
        choice.before = look
        if gap_ns < shortest_ns:
            return
        motion = matcher.motion(last.preview, look.preview)
        # As good as due: a sharp one of these may stand for one that is due.
        ripe = motion > 0.6 * self.config.motion or gap_ns > 0.7 * longest_ns
        choice.near = [*choice.near[1 - NEIGHBORS :], (look, sharpness_of(look.luma), ripe)]
        if motion >= self.config.motion or gap_ns + step_ns > longest_ns:
            choice.last, sharpness = _sharpest(choice.near)
            choice.near = []
            choice.ready.append((choice.last, sharpness))


def _named(look: Preview) -> tuple[int, int]:
    return look.picture.index, look.shot


def _close(choice: SelectionState, shortest_ns: int) -> None:
    """Keep the last frame of a shot too, so that what happens at its end is seen."""
    end, last = choice.before, choice.last
    if end is None or last is None:
        return
    if end.picture.pts_ns - last.picture.pts_ns >= shortest_ns:
        choice.ready.append((end, sharpness_of(end.luma)))


def _sharpest(near: list[tuple[Preview, float, bool]]) -> tuple[Preview, float]:
    """Return the newest frame, or a ripe neighbor that is clearly sharper."""
    best, sharpness, _ = near[-1]
    for look, other, ripe in near[:-1]:
        if ripe and other > SHARPER * sharpness:
            best, sharpness = look, other
    return best, sharpness
