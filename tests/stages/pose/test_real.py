"""Keyframes and poses on real clips, from the file on."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.contract import Context, Keyframes, Source, Views
from pipeline.contract.stage import find, options_of
from pipeline.errors import PartNotMade
from stages._geometry.transforms import align_sim3

pytestmark = pytest.mark.data


def opened(step: str, model: str):
    stage = find(step, model)(options_of(step, model)())
    stage.open(Context(threads=2))
    return stage


def keyframes_of(path: Path) -> Keyframes:
    reader = opened("decode", "images" if path.is_dir() else "pyav").process(
        Source(uri=str(path), shown=path.name, name="clip")
    )
    sample, flow, keyframe = (
        opened("sample", "adaptive"),
        opened("flow", "dis"),
        opened("keyframe", "parallax"),
    )
    for frames in sample.process(reader):
        keyframe.process(frames, flow.process(frames))
    reader.close()
    return keyframe.finish()


def posed(path: Path) -> Views:
    return opened("pose", "colmap").process(keyframes_of(path))


@pytest.mark.parametrize(
    "clip", ["sfm-clips-anysplat/llff_horns.mp4", "sfm-clips-gsplat/viewer_garden_480p.mp4"]
)
def test_every_keyframe_is_posed(data: Path, clip: str):
    views = posed(data / clip)
    assert len(views.index) >= 0.95 * views.candidates
    assert views.candidates >= 10
    assert np.median(views.points_error_px) < 1


def test_a_drive_with_known_intrinsics(data: Path):
    folder = data / "kitti-seq1"
    views = posed(folder / "image_l")
    assert len(views.index) == views.candidates
    # calib.txt holds for the 1226 columns of the files.
    focal_px = 707.0912 * views.images.shape[2] / 1226
    np.testing.assert_allclose(views.intrinsics[:, 0, 0], focal_px, rtol=1e-3)
    true = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)[views.index, :, 3]
    s, R, t = align_sim3(views.T_world_camera[:, :3, 3], true)
    off = s * views.T_world_camera[:, :3, 3] @ R.T + t - true
    assert np.sqrt(np.mean(np.sum(off**2, axis=1))) < 0.03


@pytest.mark.parametrize(
    ("clip", "why"),
    [
        ("surveillance-opencv/768x576.avi", "no parallax: the camera stands still ("),
        ("surveillance-intel/car-detection.mp4", "no parallax: the camera stands still ("),
        ("action-intel-asl/again.mkv", "no parallax: the camera stands still ("),
        ("sfm-clips-vggt/room.mp4", "too little overlap: only "),
    ],
)
def test_what_cannot_be_posed_says_why(data: Path, clip: str, why: str):
    with pytest.raises(PartNotMade) as failure:
        posed(data / clip)
    assert str(failure.value).startswith(why)
