"""`splats.mp4`: a camera that goes round the place as splats, or along the path of the film."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Options, Splats, Stage
from stages._rendering.camera_path import fit_intrinsics, orbit, solid_points, walk
from stages._rendering.splat_renderer import SplatRenderer
from stages.export._publish import publish

__all__ = ["Config", "Model"]


class Config(Options):
    """Where the camera goes, and how the video looks."""

    path: Literal["orbit", "train"] = Field(
        "orbit", description="round what the cameras looked at, or along them"
    )
    seconds: float = Field(6.0, ge=0.5, le=120, description="length")
    fps: float = Field(30.0, ge=1, le=120, description="pictures a second")
    largest_px: int = Field(640, ge=64, le=4096, description="longer side; never enlarges")
    quality: int = Field(24, ge=0, le=51, description="x264 rate factor; lower is better")


class Model(Stage[Config]):
    """Draws the splats from cameras like those that filmed them."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, splats: Splats) -> None:
        """Write the video; without a Gaussian or a camera there is none."""
        finite = np.isfinite(splats.T_world_camera).all(axis=(1, 2))
        finite &= np.isfinite(splats.intrinsics).all(axis=(1, 2))
        if len(splats.means) == 0 or not finite.any():
            self.warn("splats.mp4 is left out: there is no Gaussian or no camera with a pose")
            return
        size = _small(splats.size, self.config.largest_px)
        poses = self._poses(splats, finite)
        K = fit_intrinsics(np.median(splats.intrinsics[finite], axis=0), splats.size, size)
        with (
            publish(self, "splats.mp4", "splat video") as path,
            SplatRenderer(splats, size, depth=False, threads=self.context.threads) as renderer,
        ):
            renderer.video(
                path,
                np.repeat(K[None], len(poses), axis=0),
                poses,
                fps=self.config.fps,
                quality=self.config.quality,
                progress=self.progress,
            )

    def _poses(self, splats: Splats, finite: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        count = max(1, round(self.config.fps * self.config.seconds))
        lead = orbit if self.config.path == "orbit" else walk
        K = np.median(splats.intrinsics[finite], axis=0)
        return lead(splats.T_world_camera[finite], K, splats.size, solid_points(splats), count)


def _small(size: tuple[int, int], largest_px: int) -> tuple[int, int]:
    """Return a size with no side longer, of the same shape, with even sides as 4:2:0 wants."""
    scale = min(1.0, largest_px / max(size))
    return (
        max(2, 2 * round(size[0] * scale / 2)),
        max(2, 2 * round(size[1] * scale / 2)),
    )
