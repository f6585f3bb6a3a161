"""`masks/*.png`: what was left out of each posed keyframe, as COLMAP and nerfstudio read it.

COLMAP (`ImageReader.mask_path`) wants `masks/<name of the image>.png`, 0 where nothing is to be
looked for; nerfstudio and others read the same.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Options, Stage, Views
from pipeline.errors import PartNotMade
from stages.export._images import ImageFormat, image_name
from stages.export._publish import publish_folder

__all__ = ["Config", "Model"]


class Config(Options):
    """What the images are called."""

    images: ImageFormat = Field("jpg", description="format of images/, whose names the masks bear")


class Model(Stage[Config]):
    """Writes 255 where the place is seen, 0 where something moves."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, views: Views) -> None:
        """Write one PNG a view.

        Raises:
            PartNotMade: Nobody has looked for what moves.
        """
        if views.masks is None:
            raise PartNotMade("nothing was masked; set segment.model, such as to moving")
        with publish_folder(self, "masks", "masks") as folder:
            for k, mask in enumerate(views.masks):
                name = f"{image_name(int(views.index[k]), self.config.images)}.png"
                seen = np.where(mask, 0, 255).astype(np.uint8)
                # cv2.imwrite only returns False on a full disk; writing the bytes raises.
                (folder / name).write_bytes(cv2.imencode(".png", seen)[1].tobytes())
                self.progress(k + 1, len(views.masks))
