"""`transforms.json`: the cameras for nerfstudio and instant-ngp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.contract import Context, Options, Points, Stage, Views
from pipeline.contract.read_back import PosedCameras
from stages._geometry.transforms import OPENCV_FROM_OPENGL
from stages._rendering.run_cameras import RunCameras
from stages.export._images import ImageFormat, find_images, finite_views, write_images
from stages.export._publish import publish

__all__ = ["Config", "Model"]


class Config(Options):
    """How the pictures are stored if no other export wrote them."""

    image_format: ImageFormat = Field("jpg", description="jpg is small, png is exact")
    image_quality: int = Field(95, ge=1, le=100, description="JPEG quality")


class Model(Stage[Config]):
    """Cameras look along -z with y up (OpenGL); the world is that of `points.ply`.

    Intrinsics stand at the top where all views share them, else in every frame.
    """

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Begin with nothing to write."""
        super().open(context)
        self._transforms: dict[str, Any] | None = None
        self._has_points = False

    def process(self, views: Views, points: Points | None = None) -> None:
        """Describe the views, and write their pictures unless they are there."""
        assert self.context.folder is not None, "exporters are opened with a run folder"
        index = views.index.tolist()
        names = find_images(self.context.folder, index)
        if names is None:
            write_images(self, views, self.config.image_format, self.config.image_quality)
            names = find_images(self.context.folder, index) or []
        kept = finite_views(views)
        if len(kept) < len(index):
            self.warn(f"transforms.json leaves out {len(index) - len(kept)} views without a pose")
        intrinsics = [_intrinsics(views, k) for k in kept]
        shared = intrinsics[0] if all(i == intrinsics[0] for i in intrinsics) else {}
        matrices = views.T_world_camera @ OPENCV_FROM_OPENGL
        frames = [
            {
                "file_path": f"images/{names[k]}",
                "transform_matrix": matrices[k].tolist(),
                **({} if shared else intrinsics[row]),
            }
            for row, k in enumerate(kept)
        ]
        self._transforms = {"camera_model": "OPENCV", **shared, "frames": frames}
        self._has_points = points is not None and bool(np.isfinite(points.xyz).all(axis=1).any())

    def finish(self) -> None:
        """Write the file; it names the cloud if that is there by now."""
        if self._transforms is None:
            return
        assert self.context.folder is not None, "exporters are opened with a run folder"
        if self._has_points and (self.context.folder / "points.ply").is_file():
            self._transforms["ply_file_path"] = "points.ply"
        with publish(self, "transforms.json", "nerfstudio cameras") as path:
            text = json.dumps(self._transforms, indent=1, allow_nan=False)
            path.write_text(text + "\n", encoding="utf-8")

    def read(self, folder: Path) -> PosedCameras:
        """Read the cameras of a run folder."""
        found = RunCameras.read(folder)
        return PosedCameras(
            index=found.index,
            T_world_camera=found.T_world_camera,
            intrinsics=found.intrinsics,
            size=found.size,
            files=found.files,
        )


def _intrinsics(views: Views, k: int) -> dict[str, float]:
    K = views.intrinsics[k]
    height, width = views.images.shape[1:3]
    return {
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "w": width,
        "h": height,
    }
