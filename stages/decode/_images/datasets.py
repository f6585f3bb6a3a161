"""Finding the calibration that lies beside images: nerfstudio, COLMAP, KITTI, 7-Scenes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import SourceError
from stages._geometry.transforms import OPENCV_FROM_OPENGL, invert, rotation_from_wxyz
from stages.decode._error_text import one_line
from stages.decode._images.calibration import Calibration, CameraModel, Floats, rigid
from stages.decode._images.colmap_model import read_colmap

__all__ = ["find_calibration"]

LARGEST_TEXT_BYTES = 64 << 20


def find_calibration(images: list[Path], root: Path) -> Calibration:
    """Read what lies in `root`, beside the images or in the folder above; the first kind wins."""
    folders = list(dict.fromkeys([root, images[0].parent, images[0].parent.parent]))
    for folder in folders:
        if (folder / "transforms.json").is_file():
            return _nerfstudio(folder / "transforms.json", images)
    for folder in folders:
        for name in ("sparse/0", "sparse", "colmap/sparse/0"):
            if any((folder / name / f"images{end}").is_file() for end in (".bin", ".txt")):
                return _colmap(folder / name, name, images)
    if images[0].stem.endswith(".color") and _seven_scenes_pose(images[0]).is_file():
        return _seven_scenes(images)
    for folder in folders:
        if (folder / "calib.txt").is_file():
            return _kitti(folder, images)
    return Calibration("")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_TEXT_BYTES:
            raise SourceError(f"{one_line(str(path))} is larger than {LARGEST_TEXT_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {one_line(str(path))}: {error}") from error


# nerfstudio and instant-ngp


def _nerfstudio(path: Path, images: list[Path]) -> Calibration:
    """Read `transforms.json`: camera-to-world with OpenGL axes, pixel centers at 0.5."""
    try:
        tree = json.loads(_text(path))
        frames = tree["frames"]
        rows = [(str(f["file_path"]), np.array(f["transform_matrix"], float), f) for f in frames]
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(
            f"cannot read {one_line(str(path))}: {type(error).__name__} ({error}); it must hold "
            "'frames' with 'file_path' and 'transform_matrix'; mend it, or move it away"
        ) from error
    known = {image.resolve(): image for image in images}
    by_stem = {image.resolve().with_suffix(""): image for image in images}
    cameras: dict[Path, CameraModel] = {}
    poses: dict[Path, Floats] = {}
    missing, bent = 0, False
    for name, matrix, frame in rows:
        file = (path.parent / name).resolve()
        image = known.get(file) or by_stem.get(file) or by_stem.get(file.with_suffix(""))
        if image is None:
            missing += not file.exists() and not any(
                file.with_suffix(end).exists() for end in (".png", ".jpg")
            )
            continue
        pose = rigid(matrix)
        if pose is not None:
            poses[image] = pose @ OPENCV_FROM_OPENGL
        camera = _nerfstudio_camera({**tree, **frame})
        if camera is not None:
            cameras[image] = camera
        bent = bent or "FISHEYE" in str({**tree, **frame}.get("camera_model", "")).upper()
    warnings = []
    if missing:
        warnings.append(
            f"transforms.json lists {len(rows)} frames; {missing} of their files are missing and "
            f"the other {len(rows) - missing} are used"
        )
    if bent:
        warnings.append("transforms.json has fisheye cameras, which are not undistorted: ignored")
    unposed = len(images) - len(poses)
    if poses and unposed:
        warnings.append(f"{unposed} of {len(images)} images have no pose in transforms.json")
    return Calibration("transforms.json", cameras, poses, warnings=tuple(warnings))


def _nerfstudio_camera(values: dict[str, Any]) -> CameraModel | None:
    if "FISHEYE" in str(values.get("camera_model", "")).upper():
        return None
    try:
        width, height = (float(values[k]) for k in ("w", "h"))
        fx = float(values["fl_x"]) if "fl_x" in values else None
        if fx is None:
            fx = 0.5 * width / math.tan(0.5 * float(values["camera_angle_x"]))
        fy = float(values.get("fl_y", fx))
        cx, cy = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
        distortion = tuple(float(values.get(k, 0)) for k in ("k1", "k2", "p1", "p2", "k3"))
    except (KeyError, TypeError, ValueError):
        return None
    if not (fx > 0 and fy > 0 and width > 0 and height > 0):
        return None
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    return CameraModel(round(width), round(height), K, distortion)


# COLMAP


def _colmap(folder: Path, name: str, images: list[Path]) -> Calibration:
    """Read a COLMAP model: world-to-camera, OpenCV axes, pixel centers at 0.5."""
    model = read_colmap(folder)
    cameras: dict[Path, CameraModel] = {}
    poses: dict[Path, Floats] = {}
    for image in images:
        # Names are relative to COLMAP's image folder, which may be any folder above.
        for depth in range(1, 4):
            row = model.images.get("/".join(image.parts[-depth:]))
            if row is not None:
                world_camera = np.eye(4)
                world_camera[:3, :3] = rotation_from_wxyz(np.array(row.wxyz))
                world_camera[:3, 3] = row.translation
                poses[image] = invert(world_camera)
                camera = model.cameras.get(row.camera)
                if camera is not None:
                    cameras[image] = camera
                break
    warnings = list(model.warnings)
    missing = len(model.images) - len(poses)
    if missing:
        warnings.append(f"{name} has poses of {missing} images that are not here")
    if len(poses) < len(images):
        warnings.append(
            f"{len(images) - len(poses)} of {len(images)} images have no pose in {name}"
        )
    only = list(model.cameras.values())
    if len(only) == 1 and cameras:
        cameras.update({image: only[0] for image in images})
    return Calibration(name, cameras, poses, warnings=tuple(warnings))


# KITTI odometry


def _kitti(folder: Path, images: list[Path]) -> Calibration:
    """Read `calib.txt`, and `poses.txt` and `times.txt` where they are.

    Each line of calib.txt is P = K [I | t] of one camera, with or without a name before it; poses
    are those of camera 0, in meters (Geiger et al., IJRR 2013).
    """
    numbers = [_numbers(line) for line in _text(folder / "calib.txt").splitlines()]
    matrices = [np.array(row).reshape(3, 4) for row in numbers if len(row) == 12]
    which = _kitti_camera(images[0].parent)
    if which >= len(matrices):
        return Calibration(
            "", warnings=(f"calib.txt has no line of 12 numbers for camera {which}: ignored",)
        )
    P = matrices[which]
    # KITTI counts pixel centers from 0.
    K = P[:, :3] + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    camera_0_here = np.eye(4)
    camera_0_here[:3, 3] = -np.linalg.solve(P[:, :3], P[:, 3])
    warnings: list[str] = []
    poses: dict[Path, Floats] = {}
    if (folder / "poses.txt").is_file():
        rows = [_numbers(line) for line in _text(folder / "poses.txt").splitlines() if line.strip()]
        numbered = [_trailing_number(image) for image in images]
        for place, (image, number) in enumerate(zip(images, numbered, strict=True)):
            row = number if number is not None else place
            if row < len(rows) and len(rows[row]) == 12:
                pose = rigid(np.array(rows[row]).reshape(3, 4))
                if pose is not None:
                    poses[image] = pose @ camera_0_here
        if len(poses) < len(images):
            lacking = len(images) - len(poses)
            warnings.append(f"{lacking} of {len(images)} images have no pose in poses.txt")
    times: list[float] = []
    if (folder / "times.txt").is_file():
        stated = [row[0] for row in map(_numbers, _text(folder / "times.txt").splitlines()) if row]
        numbered = [_trailing_number(image) for image in images]
        if all(n is not None and n < len(stated) for n in numbered):
            times = [stated[n] for n in numbered if n is not None]
    camera = CameraModel(0, 0, K)
    return Calibration(
        "calib.txt" + (" and poses.txt" if poses else ""),
        dict.fromkeys(images, camera),
        poses,
        metric=bool(poses),
        baseline_m=_kitti_baseline_m(matrices, which),
        warnings=tuple(warnings),
        times_s=times if np.all(np.diff(times) > 0) else [],
    )


def _kitti_camera(folder: Path) -> int:
    """Return the number of the camera of `image_2`, or of KITTI raw's `image_02/data`."""
    name = folder.parent.name if folder.name == "data" else folder.name
    camera = re.fullmatch(r"image_0?(\d|l|r)", name)
    if camera is None:
        return 0
    return {"l": 0, "r": 1}[camera[1]] if camera[1] in "lr" else int(camera[1])


def _kitti_baseline_m(matrices: list[Floats], left: int) -> float | None:
    """Return how far right of camera `left` the next one is, by P = K [I | t], meters."""
    if left + 1 >= len(matrices):
        return None
    # Of the rectified cameras K is the same: K t = (f tx, 0, 0).
    baseline = (matrices[left][0, 3] - matrices[left + 1][0, 3]) / matrices[left][0, 0]
    return float(baseline) if np.isfinite(baseline) and baseline > 0 else None


def _numbers(line: str) -> list[float]:
    try:
        return [float(word) for word in line.split(":")[-1].split()]
    except ValueError:
        return []


def _trailing_number(image: Path) -> int | None:
    found = re.search(r"(\d+)$", image.stem)
    return int(found[1]) if found else None


# 7-Scenes


def _seven_scenes_pose(image: Path) -> Path:
    return image.with_name(image.stem.removesuffix(".color") + ".pose.txt")


def _seven_scenes(images: list[Path]) -> Calibration:
    """Read one camera-to-world matrix in meters beside each image (Shotton et al., CVPR 2013).

    `camera-intrinsics.txt` is not read: it is the depth camera's (focal length 585 px, while the
    color camera has about 525).
    """
    poses: dict[Path, Floats] = {}
    for image in images:
        path = _seven_scenes_pose(image)
        if path.is_file():
            rows = [_numbers(line) for line in _text(path).splitlines() if line.strip()]
            if [len(row) for row in rows] == [4, 4, 4, 4]:
                pose = rigid(np.array(rows))
                if pose is not None:
                    poses[image] = pose
    lacking = len(images) - len(poses)
    warnings = (f"{lacking} of {len(images)} images have no pose file",) if lacking else ()
    return Calibration("pose.txt", {}, poses, metric=bool(poses), warnings=warnings)
