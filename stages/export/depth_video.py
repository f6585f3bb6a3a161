"""`depth.mp4`: the depth maps as a video, inverse depth from red (near) to blue (far)."""

from __future__ import annotations

from typing import ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Context, DepthMaps, Options, Stage, Views
from stages._rendering.colormaps import depth_colors, inverse_depth_range
from stages._rendering.video_writer import PreviewVideo, fit_width
from stages.export._publish import publish

__all__ = ["Config", "Model"]

SECOND_NS = 1_000_000_000


class Config(Options):
    """How the video looks."""

    width: int = Field(640, ge=64, le=4096, description="largest width of one picture, px")
    fps: float | None = Field(
        None, gt=0, le=240, description="pictures a second; each at its own time if not given"
    )
    beside: bool = Field(False, description="show the picture on the left of its depth")
    quality: int = Field(24, ge=0, le=51, description="x264 rate factor; lower is better")


class Model(Stage[Config]):
    """Shows each keyframe's depth from its own time to the next keyframe's.

    One scale serves the whole video: colors of different pictures compare.
    """

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Take the threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, views: Views, depth: DepthMaps) -> None:
        """Write the video; without a view there is none."""
        if len(depth.depth) == 0:
            return
        inverse = inverse_depth_range(depth.depth)
        times = views.pts_ns
        if self.config.fps is not None:
            times = np.arange(len(times)) * int(SECOND_NS / self.config.fps)
        gaps = np.diff(times)
        durations = np.append(gaps, np.median(gaps) if len(gaps) else SECOND_NS).astype(np.int64)
        with publish(self, "depth.mp4", "depth video") as path:
            video = PreviewVideo(path, quality=self.config.quality, threads=self.context.threads)
            for k, image in enumerate(views.images):
                colors = fit_width(depth_colors(depth.depth[k], inverse), self.config.width)
                if self.config.beside:
                    picture = cv2.resize(image, colors.shape[1::-1], interpolation=cv2.INTER_AREA)
                    colors = np.hstack([picture, colors])
                video.add(colors, int(times[k]), int(durations[k]))
                self.progress(k + 1, len(views.images))
            video.close()
