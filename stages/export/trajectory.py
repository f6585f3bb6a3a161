"""`trajectory.tum`: the camera's path in the format of the TUM RGB-D benchmark."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from pipeline.contract import Options, Stage, Views
from stages._geometry.transforms import quaternion_wxyz
from stages.export._images import finite_views
from stages.export._publish import publish

__all__ = ["Config", "Model"]


class Config(Options):
    """No options."""


class Model(Stage[Config]):
    """Writes `t tx ty tz qx qy qz qw` a view: seconds, and the camera in the world."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, views: Views) -> None:
        """Write the poses in order of time."""
        lines = [
            "# camera in the world: time_s tx ty tz qx qy qz qw; "
            f"unit {'meter' if views.scale == 'metric' else 'arbitrary'}"
        ]
        for k in sorted(finite_views(views), key=lambda k: int(views.pts_ns[k])):
            T = views.T_world_camera[k]
            w, x, y, z = quaternion_wxyz(T[:3, :3])
            numbers = " ".join(
                np.format_float_positional(v, trim="-") for v in (*T[:3, 3], x, y, z, w)
            )
            lines.append(f"{int(views.pts_ns[k]) / 1e9:.9f} {numbers}")
        with publish(self, "trajectory.tum", "trajectory") as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
