"""Cameras and poses that come with images, whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Calibration", "CameraModel", "Lens", "rigid"]

Floats = npt.NDArray[np.float64]
AnyImage = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera with radial and tangential distortion (OpenCV's model)."""

    width: int
    height: int
    K: Floats
    """float64 [3, 3] px, pixel centers at 0.5."""
    distortion: tuple[float, ...] = ()
    """k1, k2, p1, p2[, k3[, k4, k5, k6]], or empty for none."""

    @property
    def distorted(self) -> bool:
        """Whether lines that are straight come out bent."""
        return any(abs(k) > 1e-12 for k in self.distortion)


@dataclass(frozen=True)
class Calibration:
    """What is known of the cameras of a set of images."""

    origin: str
    """Where it was read, such as `transforms.json`; empty for nothing known."""
    cameras: dict[Path, CameraModel] = field(default_factory=dict[Path, CameraModel])
    poses: dict[Path, Floats] = field(default_factory=dict[Path, Floats])
    """T_world_camera, float64 [4, 4], OpenCV axes."""
    metric: bool = False
    baseline_m: float | None = None
    """Distance of the cameras of a stereo pair."""
    warnings: tuple[str, ...] = ()
    times_s: Sequence[float] = ()
    """Times of the images in order, where there are any."""


class Lens:
    """Takes images of one camera to the delivered size and straightens them."""

    def __init__(self, camera: CameraModel, size: tuple[int, int]) -> None:
        scale = np.diag([size[0] / camera.width, size[1] / camera.height, 1.0])
        self.K = scale @ camera.K
        self._maps: tuple[AnyImage, AnyImage] | None = None
        self._bent: tuple[Any, ...] = ()
        if not camera.distorted:
            return
        distortion = np.array(camera.distortion)
        # OpenCV counts pixel centers from 0.
        bent = self.K - HALF
        # The largest view that shows nothing from outside the picture.
        straight, _ = cv2.getOptimalNewCameraMatrix(bent, distortion, size, 0)
        self.K = straight + HALF
        self._bent = (bent, distortion, None, straight, size)
        self._maps = cv2.initUndistortRectifyMap(*self._bent, cv2.CV_16SC2)

    def straighten(self, image: AnyImage) -> AnyImage:
        """Undistort an image of the delivered size."""
        if self._maps is None:
            return image
        return cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def straighten_depth(self, depth: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Undistort depth of the delivered size: its numbers are moved, not mixed."""
        if self._maps is None:
            return depth
        # OpenCV's fixed-point maps round down where neighbors are not mixed.
        maps = cv2.initUndistortRectifyMap(*self._bent, cv2.CV_32FC1)
        return cv2.remap(
            depth, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan
        )


HALF = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def rigid(matrix: Floats) -> Floats | None:
    """Return the nearest rigid motion to [3, 4] or [4, 4], or None where it is none.

    Raises:
        ValueError: The shape is another.
    """
    if matrix.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"a pose must be a 3x4 or 4x4 matrix, got {list(matrix.shape)}")
    if not np.all(np.isfinite(matrix)):
        return None
    u, singular, vt = np.linalg.svd(matrix[:3, :3])
    if np.linalg.det(u @ vt) < 0 or np.abs(singular / singular.mean() - 1).max() > 0.02:
        return None
    pose = np.eye(4)
    pose[:3, :3] = u @ vt
    pose[:3, 3] = matrix[:3, 3]
    return pose
