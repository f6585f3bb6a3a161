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
from stages.sample._clips import (
    SampleOptions,
    SelectedFrame,
    clips,
    contiguous_scans,
    convert,
    sharpness_of,
)
from stages.sample._cursor import CarryOver, Cursor
from stages.sample._shot_detection import (
    Preview,
    PreviewFlow,
    ShotDetector,
    detect_shots,
    preview_frames,
    with_shot,
)

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
            "near": [(*_named(preview), sharp, ripe) for preview, sharp, ripe in self.near],
            "ready": [(*_named(preview), sharp) for preview, sharp in self.ready],
        }

    @classmethod
    def restored(cls, state: dict[str, Any], previews: Mapping[int, Preview]) -> SelectionState:
        """Return what `snapshot` described, with a new look at its frames."""

        def preview(index: int, shot: int) -> Preview:
            return with_shot(previews[index], shot)

        return cls(
            state["last"] and preview(*state["last"]),
            state["before"] and preview(*state["before"]),
            [(preview(index, shot), sharp, ripe) for index, shot, sharp, ripe in state["near"]],
            deque((preview(index, shot), sharp) for index, shot, sharp in state["ready"]),
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
        if self._cursor is None:
            return None
        pending = len(self._carry_over.frames) > self._carry_over.shared
        waiting = pending or bool(self._shot_detector.ready or self._selection.ready)
        cursor = self._cursor.snapshot(waiting=waiting)
        return cursor and {
            "course": cursor,
            "carry": self._carry_over.snapshot(),
            "shots": self._shot_detector.snapshot(),
            "choice": self._selection.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Let `process` yield the clips after a snapshot."""
        self._restored = state

    _cursor: Cursor | None = None
    _restored: dict[str, Any] | None = None

    def _from_camera(self, reader: Reader) -> Iterator[Frames]:
        shot = 0
        for scan in contiguous_scans(reader):
            matcher = PreviewFlow()
            previews = detect_shots(preview_frames(scan), matcher, ShotDetector())
            selected = self._selected(
                self._select(previews, matcher, SelectionState(), timed=True), shot
            )
            seconds, frames = self.config.clip_s, self.config.clip_frames
            for clip in clips(reader, selected, frames=frames, seconds=seconds):
                yield clip
                shot = clip.shot + 1

    def _from_file(self, reader: Reader) -> Iterator[Frames]:
        self._cursor = cursor = Cursor(reader, reader.timeline().index)
        self._carry_over, self._shot_detector, self._selection = (
            CarryOver(),
            ShotDetector(),
            SelectionState(),
        )
        carried_over: list[SelectedFrame] = []
        if self._restored is not None and not self._restored["course"]["over"]:
            carried_over = self._resume(cursor, self._restored)
        elif self._restored is not None:
            return iter(())
        matcher = PreviewFlow()
        previews: Iterator[Preview] = self._counted(preview_frames(cursor), cursor)
        timed = reader.probe.fps is not None
        if timed:
            previews = detect_shots(previews, matcher, self._shot_detector)
        selected = self._selected(self._select(previews, matcher, self._selection, timed=timed))
        return clips(
            reader,
            chain(carried_over, selected),
            frames=self.config.clip_frames,
            seconds=self.config.clip_s,
            carry_over=self._carry_over,
        )

    def _resume(self, cursor: Cursor, state: dict[str, Any]) -> list[SelectedFrame]:
        """Take up everything where a snapshot left it; return how the next clip begins."""
        carry_over, cuts, selection = state["carry"], state["shots"], state["choice"]
        needed = [index for index, _, _ in carry_over["frames"]]
        needed += [index for index in (cuts["before"], cuts["waiting"]) if index is not None]
        needed += [row[0] for row in (selection["last"], selection["before"]) if row is not None]
        needed += [row[0] for row in (*cuts["ready"], *selection["near"], *selection["ready"])]
        frames = cursor.resume(state["course"], needed)
        previews = {preview.frame.index: preview for preview in preview_frames(frames.values())}
        self._carry_over = CarryOver.restored(carry_over)
        self._shot_detector = ShotDetector.restored(cuts, previews)
        self._selection = SelectionState.restored(selection, previews)
        return [
            convert(frames[index], shot=shot, sharpness=sharpness)
            for index, sharpness, shot in self._carry_over.frames
        ]

    def _selected(
        self, chosen: Iterable[tuple[Preview, float]], first_shot: int = 0
    ) -> Iterator[SelectedFrame]:
        for preview, sharpness in chosen:
            yield convert(preview.frame, shot=first_shot + preview.shot, sharpness=sharpness)

    def _counted(self, previews: Iterable[Preview], cursor: Cursor) -> Iterator[Preview]:
        for preview in previews:
            yield preview
            if cursor.done % PROGRESS_EVERY == 0 or cursor.done == cursor.total:
                self.progress(cursor.done, cursor.total)

    def _select(
        self,
        previews: Iterable[Preview],
        matcher: PreviewFlow,
        selection: SelectionState,
        *,
        timed: bool,
    ) -> Iterator[tuple[Preview, float]]:
        """Yield the frames to keep with their sharpness; `selection` is complete at every one."""
        # Containers round times: a frame may come a little early or late.
        shortest_ns = round(0.95e9 / self.config.max_fps) if timed else 1
        while selection.ready:
            yield selection.ready.popleft()
        for preview in previews:
            self._weigh(preview, matcher, selection, shortest_ns)
            while selection.ready:
                yield selection.ready.popleft()
        _close(selection, shortest_ns)
        while selection.ready:
            yield selection.ready.popleft()

    def _weigh(
        self, preview: Preview, matcher: PreviewFlow, selection: SelectionState, shortest_ns: int
    ) -> None:
        last, before = selection.last, selection.before
        if last is None or before is None or preview.shot != last.shot:
            _close(selection, shortest_ns)
            selection.ready.append((preview, sharpness_of(preview.luma)))
            selection.last, selection.before, selection.near = preview, preview, []
            return
        longest_ns = round(1.02e9 / self.config.min_fps)
        step_ns = preview.frame.pts_ns - before.frame.pts_ns
        gap_ns = preview.frame.pts_ns - last.frame.pts_ns
        selection.before = preview
        if gap_ns < shortest_ns:
            return
        motion = matcher.motion(last.thumbnail, preview.thumbnail)
        # As good as due: a sharp one of these may stand for one that is due.
        ripe = motion > 0.6 * self.config.motion or gap_ns > 0.7 * longest_ns
        selection.near = [
            *selection.near[1 - NEIGHBORS :],
            (preview, sharpness_of(preview.luma), ripe),
        ]
        if motion >= self.config.motion or gap_ns + step_ns > longest_ns:
            selection.last, sharpness = _sharpest(selection.near)
            selection.near = []
            selection.ready.append((selection.last, sharpness))


def _named(preview: Preview) -> tuple[int, int]:
    return preview.frame.index, preview.shot


def _close(selection: SelectionState, shortest_ns: int) -> None:
    """Keep the last frame of a shot too, so that what happens at its end is seen."""
    end, last = selection.before, selection.last
    if end is None or last is None:
        return
    if end.frame.pts_ns - last.frame.pts_ns >= shortest_ns:
        selection.ready.append((end, sharpness_of(end.luma)))


def _sharpest(near: list[tuple[Preview, float, bool]]) -> tuple[Preview, float]:
    """Return the newest frame, or a ripe neighbor that is clearly sharper."""
    best, sharpness, _ = near[-1]
    for preview, other, ripe in near[:-1]:
        if ripe and other > SHARPER * sharpness:
            best, sharpness = preview, other
    return best, sharpness
