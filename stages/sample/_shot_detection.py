"""Hard cuts, found while frames stream by, from small luma previews.

A cut is a change that motion does not explain and that stands out from what went on before. The
next frame decides between a cut and a flash. Slow transitions (fades, dissolves) are no cuts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.contract import DecodedFrame
from stages.sample._clips import SHARPNESS_WIDTH_PX

__all__ = [
    "THUMBNAIL_WIDTH_PX",
    "Preview",
    "PreviewFlow",
    "ShotDetector",
    "detect_shots",
    "preview_frames",
    "with_shot",
]

Gray = npt.NDArray[np.uint8]

THUMBNAIL_WIDTH_PX = 160
"""Motion and cuts are judged at this width: DIS takes 0.15 ms a pair there."""

# Measured over 22 real clips (previews of 160 px, gray levels): at true cuts the change is 43-72
# and the correlation after motion compensation is at most .35 (.51 where the histogram changes
# by half); inside the wildest hand-held shot, change 47 goes with correlation .95.
CHANGE_LEAST = 15.0
"""Mean absolute difference below which there is no cut."""
CHANGE_RATIO = 2.5
"""How far the change must stand out from the median change before it."""
ALIKE = 0.45
"""Correlation after motion compensation below which two frames show different scenes."""
ALIKE_OTHER_TONES = 0.7
"""The same, where the histograms differ as well."""
OTHER_TONES = 0.4
"""Share of pixels that change their histogram bin."""
ACTIVITY_FRAMES = 12
ACTIVITY_PRIOR_PER_S = 80.0
"""Change expected of an unknown scene, for each second between frames: views a second apart may
differ in everything and still be one walk through one room."""


@dataclass(frozen=True)
class Preview:
    """What is known of a frame at a glance."""

    frame: DecodedFrame
    luma: Gray
    """At `SHARPNESS_WIDTH_PX`."""
    thumbnail: Gray
    """At `THUMBNAIL_WIDTH_PX`."""
    shot: int = 0


class PreviewFlow:
    """Dense flow between two previews (Kroeger et al., DIS, ECCV 2016)."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._grid: npt.NDArray[np.float32] | None = None

    def flow(self, a: Gray, b: Gray) -> npt.NDArray[np.float32]:
        """Return the flow from `a` to `b`, float32 [h, w, 2] px of the preview."""
        return self._dis.calc(a, b, None)

    def motion(self, a: Gray, b: Gray) -> float:
        """Return how far most of the picture moved, as a fraction of its width.

        The upper quartile: large enough to see what passes close by, deaf to the few worst
        vectors.
        """
        # One vector a 4x4 block: the preset computes no finer.
        flow = self.flow(a, b)[2::4, 2::4]
        speed = np.hypot(flow[..., 0], flow[..., 1]).ravel()
        rank = 3 * len(speed) // 4
        return float(np.partition(speed, rank)[rank]) / a.shape[1]

    def likeness(self, a: Gray, b: Gray) -> float:
        """Return the correlation of `a` with `b` after motion compensation, -1..1."""
        flow = self.flow(a, b)
        if self._grid is None or self._grid.shape != flow.shape:
            h, w = a.shape
            self._grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float32)
        warped = cv2.remap(
            b, self._grid + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        x, y = a.astype(np.float32), warped.astype(np.float32)
        x -= x.mean()
        y -= y.mean()
        scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
        return float((x * y).sum()) / scale if scale > 1 else 1.0


def preview_frames(frames: Iterable[DecodedFrame]) -> Iterator[Preview]:
    """Look at every frame without converting it."""
    for frame in frames:
        luma = frame.luma(SHARPNESS_WIDTH_PX)
        h = max(16, round(luma.shape[0] * THUMBNAIL_WIDTH_PX / SHARPNESS_WIDTH_PX))
        thumbnail = cv2.resize(luma, (THUMBNAIL_WIDTH_PX, h), interpolation=cv2.INTER_AREA)
        yield Preview(frame, luma, thumbnail)


@dataclass
class ShotDetector:
    """What the search for cuts remembers between two frames."""

    shot: int = 0
    activity: deque[float] = field(default_factory=lambda: deque(maxlen=ACTIVITY_FRAMES))
    before: Preview | None = None
    waiting: Preview | None = None
    """A frame that looks like a cut: the one after it decides."""
    ready: deque[Preview] = field(default_factory=deque[Preview])
    """Numbered frames, not handed out yet."""

    def snapshot(self) -> dict[str, Any]:
        """Return it as plain data; frames by their number in the source."""
        return {
            "shot": self.shot,
            "activity": list(self.activity),
            "before": self.before and self.before.frame.index,
            "waiting": self.waiting and self.waiting.frame.index,
            "ready": [(preview.frame.index, preview.shot) for preview in self.ready],
        }

    @classmethod
    def restored(cls, state: dict[str, Any], previews: Mapping[int, Preview]) -> ShotDetector:
        """Return what `snapshot` described, with a new look at its frames."""
        before, waiting = state["before"], state["waiting"]
        return cls(
            state["shot"],
            deque(state["activity"], ACTIVITY_FRAMES),
            None if before is None else previews[before],
            None if waiting is None else previews[waiting],
            deque(with_shot(previews[index], shot) for index, shot in state["ready"]),
        )


def detect_shots(
    previews: Iterable[Preview], matcher: PreviewFlow, state: ShotDetector
) -> Iterator[Preview]:
    """Number the shots. What `state` holds is complete whenever a frame is handed out."""
    yield from _drained(state.ready)
    for preview in previews:
        _number(preview, matcher, state)
        yield from _drained(state.ready)
    if state.waiting is not None:
        last, state.waiting = state.waiting, None
        yield with_shot(last, state.shot + 1)


def _drained(ready: deque[Preview]) -> Iterator[Preview]:
    while ready:
        yield ready.popleft()


def _number(preview: Preview, matcher: PreviewFlow, state: ShotDetector) -> None:
    if state.before is None:
        state.before = preview
        state.ready.append(preview)
        return
    if state.waiting is not None:
        if matcher.likeness(state.before.thumbnail, preview.thumbnail) < ALIKE_OTHER_TONES:
            state.shot += 1
            state.activity.clear()
        state.ready.append(with_shot(state.waiting, state.shot))
        state.before, state.waiting = state.waiting, None
    before = state.before
    change = _change(before.thumbnail, preview.thumbnail)
    gap_s = (preview.frame.pts_ns - before.frame.pts_ns) / 1e9
    # The frame after a cut says how lively the new shot is: it is no cut itself.
    begins = state.shot > 0 and not state.activity
    if not begins and _cuts(before, preview, change, _typical(state.activity, gap_s), matcher):
        state.waiting = preview
        return
    state.activity.append(change)
    state.before = preview
    state.ready.append(with_shot(preview, state.shot))


def with_shot(preview: Preview, shot: int) -> Preview:
    """Return the look as one of another shot."""
    return (
        preview
        if preview.shot == shot
        else Preview(preview.frame, preview.luma, preview.thumbnail, shot)
    )


def _change(a: Gray, b: Gray) -> float:
    return float(cv2.norm(a, b, cv2.NORM_L1)) / a.size


def _typical(activity: deque[float], gap_s: float) -> float:
    prior = [ACTIVITY_PRIOR_PER_S * gap_s] * (ACTIVITY_FRAMES // 2 - len(activity))
    return float(np.median([*activity, *prior]))


def _cuts(
    before: Preview, preview: Preview, change: float, typical: float, matcher: PreviewFlow
) -> bool:
    if change < CHANGE_LEAST or change < CHANGE_RATIO * typical:
        return False
    likeness = matcher.likeness(before.thumbnail, preview.thumbnail)
    if likeness < ALIKE:
        return True
    tones = 0.5 * np.abs(_histogram(before.thumbnail) - _histogram(preview.thumbnail)).sum()
    return bool(likeness < ALIKE_OTHER_TONES and tones > OTHER_TONES)


def _histogram(thumbnail: Gray) -> npt.NDArray[np.float64]:
    return np.bincount(thumbnail.ravel() >> 3, minlength=32) / thumbnail.size
