"""COLMAP reconstruction to `Views`: undistorted images, upright world, normalized scale."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from pipeline.contract import Array, Keyframes, Views
from pipeline.errors import later
from stages._geometry.transforms import invert, upright

pycolmap = later("pycolmap")

__all__ = ["pinhole", "views_from"]


def pinhole(camera: pycolmap.Camera) -> Array:
    """Return the intrinsics [3, 3] of a camera without its distortion."""
    return np.asarray(camera.calibration_matrix(), np.float64)


def views_from(
    model: pycolmap.Reconstruction,
    keyframes: Keyframes,
    *,
    scale: Literal["metric", "arbitrary"],
    normalize: bool,
    candidates: int | None = None,
) -> Views:
    """Return the registered keyframes and sparse points; image id i + 1 is keyframe i.

    Images and observations are undistorted. With `normalize` the world is rotated so that y points
    down, as estimated from the cameras; its origin is the median sparse point and its unit the
    median depth (z) of the sparse points in the views that observe them.
    """
    images = sorted(
        (model.images[i] for i in model.reg_image_ids()), key=lambda image: image.image_id
    )
    rows = [image.image_id - 1 for image in images]
    poses = np.stack([_pose(image) for image in images])
    ids = sorted(model.points3D)
    number = {point_id: n for n, point_id in enumerate(ids)}
    xyz = np.array([model.points3D[i].xyz for i in ids], np.float64).reshape(-1, 3)
    error = np.array([model.points3D[i].error for i in ids], np.float32)
    point, view, xy = _observations(model, images, number)
    if normalize:
        poses, xyz = _normalized(poses, xyz, point, view)
    taken = list(zip(rows, images, strict=True))
    pixels = [_undistorted(keyframes.images[row], image.camera) for row, image in taken]
    masks = keyframes.masks
    if masks is not None:
        masks = np.stack([_undistorted_mask(masks[row], image.camera) for row, image in taken])
    return Views(
        images=np.stack(pixels),
        pts_ns=keyframes.pts_ns[rows],
        index=keyframes.index[rows],
        intrinsics=np.stack([pinhole(image.camera) for image in images]),
        T_world_camera=poses,
        points=xyz.astype(np.float32),
        points_rgb=_colors(pixels, len(ids), point, view, xy),
        points_error_px=error,
        observed_point=point,
        observed_view=view,
        observed_xy=xy,
        candidates=len(keyframes.index) if candidates is None else candidates,
        scale=scale,
        depth=_depth(keyframes, images),
        masks=masks,
        right=_right(keyframes, images),
        baseline_m=keyframes.baseline_m,
    )


def _depth(keyframes: Keyframes, images: list[pycolmap.Image]) -> Array | None:
    """Return the sensor depth of the undistorted images: resampled, values unchanged."""
    if keyframes.depth is None:
        return None
    return np.stack(
        [
            _undistorted(keyframes.depth[image.image_id - 1], image.camera, measured=True)
            for image in images
        ]
    )


def _right(keyframes: Keyframes, images: list[pycolmap.Image]) -> Array | None:
    """Return the undistorted right views, with the left camera, which rectified pairs share."""
    if keyframes.right is None:
        return None
    return np.stack(
        [_undistorted(keyframes.right[image.image_id - 1], image.camera) for image in images]
    )


def _pose(image: pycolmap.Image) -> Array:
    T_camera_world = np.eye(4)
    T_camera_world[:3] = image.cam_from_world().matrix()
    return invert(T_camera_world)


def _observations(
    model: pycolmap.Reconstruction, images: list[pycolmap.Image], number: dict[int, int]
) -> tuple[Array, Array, Array]:
    """Return point index, view index and undistorted pixel of every observation."""
    point, view, xy = [], [], []
    for v, image in enumerate(images):
        seen = [p for p in image.points2D if p.has_point3D()]
        if not seen:
            continue
        pixels = np.array([p.xy for p in seen], np.float64)
        rays = np.asarray(image.camera.cam_from_img(pixels))[:, :2]
        K = pinhole(image.camera)
        straight = rays * [K[0, 0], K[1, 1]] + K[:2, 2]
        # Strong distortion has no inverse near the corners: drop those observations.
        known = np.isfinite(straight).all(axis=1)
        xy.append(straight[known])
        point.append(np.array([number[p.point3D_id] for p in seen], np.int64)[known])
        view.append(np.full(known.sum(), v))
    if not xy:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2), np.float32)
    return (
        np.concatenate(point).astype(np.int32),
        np.concatenate(view).astype(np.int32),
        np.concatenate(xy).astype(np.float32),
    )


def _normalized(poses: Array, xyz: Array, point: Array, view: Array) -> tuple[Array, Array]:
    R_up = upright(poses)
    to_camera = invert(poses)[view]
    z = np.einsum("nj,nj->n", to_camera[:, 2, :3], xyz[point]) + to_camera[:, 2, 3]
    unit = float(np.median(z[z > 0])) if np.any(z > 0) else 1.0
    xyz = xyz @ R_up.T / unit
    origin = np.median(xyz, axis=0)
    poses = poses.copy()
    poses[:, :3, 3] = poses[:, :3, 3] @ R_up.T / unit - origin
    poses[:, :3, :3] = R_up @ poses[:, :3, :3]
    return poses, xyz - origin


def _undistorted_mask(mask: Array, camera: pycolmap.Camera) -> Array:
    """Resample a mask like its image; a pixel that is partly masked becomes masked."""
    return _undistorted(mask.astype(np.uint8) * 255, camera) > 0


def _undistorted(image: Array, camera: pycolmap.Camera, *, measured: bool = False) -> Array:
    """Resample an image to the pinhole camera of the same focal length and center.

    `measured` values are not interpolated, and are unknown (NaN) outside the image.
    """
    K = pinhole(camera)
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    straight = np.asarray(camera.cam_from_img(corners))[:, :2] * [K[0, 0], K[1, 1]] + K[:2, 2]
    if np.abs(np.nan_to_num(straight - corners, nan=1e9)).max() < 0.1:
        return image
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    source = np.asarray(camera.img_from_cam(rays.reshape(-1, 3))).reshape(height, width, 2) - 0.5
    # NaN where there is no solution: treated as outside and filled by the border mode.
    source = np.nan_to_num(source, nan=-1).astype(np.float32)
    if measured:
        return cv2.remap(
            image, source, None, cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan,
        )  # fmt: skip
    return cv2.remap(image, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _colors(pixels: list[Array], count: int, point: Array, view: Array, xy: Array) -> Array:
    """Return the mean color of every point over the views that observe it."""
    total = np.zeros((count, 3))
    seen = np.zeros(count)
    for v, image in enumerate(pixels):
        mine = view == v
        column = np.clip(xy[mine, 0].astype(np.int64), 0, image.shape[1] - 1)
        row = np.clip(xy[mine, 1].astype(np.int64), 0, image.shape[0] - 1)
        # `add.at` also counts a point correctly that a view observes more than once.
        np.add.at(total, point[mine], image[row, column])
        np.add.at(seen, point[mine], 1)
    return np.round(total / np.maximum(seen, 1)[:, None]).astype(np.uint8)
