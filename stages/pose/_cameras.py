"""COLMAP cameras for keyframes: given by the source, or to be estimated."""

from __future__ import annotations

import numpy as np

from pipeline.contract import Keyframes
from pipeline.errors import later

pycolmap = later("pycolmap")

__all__ = ["cameras_for"]

FOCAL_GUESS = 0.9
"""Initial focal length as a share of the longer side. COLMAP's 1.2 suits photo collections; video
from phones and cameras has 0.7 to 1.1 (the real clips here: 0.58 to 1.12). Where the motion barely
constrains the focal length (straight motion without rotation), the result stays near the guess."""
SHOT_MIN_KEYFRAMES = 5
"""Below this mean number of keyframes per shot, all shots share one focal length."""


def cameras_for(keyframes: Keyframes, *, each: bool = False) -> list[pycolmap.Camera]:
    """Return the camera of every keyframe; keyframes that share one share its `camera_id`.

    Given intrinsics yield pinhole cameras. Otherwise there is one camera with radial distortion
    per shot, since a cut often means another lens, or with `each` one per keyframe.
    """
    height, width = keyframes.images.shape[1:3]
    count = len(keyframes.index)
    if keyframes.intrinsics is not None:
        distinct, which = np.unique(
            keyframes.intrinsics.reshape(count, 9), axis=0, return_inverse=True
        )
        known = [
            pycolmap.Camera(
                camera_id=n + 1,
                model="PINHOLE",
                width=width,
                height=height,
                params=[K[0], K[4], K[2], K[5]],
                has_prior_focal_length=True,
            )
            for n, K in enumerate(distinct)
        ]
        return [known[n] for n in which.ravel()]
    shots, which = np.unique(keyframes.shot, return_inverse=True)
    if each:
        which = np.arange(count)
    elif count < SHOT_MIN_KEYFRAMES * len(shots):
        which = np.zeros(count, np.int64)
    guess = FOCAL_GUESS * max(width, height)
    unknown = {
        n: pycolmap.Camera.create_from_model_id(
            n + 1, pycolmap.CameraModelId.SIMPLE_RADIAL, guess, width, height
        )
        for n in np.unique(which).tolist()
    }
    return [unknown[n] for n in which.tolist()]
