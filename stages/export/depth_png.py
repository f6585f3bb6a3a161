"""`depth/*.png`: 16-bit depth maps, and `depth/scale.json`, which gives their unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.contract import DepthMaps, Options, Stage, Views
from stages.export._publish import publish_folder

__all__ = ["Config", "Model"]

LARGEST = 65535
MILLIMETER = 0.001
"""The step of metric maps, as in the TUM and 7-Scenes sets, as long as the depth fits in."""


class Config(Options):
    """No options."""


class Model(Stage[Config]):
    """Writes `value * unit_per_step = depth`; 0 is unknown."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, views: Views, depth: DepthMaps) -> None:
        """Write one PNG a view, named as the view's image."""
        maps = depth.depth
        largest = max(
            (float(np.nanmax(m, initial=0, where=np.isfinite(m))) for m in maps), default=0
        )
        step = largest / LARGEST if largest > 0 else 1.0
        if views.scale == "metric" and largest <= LARGEST * MILLIMETER:
            step = MILLIMETER
        with publish_folder(self, "depth", "depth maps") as folder:
            names = []
            for k, one in enumerate(maps):
                known = np.isfinite(one) & (one > 0)
                # A known depth never rounds down to 0, which says unknown.
                steps = np.clip(np.rint(np.where(known, one, 0) / step), 1, LARGEST)
                names.append(f"{int(views.index[k]):06d}.png")
                _write_png(folder / names[-1], np.where(known, steps, 0).astype(np.uint16))
                self.progress(k + 1, len(maps))
            scale = {
                "unit_per_step": step,
                "unit": "meter" if views.scale == "metric" else "arbitrary",
                "unknown": 0,
                "files": names,
            }
            text = json.dumps(scale, indent=1, allow_nan=False)
            (folder / "scale.json").write_text(text + "\n", encoding="utf-8")


def _write_png(path: Path, image: npt.NDArray[np.uint16]) -> None:
    # cv2.imwrite only returns False on a full disk; writing the bytes raises.
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
