"""The splats of a run and an initial view of them, near the run's cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.contract import Splats
from pipeline.errors import UsageError
from stages._formats.gaussian_ply_reader import read_splats
from stages._rendering.camera_path import fit_intrinsics, orbit, solid_points
from stages._rendering.overview import overview
from stages._rendering.run_cameras import RunCameras

__all__ = ["SPLATS", "USUAL_SIZE", "SplatScene", "read_scene_of_splats", "read_splat_scene"]

Array = npt.NDArray[np.float64]

SPLATS = "splats.ply"
"""File name in a run folder."""

USUAL_SIZE = (1280, 720)
"""Default (width, height) of an image in px, without a camera."""


@dataclass(frozen=True)
class SplatScene:
    """Splats, and a camera similar to those of the run."""

    splats: Splats
    pose: Array
    """`T_world_camera` [4, 4]."""
    focus: Array
    """float64 [3]: point at the center of the image, at a typical depth."""
    K: Array
    """[3, 3] px for images of `size`."""
    size: tuple[int, int]

    @property
    def eye(self) -> Array:
        """Position of the camera, float64 [3]."""
        return self.pose[:3, 3]

    @property
    def up(self) -> Array:
        """Up direction of the image, float64 [3], unit."""
        return -self.pose[:3, 1]

    def intrinsics(self, width: int, height: int) -> Array:
        """Return K [3, 3] for an image of this size."""
        return fit_intrinsics(self.K, self.size, (width, height))


def read_scene_of_splats(path: Path, warn: Callable[[str], object]) -> Splats:
    """Read splats for rendering.

    Raises:
        UsageError: The file is broken or empty.
    """
    splats = read_splats(path, warn)
    if len(splats.means) == 0:
        raise UsageError(f"{path} holds no Gaussians: there is nothing to draw")
    return splats


def read_splat_scene(folder: Path, warn: Callable[[str], object]) -> SplatScene:
    """Read the splats of a run folder; without cameras the view is from outside.

    Raises:
        UsageError: A file is broken, or there are no Gaussians.
    """
    splats = read_scene_of_splats(folder / SPLATS, warn)
    xyz = solid_points(splats)
    if not (folder / "transforms.json").is_file():
        view = overview(xyz.astype(np.float32), None)
        return SplatScene(
            splats, view.pose(), view.center, view.intrinsics(*USUAL_SIZE), USUAL_SIZE
        )
    keyframes = RunCameras.read(folder)
    K, size = keyframes.usual, keyframes.size
    pose = orbit(keyframes.T_world_camera, K, size, xyz, 1)[0]
    away = (xyz - pose[:3, 3]) @ pose[:3, 2]
    depth = float(np.median(away[away > 0])) if np.any(away > 0) else 1.0
    return SplatScene(splats, pose, pose[:3, 3] + depth * pose[:3, 2], K, size)
