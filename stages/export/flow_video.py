"""`flow.mp4`: the optical flow as a video in the colors of the Middlebury wheel."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import av
import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, Frames, Motion, Options, Stage
from stages._rendering.colormaps import flow_colors, flow_planes, has_no_gap
from stages._rendering.video_writer import even_size, fit_width, frame_of_planes, yuv
from stages.export._gop_video import GopVideo
from stages.export._publish import publish
from stages.export._scratch import Scratch, Spool

__all__ = ["Config", "Model"]

SPARSE_SHARE = 0.5
"""With less flow known than this the model tracks points: they are drawn on the picture."""


class Config(Options):
    """How the video looks."""

    width: int = Field(640, ge=64, le=4096, description="largest width of one picture, px")
    scale_px: float | None = Field(
        None, gt=0, description="flow that has the full color, px; chosen by itself if not given"
    )
    beside: bool = Field(False, description="show the frame on the left of its flow")
    quality: int = Field(24, ge=0, le=51, description="x264 quantizer; lower is better")


class Model(Stage[Config]):
    """Encodes while clips arrive; every pair of frames appears once, at the first one's time."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"
    version = 3

    def open(self, context: Context) -> None:
        """Begin with nothing written."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        assert context.folder is not None, "exporters are opened with a run folder"
        self._scratch = Scratch(self)
        self._spool = Spool(self._scratch, "packets", context.folder / "flow.mp4")
        self._video = GopVideo(self._spool, quality=self.config.quality)
        self._last_ns = -1
        self._shot = -1
        self._scale_px = 0.0

    def process(self, frames: Frames, motion: Motion) -> None:
        """Add the pairs of one clip that no clip before held."""
        fresh = np.flatnonzero(frames.pts_ns[:-1] > self._last_ns)
        if len(fresh) == 0:
            return
        wanted_px = self._wanted_scale(frames, motion.flow[fresh[0] : fresh[-1] + 1])
        start_px = self._scale_px or wanted_px
        pictures: list[av.VideoFrame] = []
        for step, t in enumerate(fresh, 1):
            # A change of scale is spread over the clip, so that no color jumps.
            self._scale_px = start_px + (wanted_px - start_px) * step / len(fresh)
            pictures.append(self._picture(frames.images[t], motion.flow[t], int(frames.pts_ns[t])))
        self._video.add(pictures, frames.pts_ns[fresh + 1].tolist())
        self._last_ns = int(frames.pts_ns[fresh[-1]])

    def snapshot(self) -> dict[str, Any] | None:
        """Return where the video stands; its packets lie in the scratch folder."""
        if not self._scratch.lasts:
            return None
        return {
            "video": self._video.snapshot(),
            "last_ns": self._last_ns,
            "shot": self._shot,
            "scale_px": self._scale_px,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._video.restore(state["video"])
        self._last_ns, self._shot = state["last_ns"], state["shot"]
        self._scale_px = state["scale_px"]

    def _wanted_scale(self, frames: Frames, flow: npt.NDArray[np.float32]) -> float:
        """Return the flow with the full color, in px of the frames.

        It is the 98th percentile of the shot's first clip, at least 1 px, and grows where a
        later clip exceeds it by a quarter: colors of one shot compare, and none is clipped much.
        """
        if self.config.scale_px is not None:
            return self.config.scale_px
        if frames.shot != self._shot:
            self._shot, self._scale_px = frames.shot, 0.0
        u, v = flow[:, ::8, ::8, 0], flow[:, ::8, ::8, 1]
        if np.isfinite(u).mean() < SPARSE_SHARE:
            u, v = flow[..., 0], flow[..., 1]
        known = np.isfinite(u) & np.isfinite(v)
        if not known.any():
            return self._scale_px or 1.0
        high_px = max(1.0, float(np.percentile(np.hypot(u[known], v[known]), 98)))
        return high_px if high_px > 1.25 * self._scale_px else self._scale_px

    def _picture(
        self, image: npt.NDArray[np.uint8], flow: npt.NDArray[np.float32], pts_ns: int
    ) -> av.VideoFrame:
        width = self.config.width
        small = (max(1, round(flow.shape[0] * width / flow.shape[1])), width)
        size = small if flow.shape[1] > width else flow.shape[:2]
        known = None if has_no_gap(flow) else np.isfinite(flow).all(axis=2)
        sparse = known is not None and known.mean() < SPARSE_SHARE
        if not sparse and not self.config.beside:
            whole = self._video.size or even_size(np.empty((*size, 0)))
            return frame_of_planes(flow_planes(flow, self._scale_px, whole, known), pts_ns)
        if sparse:
            colors = fit_width(_tracks(image, flow, known, self._scale_px), width)
        else:
            # Nearest: a mean of flow with unknown neighbors would be unknown.
            flow = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
            colors = flow_colors(flow, self._scale_px)
        if self.config.beside:
            colors = np.hstack([fit_width(image, width), colors])
        return yuv(colors, self._video.size or even_size(colors), pts_ns)

    def finish(self) -> None:
        """Write the video; without a single pair of frames there is no file."""
        if self._spool.length:
            with publish(self, "flow.mp4", "flow video") as path:
                self._video.write(path)

    def close(self) -> None:
        """Give the spool back."""
        if hasattr(self, "_spool"):
            self._spool.close()
            self._scratch.close()


def _tracks(
    image: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
    scale_px: float,
) -> npt.NDArray[np.uint8]:
    """Draw sparse flow as colored strokes on the darkened picture."""
    canvas = (image * 0.35).astype(np.uint8)
    rows, columns = np.nonzero(known)
    moved = flow[rows, columns]
    colors = flow_colors(moved[None], scale_px)[0]
    starts = np.stack([columns, rows], axis=1)
    ends = np.rint(starts + moved).astype(np.int64)
    for start, end, color in zip(starts.tolist(), ends.tolist(), colors.tolist(), strict=True):
        cv2.line(canvas, start, end, color, 1, cv2.LINE_AA)
        cv2.circle(canvas, start, 2, color, -1, cv2.LINE_AA)
    return canvas
