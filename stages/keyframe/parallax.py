"""Keyframes by image motion: the sharpest frame each time the picture has moved far enough.

A source of no more than `min_keyframes` frames is taken whole. Otherwise a grid of points is
followed through the flow from every candidate. Once the median point has moved `step` of the
longer side since the last keyframe, or too few points can still be followed, the sharpest recent
candidate becomes a keyframe. So a still camera gives a handful, a fast one many, and frames
between which flow breaks (one photo a second) are all kept.

Memory is bounded: the frames chosen at first lie closer together than they need to; when they
grow too many, the step is raised and they are thinned evenly; at the end of the stream they are
thinned to `step`, or to what keeps `min_keyframes` of a short or slow one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context, Frames, Keyframes, Masks, Motion, Options, Stage
from stages.keyframe._masks import row_of, stacked_masks
from stages.keyframe._tracks import PointTracks, parallax_between

__all__ = ["Config", "Model"]

FINE = 0.35
"""Frames are collected at this share of the step, so that thinning has a choice."""
NEIGHBORHOOD = 0.6
"""Candidates are frames that have moved this share of the way to the next keyframe."""
CANDIDATES = 4
"""How many of them are held at once."""
STILL = 0.004
"""Movement of the picture, as a share of its longer side, that passes for noise and shake."""


class Config(Options):
    """How densely keyframes lie.

    The default step suits depth rather than SIFT, which bears twice as much: 26 px at 640x360,
    where DIS flow to a neighboring keyframe still holds (it breaks between 27 and 49 px).
    """

    step: float = Field(
        0.04, gt=0, le=0.5, description="median image motion between keyframes, share of the width"
    )
    min_tracked: float = Field(
        0.65, ge=0, le=1, description="a keyframe is due when fewer points than this are followed"
    )
    min_keyframes: int = Field(
        24, ge=2, le=1000, description="below this many keyframes the step is made smaller"
    )
    max_keyframes: int = Field(
        160, ge=2, le=2000, description="above this many keyframes the step is made larger"
    )
    max_memory_mb: int = Field(
        500,
        ge=16,
        le=100_000,
        description="memory for the images (and depth and right views) of the keyframes",
    )


@dataclass(kw_only=True, slots=True, eq=False)
class _Frame:
    """One frame that is or may become a keyframe."""

    image: Array
    """uint8 [H, W, 3]; of a frame that is held, its own and never written to again."""
    pts_ns: int
    index: int
    sharpness: float
    shot: int
    intrinsics: Array | None
    T_world_camera: Array | None
    mask: Array | None
    """Packed."""
    tracks: PointTracks
    depth: Array | None = None
    """float32 [H, W] meters"""
    right: Array | None = None
    """uint8 [H, W, 3]"""
    way: float = 0.0
    """How far the picture has moved since the start of the shot, in longer sides."""
    own: bool = False

    def owned(self) -> _Frame:
        """Let go of the clip that the frame is a part of."""
        if not self.own:
            self.image = self.image.copy()
            self.image.flags.writeable = False
            if self.intrinsics is not None:
                self.intrinsics = self.intrinsics.copy()
            if self.T_world_camera is not None:
                self.T_world_camera = self.T_world_camera.copy()
            if self.depth is not None:
                self.depth = self.depth.copy()
                self.depth.flags.writeable = False
            if self.right is not None:
                self.right = self.right.copy()
                self.right.flags.writeable = False
            self.own = True
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of its pictures."""
        pictures = (self.image, self.depth, self.right)
        return sum(picture.nbytes for picture in pictures if picture is not None)

    def snapshot(self) -> dict[str, Any]:
        """Return it as plain data, without its tracks."""
        names = ("image", "pts_ns", "index", "sharpness", "shot", "way")
        state = {name: getattr(self, name) for name in names}
        for name in ("intrinsics", "T_world_camera", "depth", "right", "mask"):
            if getattr(self, name) is not None:
                state[name] = getattr(self, name)
        return state

    @classmethod
    def restored(cls, state: dict[str, Any]) -> _Frame:
        """Return the frame of a snapshot; its tracks begin anew."""
        height, width = state["image"].shape[:2]
        given: dict[str, Any] = {"intrinsics": None, "T_world_camera": None, "mask": None}
        return cls(**given | state, tracks=PointTracks(height, width), own=True)


class Model(Stage[Config]):
    """Choose keyframes by the motion of the picture and by sharpness."""

    scope = "stream"

    def open(self, context: Context) -> None:
        """Start with an empty stream."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        self._keyframes: list[_Frame] = []
        self._candidates: list[_Frame] = []
        self._all: list[_Frame] = []
        self._fine = self.config.step * FINE
        self._seen = 0
        self._metric = False
        self._baseline_m: float | None = None
        self._shot = -1
        self._last_index = -1

    def process(self, frames: Frames, motion: Motion, masks: Masks | None = None) -> None:
        """Follow the clip and keep its keyframes."""
        self._metric, self._baseline_m = frames.metric, frames.baseline_m
        for t in range(len(frames.images)):
            if frames.index[t] <= self._last_index:
                continue
            if t and frames.index[t - 1] == self._last_index:
                self._follow(motion.flow[t - 1], motion.confidence[t - 1])
            elif frames.shot == self._shot:
                for frame in (*self._keyframes[-1:], *self._candidates):
                    frame.tracks.lose_all()
            if frames.shot != self._shot:
                self._end_shot()
            self._shot = frames.shot
            self._last_index = int(frames.index[t])
            self._seen += 1
            self._take(frames, t, row_of(masks, frames, t))
            if self._seen > self.config.min_keyframes:
                self._all = []

    def finish(self) -> Keyframes:
        """Thin what was kept and measure the parallax between neighbors."""
        self._end_shot()
        kept = self._thin_to_step()
        gray = [cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY) for frame in kept]
        parallax = np.full(len(kept), np.nan, np.float32)
        for i in range(1, len(kept)):
            if kept[i].shot == kept[i - 1].shot:
                parallax[i] = parallax_between(gray[i - 1], gray[i])
            self.progress(i, len(kept))
        self.measure("keyframes_count", len(kept))
        if np.isfinite(parallax).any():
            self.measure("parallax_median_px", float(np.nanmedian(parallax)))
        return Keyframes(
            images=np.stack([frame.image for frame in kept]),
            pts_ns=np.array([frame.pts_ns for frame in kept], np.int64),
            index=np.array([frame.index for frame in kept], np.int64),
            sharpness=np.array([frame.sharpness for frame in kept], np.float32),
            shot=np.array([frame.shot for frame in kept], np.int32),
            parallax_px=parallax,
            intrinsics=_stacked([frame.intrinsics for frame in kept]),
            T_world_camera=_stacked([frame.T_world_camera for frame in kept]),
            depth=_stacked([frame.depth for frame in kept]),
            right=_stacked([frame.right for frame in kept]),
            baseline_m=self._baseline_m,
            metric=self._metric,
            masks=stacked_masks([frame.mask for frame in kept], *gray[0].shape, self.warn),
        )

    def snapshot(self) -> dict[str, Any]:
        """Return the frames that are held, each once, and where the stream stands."""
        frames = list(dict.fromkeys((*self._all, *self._keyframes, *self._candidates)))
        place = {frame: n for n, frame in enumerate(frames)}
        followed = (*self._keyframes[-1:], *self._candidates)
        return {
            "frames": [frame.snapshot() for frame in frames],
            "all": [place[frame] for frame in self._all],
            "kept": [place[frame] for frame in self._keyframes],
            "candidates": [place[frame] for frame in self._candidates],
            "tracks": {str(place[frame]): frame.tracks.snapshot() for frame in followed},
            "fine": self._fine,
            "seen": self._seen,
            "metric": self._metric,
            "baseline_m": self._baseline_m,
            "shot": self._shot,
            "last_index": self._last_index,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        frames = [_Frame.restored(frame) for frame in state["frames"]]
        for n, tracks in state["tracks"].items():
            frames[int(n)].tracks.restore(tracks)
        self._all = [frames[n] for n in state["all"]]
        self._keyframes = [frames[n] for n in state["kept"]]
        self._candidates = [frames[n] for n in state["candidates"]]
        self._fine, self._seen = state["fine"], state["seen"]
        self._metric, self._baseline_m = state["metric"], state["baseline_m"]
        self._shot = state["shot"]
        self._last_index = state["last_index"]

    def _follow(self, flow: Array, confidence: Array) -> None:
        for frame in (*self._keyframes[-1:], *self._candidates):
            frame.tracks.follow(flow, confidence)

    def _take(self, frames: Frames, t: int, mask: Array | None) -> None:
        """Consider one new frame: a keyframe, a candidate, or neither."""
        height, width = frames.images.shape[1:3]
        frame = _Frame(
            image=frames.images[t],
            pts_ns=int(frames.pts_ns[t]),
            index=int(frames.index[t]),
            sharpness=float(frames.sharpness[t]),
            shot=frames.shot,
            intrinsics=None if frames.intrinsics is None else frames.intrinsics[t],
            T_world_camera=None if frames.T_world_camera is None else frames.T_world_camera[t],
            mask=mask,
            tracks=PointTracks(height, width),
            depth=None if frames.depth is None else frames.depth[t],
            right=None if frames.right is None else frames.right[t],
        )
        if self._seen <= self.config.min_keyframes:
            self._all.append(frame.owned())
        if not self._keyframes or self._keyframes[-1].shot != frame.shot:
            self._add_keyframe(frame)
            return
        moved, lost = self._moved(), self._lost()
        # A frame that could not be followed is at least a whole step away.
        frame.way = self._keyframes[-1].way + (max(self.config.step, moved) if lost else moved)
        if not lost and moved >= self._fine * NEIGHBORHOOD:
            self._add_candidate(frame)
        if self._candidates and (lost or moved >= self._fine):
            self._add_sharpest()
            moved, lost = self._moved(), self._lost()
            frame.way = self._keyframes[-1].way + (max(self.config.step, moved) if lost else moved)
        if lost and frame.index > self._keyframes[-1].index:
            self._add_keyframe(frame)

    def _moved(self) -> float:
        frame = self._keyframes[-1]
        return frame.tracks.displacement_px / max(frame.image.shape)

    def _lost(self) -> bool:
        """Whether too few points of the last keyframe are left to go on from it.

        People walking through a still picture cover point after point: that alone is no reason
        until few are left.
        """
        share = self._keyframes[-1].tracks.share
        return share < 0.2 or (share < self.config.min_tracked and self._moved() > STILL)

    def _add_candidate(self, frame: _Frame) -> None:
        self._candidates.append(frame.owned())
        if len(self._candidates) > CANDIDATES:
            self._candidates.remove(min(self._candidates, key=lambda c: c.sharpness))

    def _add_sharpest(self) -> None:
        best = max(self._candidates, key=lambda c: c.sharpness)
        self._add_keyframe(best)

    def _add_keyframe(self, frame: _Frame) -> None:
        """Make a frame a keyframe; later candidates are measured from it anew."""
        self._keyframes.append(frame.owned())
        self._candidates = []
        limit = self.config.max_memory_mb * 2**20 // frame.nbytes
        limit = max(2, min(self.config.max_keyframes, limit))
        while len(self._keyframes) > limit:
            # The newest stays: it is followed. Doubling keeps old and new equally far apart.
            *older, newest = self._keyframes
            older = _thinned(older, self._fine) if self._fine < 1e3 else older[::2]
            self._keyframes = [*older, newest]
            if len(self._keyframes) > limit:
                self._fine *= 2

    def _end_shot(self) -> None:
        """Keep the best of the candidates that the end of a shot leaves."""
        if self._candidates:
            self._add_sharpest()
        self._candidates = []

    def _thin_to_step(self) -> list[_Frame]:
        """Thin to the largest step that leaves enough keyframes."""
        if self._seen <= self.config.min_keyframes:
            return self._all
        step = self.config.step
        while step > self._fine:
            # Half a fine step early: the nearest to the step, not the first beyond it.
            kept = _thinned(self._keyframes, step - self._fine / 2)
            if len(kept) >= self.config.min_keyframes:
                return kept
            step *= 0.8
        return _thinned(self._keyframes, self._fine)


def _thinned(frames: list[_Frame], step: float) -> list[_Frame]:
    """Keep the first frame of each shot and then every one that is `step` further on."""
    kept = frames[:1]
    for frame in frames[1:]:
        if frame.shot != kept[-1].shot or frame.way - kept[-1].way >= step * 0.999:
            kept.append(frame)
    return kept


def _stacked(rows: list[Array | None]) -> Array | None:
    """Stack what every frame has; None where some have nothing."""
    known = [row for row in rows if row is not None]
    return np.stack(known) if len(known) == len(rows) and known else None
