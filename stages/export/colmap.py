"""`images/` and `sparse/0/*.bin`: a COLMAP model that COLMAP, gsplat and Brush open as it is."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Options, Points, Stage, Views
from stages._geometry.transforms import invert, quaternion_wxyz
from stages.export._images import ImageFormat, finite_views, image_name, write_images
from stages.export._publish import publish_folder

__all__ = ["Config", "Model"]

PINHOLE = 1
"""COLMAP's number of the camera model fx, fy, cx, cy."""

OBSERVED = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])

SURFACE_POINTS = 100_000
"""How many points of the surface stand in for sparse points that the pose model did not make."""


class Config(Options):
    """How the pictures are stored."""

    image_format: ImageFormat = Field("jpg", description="jpg is small, png is exact")
    image_quality: int = Field(95, ge=1, le=100, description="JPEG quality")


class Model(Stage[Config]):
    """Writes the binary format of COLMAP's `src/colmap/scene/reconstruction_io_binary.cc`.

    Cameras, images and points are numbered from 1; views that share intrinsics share a camera.
    Poses that came with the source bring no sparse points: then points of the fused surface
    take their place, without tracks, so that splat trainers have something to start from.
    """

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def process(self, views: Views, points: Points | None = None) -> None:
        """Write the pictures, then the model."""
        config = self.config
        write_images(self, views, config.image_format, config.image_quality)
        kept = finite_views(views)
        if len(kept) < len(views.images):
            self.warn(f"sparse/0 leaves out {len(views.images) - len(kept)} views without a pose")
        with publish_folder(self, "sparse/0", "COLMAP model") as folder:
            camera_of_view = _write_cameras(folder / "cameras.bin", views, kept)
            tracks = _Tracks(views, kept)
            _write_images(folder / "images.bin", views, kept, camera_of_view, tracks, self.config)
            if len(tracks.points) == 0 and points is not None and len(points.xyz):
                _write_surface(folder / "points3D.bin", points, self.context.seed)
            else:
                _write_points(folder / "points3D.bin", views, tracks)


class _Tracks:
    """Which point was seen where, with the numbers that COLMAP wants.

    Attributes:
        points: int64 [Q]: the rows of `views.points` that are finite and seen in 2 views or more.
        rows_of_view: For each view its observations, rows of `views.observed_*`.
    """

    def __init__(self, views: Views, kept: list[int]) -> None:
        in_view = np.isin(views.observed_view, kept)
        finite: npt.NDArray[np.bool_] = np.all(np.isfinite(views.points), axis=1)
        usable = in_view & np.isfinite(views.observed_xy).all(axis=1)
        usable &= finite[views.observed_point] if len(finite) else False
        # One point is seen once in one picture; a second sighting is a wrong match.
        pairs = np.stack([views.observed_point, views.observed_view], axis=1)[usable]
        rows = np.flatnonzero(usable)[np.unique(pairs, axis=0, return_index=True)[1]]
        seen = np.bincount(views.observed_point[rows], minlength=len(views.points))
        self.points = np.flatnonzero(seen >= 2)
        rows = rows[seen[views.observed_point[rows]] >= 2]
        self.rows_of_view = {k: np.sort(rows[views.observed_view[rows] == k]) for k in kept}
        # Where each observation stands in its picture's list.
        self._image = np.full(len(views.observed_view), -1, dtype=np.int64)
        self._position = np.full(len(views.observed_view), -1, dtype=np.int64)
        for k, of_view in self.rows_of_view.items():
            self._image[of_view] = k + 1
            self._position[of_view] = np.arange(len(of_view))
        ordered = rows[np.argsort(views.observed_point[rows], kind="stable")]
        ends = np.cumsum(seen[self.points])
        self._rows_of_point = np.split(ordered, ends[:-1]) if len(ends) else []

    def of_point(self, number: int) -> npt.NDArray[np.int32]:
        """Return (image id, position in its list) of the `number`th kept point, [L, 2]."""
        rows = self._rows_of_point[number]
        return np.stack([self._image[rows], self._position[rows]], axis=1).astype("<i4")


def _write_cameras(path: Path, views: Views, kept: list[int]) -> dict[int, int]:
    height, width = views.images.shape[1:3]
    K = views.intrinsics
    parameters = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=1)[kept]
    cameras, camera = np.unique(parameters.reshape(-1, 4), axis=0, return_inverse=True)
    with path.open("wb") as file:
        _pack(file, "<Q", len(cameras))
        for number, values in enumerate(cameras, 1):
            _pack(file, "<iiQQ4d", number, PINHOLE, width, height, *values)
    return {k: int(camera.reshape(-1)[row]) + 1 for row, k in enumerate(kept)}


def _write_images(
    path: Path,
    views: Views,
    kept: list[int],
    camera_of_view: dict[int, int],
    tracks: _Tracks,
    config: Config,
) -> None:
    T_camera_world = invert(views.T_world_camera)
    with path.open("wb") as file:
        _pack(file, "<Q", len(kept))
        for k in kept:
            pose = (*quaternion_wxyz(T_camera_world[k, :3, :3]), *T_camera_world[k, :3, 3])
            _pack(file, "<i7di", k + 1, *pose, camera_of_view[k])
            file.write(image_name(int(views.index[k]), config.image_format).encode() + b"\0")
            rows = tracks.rows_of_view[k]
            observed = np.empty(len(rows), dtype=OBSERVED)
            observed["x"], observed["y"] = views.observed_xy[rows].T
            observed["point"] = views.observed_point[rows] + 1
            _pack(file, "<Q", len(rows))
            file.write(observed.tobytes())


def _write_points(path: Path, views: Views, tracks: _Tracks) -> None:
    error = np.nan_to_num(views.points_error_px, nan=-1.0, posinf=-1.0)
    with path.open("wb") as file:
        _pack(file, "<Q", len(tracks.points))
        for number, p in enumerate(tracks.points):
            seen = tracks.of_point(number)
            values = (*views.points[p], *views.points_rgb[p], error[p])
            _pack(file, "<Q3d3BdQ", p + 1, *values, len(seen))
            file.write(seen.tobytes())


def _write_surface(path: Path, points: Points, seed: int) -> None:
    finite = np.flatnonzero(np.isfinite(points.xyz).all(axis=1))
    if len(finite) > SURFACE_POINTS:
        finite = np.sort(np.random.default_rng(seed).choice(finite, SURFACE_POINTS, replace=False))
    with path.open("wb") as file:
        _pack(file, "<Q", len(finite))
        for number, p in enumerate(finite, 1):
            # COLMAP writes an error of -1 where it has none.
            _pack(file, "<Q3d3BdQ", number, *points.xyz[p], *points.rgb[p], -1.0, 0)


def _pack(file: BinaryIO, layout: str, *values: Any) -> None:
    file.write(struct.pack(layout, *values))
