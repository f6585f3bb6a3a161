"""The 3D content of a run folder: a surface and the cameras."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from stages._formats.ply_reader import Surface, read_ply
from stages._geometry.transforms import rotation_from_wxyz

__all__ = ["Cameras", "Scene", "read_cameras", "read_scene", "read_trajectory"]

FILE_BYTES = 64 << 20
"""Largest file that is read; a trajectory of an hour at 30 poses per second has 12 MB."""

USUAL_FIELD = (2 / 3, 1 / 2)
"""Default half width and half height over focal length, if the run has no intrinsics."""


@dataclass(frozen=True)
class Cameras:
    """Posed cameras in temporal order."""

    time_s: npt.NDArray[np.float64]
    """float64 [K]: times in seconds."""
    T_world_camera: npt.NDArray[np.float64]
    """float64 [K, 4, 4], OpenCV axes."""
    field: tuple[float, float]
    """Half width and half height of the image over the focal length."""

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """Camera centers, float64 [K, 3]."""
        return self.T_world_camera[:, :3, 3]


@dataclass(frozen=True)
class Scene:
    """Content to show; at least one of the two is present."""

    surface: Surface | None
    cameras: Cameras | None


def read_scene(folder: Path) -> Scene:
    """Read the cloud, else the mesh, and the cameras of a run folder.

    Raises:
        UsageError: The folder does not exist, a file in it is broken, or it has nothing in 3D.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a run folder: there is no such folder")
    surface = None
    for name in ("points.ply", "mesh.ply"):
        if surface is None and (folder / name).is_file():
            found = read_ply(folder / name)
            surface = found if len(found.xyz) else None
    cameras = read_cameras(folder)
    if surface is None and cameras is None:
        raise UsageError(
            f"{folder} has nothing to show in 3D: no non-empty points.ply, mesh.ply or "
            "trajectory.tum; see report.html there for the reason"
        )
    return Scene(surface, cameras)


def read_cameras(folder: Path) -> Cameras | None:
    """Read `trajectory.tum`, and the lens from `transforms.json`; None without a trajectory.

    Raises:
        UsageError: The trajectory is broken.
    """
    path = folder / "trajectory.tum"
    if not path.is_file():
        return None
    time_s, T_world_camera = read_trajectory(path)
    if len(time_s) == 0:
        return None
    return Cameras(time_s, T_world_camera, _field_of(folder / "transforms.json"))


def read_trajectory(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read a TUM trajectory: times [K] in s and `T_world_camera` [K, 4, 4].

    Raises:
        UsageError: It is too large or a line is not a pose.
    """
    times: list[float] = []
    poses: list[npt.NDArray[np.float64]] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            t, x, y, z, qx, qy, qz, qw = (float(word) for word in line.split())
        except ValueError:
            t = math.nan
            x = y = z = qx = qy = qz = qw = 0.0
        pose = np.array([t, x, y, z, qx, qy, qz, qw])
        if not np.isfinite(pose).all() or not 0 < np.linalg.norm(pose[4:]) < 1e6:
            raise UsageError(
                f"{path} line {number} is not a pose: '{line[:60]}'; expected 8 numbers: "
                "time_s tx ty tz qx qy qz qw"
            )
        T = np.eye(4)
        T[:3, :3] = rotation_from_wxyz(np.array([qw, qx, qy, qz]))
        T[:3, 3] = x, y, z
        times.append(t)
        poses.append(T)
    return np.array(times), np.array(poses).reshape(-1, 4, 4)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_BYTES:
            raise UsageError(f"{path} is too large: at most {FILE_BYTES >> 20} MiB are read")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _field_of(path: Path) -> tuple[float, float]:
    """Return the field of the first camera of a transforms.json, else a default."""
    try:
        content: Any = json.loads(_text(path))
        frame = content if "fl_x" in content else content["frames"][0]
        w, h, fx, fy = (float(frame[name]) for name in ("w", "h", "fl_x", "fl_y"))
        field = (w / fx / 2, h / fy / 2)
    except (UsageError, ValueError, TypeError, KeyError, IndexError, ZeroDivisionError):
        return USUAL_FIELD
    return field if all(0.01 < value < 10 for value in field) else USUAL_FIELD
