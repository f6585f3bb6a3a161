"""`reel3d run` with the default preset on a rendered film, held to the film's exact truth."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from scipy.spatial import KDTree

import pipeline
from pipeline.cli.main import main
from stages._formats.gaussian_ply_reader import read_splats
from tests.support.judge import Verdict, judge
from tests.support.readme import python_examples
from tests.support.scenes import encode, tour

pytestmark = pytest.mark.slow

WORDS = ["export.depth_png=on", "export.flo=on", "export.flo.every=12"]
# A fifth of the default's training: enough to tell right from wrong.
WORDS += ["splat.steps=250", "splat.seconds=600", "splat.gaussians=20000"]
WORDS += ["export.splat_video.seconds=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture(scope="module")
def verdict(folder: Path) -> Verdict:
    """Run once on the demo's tour, smaller; every test looks at another side of the result."""
    path = folder.parent / "tour.mp4"
    truth = tour(1, width=384, height=216, fps=15)
    encode(path, truth.images, fps=15)
    # A process of its own, so that the memory is that of this run alone.
    words = ["run", str(path), "--out", str(folder), "--quiet", *WORDS]
    subprocess.run([sys.executable, "-m", "pipeline.cli", *words], check=True)
    return judge(folder, truth)


def test_the_cameras_are_found(verdict: Verdict) -> None:
    assert verdict.keyframes_posed is not None
    assert verdict.keyframes_posed >= 0.95
    assert verdict.trajectory is not None
    assert verdict.trajectory.percent <= 0.1
    assert verdict.trajectory.count >= 20


def test_depth_is_right_where_it_is_known(verdict: Verdict) -> None:
    assert verdict.depth_abs_rel is not None
    assert verdict.depth_known is not None
    assert verdict.depth_abs_rel <= 0.03
    assert verdict.depth_known >= 0.6


def test_the_cloud_is_the_room(verdict: Verdict) -> None:
    assert verdict.cloud is not None
    assert verdict.cloud.f >= 0.7


def test_what_happened_is_told(verdict: Verdict) -> None:
    assert verdict.camera is not None
    assert verdict.objects is not None
    assert verdict.camera.found == 1
    assert verdict.camera.right >= 0.9
    assert verdict.objects.found == 1


def test_flow_is_right(verdict: Verdict) -> None:
    assert verdict.flow_epe_px is not None
    assert verdict.flow_epe_px <= 0.75


def test_the_splats_look_like_views_that_they_were_not_trained_on(
    verdict: Verdict, folder: Path
) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = {line["stage"]: line for line in map(json.loads, lines)}["splat/cpu"]
    assert found["held_out_psnr_db"] > 25
    assert found["held_out_ssim"] > 0.7
    splats = read_splats(folder / "splats.ply")
    assert len(splats.means) == found["gaussians"] > 10_000
    told = json.loads((folder / "splats" / "held_out.json").read_text())
    assert abs(np.mean([view["psnr_db"] for view in told]) - found["held_out_psnr_db"]) < 0.5
    assert (folder / "splats.mp4").stat().st_size > 20_000


def test_other_programs_open_it(verdict: Verdict, folder: Path) -> None:
    model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
    names = {image.name for image in model.images.values()}
    assert names == {path.name for path in (folder / "images").iterdir()}
    assert model.num_points3D() > 500
    cameras = json.loads((folder / "transforms.json").read_text())
    assert {Path(f["file_path"]).name for f in cameras["frames"]} == names


def test_it_takes_no_more_than_it_may(verdict: Verdict, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["exit_code"] == 0
    assert manifest["peak_memory_bytes"] <= 2.4e9


def test_resume_redoes_the_surface_and_nothing_before_it(verdict: Verdict, folder: Path) -> None:
    before = (folder / "trajectory.tum").stat().st_mtime_ns
    cloud = (folder / "points.ply").read_bytes()
    source = str(folder.parent / "tour.mp4")
    words = ["run", source, "--out", str(folder), "--resume", "--quiet", *WORDS]
    words += ["splat.steps=3", "export.splat_video=none", "fuse.voxel=0.02"]
    assert main(words) == 0
    assert (folder / "trajectory.tum").stat().st_mtime_ns == before
    assert (folder / "points.ply").read_bytes() != cloud


def test_readmes_python_does_what_it_says(
    verdict: Verdict,
    folder: Path,
    short_film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    (tmp_path / "holiday.mp4").symlink_to(short_film)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "kitchen").symlink_to(folder)
    making, reading = python_examples("From Python")

    made: dict[str, Any] = {}
    exec(compile(making, "README.md", "exec"), made)
    assert made["run"].folder == Path("runs/holiday")
    assert "truck-right" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "holiday" / "flow.mp4").exists(), "the second run left it out"

    read: dict[str, Any] = {}
    exec(compile(reading, "README.md", "exec"), read)
    assert read["run"].parts == ("events", "frames", "cameras", "points", "mesh", "splats")
    assert verdict.keyframes_posed is not None
    assert len(read["cameras"].pts_ns) == len(read["cameras"]) == len(read["model"].images)
    assert (np.diff(read["cameras"].pts_ns) > 0).all()
    assert (tmp_path / "kitchen.png").stat().st_size > 10_000
    assert "there is no run folder runs/nowhere" in capsys.readouterr().out
    # What camera 0 sees, put into the world by README's formula, lies on the fused surface.
    cloud = np.asarray(read["cloud"].points)
    away = KDTree(cloud).query(read["surface"][::50])[0]
    assert np.median(away) < 0.02, "in units of the median depth"
    assert read["splats"].means.shape[0] <= 20_000


def test_depth_of_a_run_is_what_it_wrote(verdict: Verdict, folder: Path, tmp_path: Path) -> None:
    run = pipeline.open(folder)
    exact = run.depth(0)
    without_state = tmp_path / "run"
    without_state.mkdir()
    for path in folder.iterdir():
        if path.name != ".reel3d":
            (without_state / path.name).symlink_to(path)
    written = pipeline.open(without_state).depth(0)
    step = json.loads((folder / "depth" / "scale.json").read_text())["unit_per_step"]
    assert np.array_equal(np.isnan(exact), np.isnan(written))
    assert np.nanmax(np.abs(exact - written)) <= step
    assert not np.array_equal(exact, written, equal_nan=True), "one is float32, the other 16 bits"
