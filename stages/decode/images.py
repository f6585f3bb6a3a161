"""Images: a folder, a glob such as 'frames/*.png', or one still, in natural order.

Poses and intrinsics are read where they lie beside the images: `transforms.json` (nerfstudio,
instant-ngp), a COLMAP model in `sparse/0`, KITTI's `calib.txt` and `poses.txt`, or 7-Scenes'
`*.pose.txt`; so are depth images of a sensor (16-bit PNG), as 7-Scenes, TUM RGB-D and ScanNet have
them, and the right images of rectified stereo pairs, as KITTI has them. Distorted images are
straightened. Images have no times of their own: they are `1 / fps` apart, unless a KITTI
`times.txt` says better.
"""

from __future__ import annotations

from typing import Literal

import cv2
from pydantic import Field

from pipeline.contract import Context, Reader, Source, Stage
from stages.decode._images.reader import ImageReader
from stages.decode._options import DecodeOptions
from stages.decode._video.gap_report import Reporter

__all__ = ["Config", "Model"]


class Config(DecodeOptions):
    """Options of `decode/images`."""

    fps: float = Field(30.0, gt=0, le=1000, description="images a second, where no times are known")
    stereo: Literal["auto", "none", "side_by_side", "top_bottom"] = Field(
        "auto",
        description="auto: the right images of rectified stereo pairs where they lie beside the "
        "left ones (image_2 and image_3, left and right, with the same names); side_by_side or "
        "top_bottom: an image holds both views, each at its full size (not squeezed to a half)",
    )
    depth: bool = Field(True, description="read the depth images of a sensor that lie beside them")
    depth_per_m: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="units of depth images a meter; unset: as the layout has it (TUM 5000, else "
        "1000)",
    )


class Model(Stage[Config]):
    """Reads images, one at a time."""

    isolated = True
    deadline_s = 120.0

    def open(self, context: Context) -> None:
        """Hold OpenCV to the threads that are allowed, and to silence."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def process(self, source: Source) -> Reader:
        """Open a folder, a glob or a still.

        Raises:
            SourceError: It is missing or holds no image that can be used.
        """
        return ImageReader(
            source,
            self.config,
            Reporter(self.warn, self.lost),
            fps=self.config.fps,
            stereo=self.config.stereo,
            depth=self.config.depth,
            depth_per_m=self.config.depth_per_m,
        )
