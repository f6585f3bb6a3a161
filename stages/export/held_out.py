"""`splats/`: at each held-out camera the photograph, the splats and how they differ, side by side.

`splats/held_out.json` is a list of `{"frame", "file", "psnr_db", "ssim"}`; each file shows
photograph | splats | difference, the last three times as strong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, Options, Splats, Stage, Views
from stages._gaussians.draw import draw
from stages._gaussians.kernels import ThreadPool
from stages._gaussians.ssim import ssim
from stages._rendering.camera_path import fit_intrinsics
from stages._rendering.video_writer import fit_width
from stages.export._publish import publish_folder

__all__ = ["Config", "Model"]

STRONGER = 3.0
"""Differences of 10 gray levels are hard to see."""

BEST_DB = 100.0
"""Told where a picture is the photograph, bit for bit."""


class Config(Options):
    """How the pictures are stored."""

    width: int = Field(640, ge=16, le=8192, description="largest width of one of the three, px")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality")


class Model(Stage[Config]):
    """Draws what training never saw, at the full size of the views, and measures it."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Take the threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, views: Views, splats: Splats) -> None:
        """Write the pictures and their figures; where nothing was held out there are none."""
        held_out = [int(k) for k in splats.held_out if 0 <= k < len(views.images)]
        if not held_out:
            return
        pool = ThreadPool(self.context.threads)
        try:
            with publish_folder(self, "splats", "held-out pictures") as folder:
                rows: list[dict[str, Any]] = []
                for k in held_out:
                    rows.append(self._compare(folder, views, splats, k, pool))
                    self.progress(len(rows), len(held_out))
                text = json.dumps(rows, indent=1, allow_nan=False)
                (folder / "held_out.json").write_text(text + "\n", encoding="utf-8")
        finally:
            pool.close()

    def _compare(
        self, folder: Path, views: Views, splats: Splats, k: int, pool: ThreadPool
    ) -> dict[str, Any]:
        height, width = views.images.shape[1:3]
        K = fit_intrinsics(splats.intrinsics[k], splats.size, (width, height))
        drawn = draw(splats, K, splats.T_world_camera[k], (width, height), pool=pool)
        photograph = views.images[k].astype(np.float32) / 255
        difference = drawn.rgb - photograph
        panels = [views.images[k], drawn.bytes(), _shown(difference)]
        strip = np.hstack([fit_width(panel, self.config.width) for panel in panels])
        frame = int(views.index[k])
        name = f"held_out_{frame:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.config.quality]
        encoded = cv2.imencode(".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), quality)[1]
        # cv2.imwrite only returns False on a full disk; writing the bytes raises.
        (folder / name).write_bytes(encoded.tobytes())
        error = float(np.mean(difference.astype(np.float64) ** 2))
        return {
            "frame": frame,
            "file": name,
            "psnr_db": min(-10 * float(np.log10(max(error, 1e-30))), BEST_DB),
            "ssim": ssim(drawn.rgb, photograph),
        }


def _shown(difference: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return a difference as a picture: black where there is none."""
    strong = np.minimum(np.abs(difference) * STRONGER, 1)
    return np.rint(strong * 255).astype(np.uint8)
