"""`import pipeline`: runs, opens and reads as the command does, with its errors."""

import ast
import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pipeline
from pipeline.cli.main import main
from pipeline.contract import Context
from pipeline.contract.read_back import PosedCameras, read_back
from pipeline.contract.stage import find, options_of, ports
from pipeline.errors import PartNotMade, SourceError, UsageError
from stages._geometry.transforms import invert
from tests.pipeline.contract import test_stage
from tests.support import results
from tests.support.paths import ROOT
from tests.support.readme import python_examples
from tests.support.splatted import room
from tests.support.stage_ends import StageEnds

Reel3d = Callable[..., subprocess.CompletedProcess[str]]

QUICK: dict[str, Any] = {"preset": "understand", "sample": {"model": "fps", "fps": 15}}


@pytest.fixture(scope="module")
def heard() -> StageEnds:
    return StageEnds()


@pytest.fixture(scope="module")
def run(
    short_film: Path, tmp_path_factory: pytest.TempPathFactory, heard: StageEnds
) -> pipeline.Run:
    out = tmp_path_factory.mktemp("api") / "truck"
    return pipeline.run(short_film, out=out, listener=heard, **QUICK)


@pytest.fixture
def place(tmp_path: Path) -> pipeline.Run:
    """A run folder with a place in it, made by the exporters."""
    folder = tmp_path / "place"
    folder.mkdir()
    views, points, depth = results.views(), results.points(), results.depth_maps()
    exports = ("transforms", "colmap", "points", "mesh", "depth_png")
    for model in exports:
        results.export(model, folder, [(views, points, depth)])
    stages = [
        {"step": "export", "model": model, "state": "made", "losses": [], "warnings": []}
        for model in exports
    ]
    manifest = {"exit_code": 0, "stages": stages, "artifacts": [], "left_out": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return pipeline.open(folder)


def test_importing_it_loads_nothing_and_any_python_can_read_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import pipeline; "
        "print(sorted(set(sys.modules) - before)); "
        "print('run' in dir(pipeline), pipeline.errors.UsageError.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["['__future__', 'pipeline']", "True 2"]
    source = (ROOT / "pipeline" / "__init__.py").read_text()
    ast.parse(source, feature_version=(3, 8))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'runn'"):
        _ = pipeline.runn  # type: ignore[attr-defined]


def test_a_run_makes_what_the_command_makes(
    run: pipeline.Run, heard: StageEnds, here: Reel3d, short_film: Path, tmp_path: Path
) -> None:
    done = here(
        *("run", short_film, "--out", tmp_path / "b", "--preset", "understand"),
        *("sample.model=fps", "sample.fps=15"),
    )
    assert done.returncode == run.exit_code == 0
    listed = {a["path"]: a["sha256"] for a in pipeline.open(tmp_path / "b").manifest["artifacts"]}
    mine = {a["path"]: a["sha256"] for a in run.manifest["artifacts"]}
    assert listed.keys() == mine.keys()
    for name in ("events.jsonl", "frames.parquet", "flow.mp4", "config.yaml"):
        assert listed[name] == mine[name]
    assert heard.states["flow/dis"] == "made"
    assert run.losses == []


def test_the_tables_are_arrow(run: pipeline.Run) -> None:
    assert run.parts == ("events", "frames")
    assert run.events.schema.field("start_box").type == pa.list_(pa.float64(), 4)
    assert "truck-right" in run.events["label"].to_pylist()
    assert run.frames.num_rows == run.metrics["decode/pyav"]["items"]
    assert run.frames is run.frames
    assert "parts: events, frames" in repr(run)


def test_resume_does_nothing_twice(run: pipeline.Run, short_film: Path) -> None:
    assert not run.did_nothing
    again = pipeline.run(short_film, out=run.folder, resume=True, **QUICK)
    assert again.did_nothing
    assert again.manifest == run.manifest


def test_what_the_options_left_out_is_named(run: pipeline.Run) -> None:
    for name in ("cameras", "points", "mesh", "splats"):
        with pytest.raises(UsageError) as caught:
            getattr(run, name)
        assert f"holds no {'point cloud' if name == 'points' else name}" in str(caught.value)
        assert "is off; `reel3d run … --resume`" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flwo": {"model": "dis"}}, "there is no step 'flwo'"),
        ({"flow": "raft"}, "flow must hold options, got 'raft'; such as flow.model=…"),
        ({"flow": {"model": "rafft"}}, "flow has no model 'rafft'"),
        ({"sample": {"fsp": 1}}, "sample has no option 'fsp'"),
        ({"sample": {"model": "fps", "fps": -1}}, "sample.fps = -1 is not allowed"),
        ({"export": {"flo": None}}, "export.flo = None is not allowed"),
        ({"export": {"floo": True}}, "export has no model 'floo'"),
        ({"preset": "understnad"}, "did you mean 'understand'?"),
        ({"runner": "ray"}, "there is no runner 'ray'; allowed are local and cluster"),
        ({"address": "auto"}, "--address is for the cluster runner"),
        ({"progress": True, "listener": StageEnds()}, "progress and listener exclude each other"),
    ],
)
def test_a_wrong_option_is_the_commands_error(
    options: dict[str, Any], said: str, short_film: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError) as caught:
        pipeline.run(short_film, out=out, **{**QUICK, **options})
    assert said in str(caught.value)
    assert not out.exists()


def test_a_path_is_an_option_and_a_format_is_a_switch(tmp_path: Path) -> None:
    config = pipeline.config.load(  # type: ignore[attr-defined]
        options={
            "depth": {"model": "transformer", "checkpoint": tmp_path},
            "export": {"flo": {"every": 3}, "ply": False} | {"mesh": False, "masks": True},
        },
        uri="a.mp4",
    )
    tree = config.as_tree()
    assert tree["depth"]["checkpoint"] == str(tmp_path)
    assert tree["export"]["flo"]["every"] == 3
    assert "masks" in tree["export"]
    assert not {"mesh", "ply"} & tree["export"].keys()


def test_a_source_that_is_none_is_the_commands_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        pipeline.run(tmp_path / "nowhere.mp4", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_several_sources_one_may_fail(short_film: Path, tmp_path: Path) -> None:
    bad, good = pipeline.run_all(
        [tmp_path / "nowhere.mp4", short_film], out=tmp_path / "trip", **QUICK
    )
    assert isinstance(bad, SourceError)
    assert isinstance(good, pipeline.Run)
    assert good.folder == tmp_path / "trip" / "truck"


@pytest.mark.parametrize("kind", ["none", "empty", "interrupted", "busy"])
def test_what_is_no_finished_run_is_the_line_of_view(
    kind: str, run: pipeline.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    if kind == "empty":
        folder.mkdir()
    elif kind != "none":
        shutil.copytree(run.folder, folder)
        (folder / "manifest.json").unlink()
    with (run.folder / ".reel3d" / "lock").open("w") as other:
        lock = (folder / ".reel3d" / "lock").open("w") if kind == "busy" else other
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(UsageError) as caught:
            pipeline.open(folder)
        assert main(["view", str(folder)]) == 2
        lock.close()
    assert capsys.readouterr().err.strip() == f"reel3d: {caught.value}"
    assert {
        "none": "there is no run folder",
        "empty": "holds no complete run; `reel3d run … --resume` finishes it",
        "interrupted": "holds no complete run; `reel3d run … --resume` finishes it",
        "busy": "a reel3d is working on it; wait for it",
    }[kind] in str(caught.value)


def test_the_cameras_are_those_of_the_views(place: pipeline.Run) -> None:
    views, cameras = results.views(), place.cameras
    np.testing.assert_array_equal(cameras.index, views.index)
    np.testing.assert_allclose(cameras.T_world_camera, views.T_world_camera, atol=1e-12)
    np.testing.assert_array_equal(cameras.K, views.intrinsics)
    assert (cameras.height, cameras.width) == views.images.shape[1:3]
    assert cameras.pts_ns is None, "there is no frame table"
    assert all((place.folder / name).is_file() for name in cameras.names)
    model = cameras.pycolmap()
    by_name = {f"images/{image.name}": image for image in model.images.values()}
    for name, pose in zip(cameras.names, cameras.T_world_camera, strict=True):
        expected = invert(pose)[:3]
        got = by_name[name].cam_from_world().matrix()
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_points_and_mesh_are_those_of_the_message(place: pipeline.Run) -> None:
    points = results.points()
    np.testing.assert_array_equal(np.asarray(place.points.points, np.float32), points.xyz)
    np.testing.assert_allclose(np.asarray(place.points.colors) * 255, points.rgb, atol=1e-9)
    np.testing.assert_array_equal(np.asarray(place.mesh.triangles), points.triangles)
    moved = place.points.translate((1, 0, 0))
    assert not np.array_equal(np.asarray(moved.points), np.asarray(place.points.points))


def test_depth_images_are_read_in_world_units(place: pipeline.Run) -> None:
    truth = results.depth_maps().depth
    for i in range(len(place.cameras)):
        depth = place.depth(i)
        assert depth.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(depth), ~(np.isfinite(truth[i]) & (truth[i] > 0)))
        # Rounded to whole millimeters; float32 adds its own.
        assert np.nanmax(np.abs(depth - truth[i])) <= 0.0005 + 1e-6
    with pytest.raises(IndexError):
        place.depth(len(place.cameras))
    shutil.rmtree(place.folder / "depth")
    with pytest.raises(UsageError, match=r"holds no depth of frame .*export.depth_png=on writes"):
        place.depth(0)


def test_splats_are_as_gsplat_takes_them(place: pipeline.Run) -> None:
    _, views, splats = room()
    results.export("splats", place.folder, [(views, splats)])
    arrays = place.splats
    np.testing.assert_array_equal(arrays.means, splats.means)
    np.testing.assert_allclose(np.log(arrays.scales), splats.log_scales, atol=1e-5)
    logits = splats.opacity_logits.astype(np.float64)
    np.testing.assert_allclose(arrays.opacities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert arrays.opacities.dtype == arrays.scales.dtype == np.float32
    np.testing.assert_array_equal(arrays.sh, splats.sh)
    assert arrays.sh.shape[1] == (arrays.sh_degree + 1) ** 2


def test_why_a_part_is_missing(place: pipeline.Run) -> None:
    (place.folder / "mesh.ply").unlink()
    with pytest.raises(PartNotMade, match="the source gave nothing to write into it"):
        _ = place.mesh
    loss = {"what": "camera poses", "why": "no parallax: nothing to reconstruct"}
    place.manifest["stages"].append(
        {"step": "pose", "model": "colmap", "losses": [loss], "warnings": ["slow"]}
    )
    with pytest.raises(PartNotMade, match=r"no mesh.ply\): camera poses: no parallax"):
        _ = place.mesh
    assert place.losses == [("pose/colmap", "camera poses", loss["why"])]
    assert place.warnings == [("pose/colmap", "slow")]
    place.manifest["artifacts"].append({"path": "mesh.ply"})
    with pytest.raises(UsageError, match="it was deleted"):
        _ = place.mesh


def test_view_writes_a_picture(
    place: pipeline.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "a.png"
    assert place.view(picture) == picture
    assert picture.stat().st_size > 1000
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    (place.folder / "report.html").write_text("<p>")
    assert place.view() == place.folder / "report.html"


def test_an_exporter_reads_only_what_it_says(place: pipeline.Run) -> None:
    with pytest.raises(TypeError, match=r"stages/export/flo.py does not read what it writes"):
        read_back("flo", PosedCameras, place.folder)


def test_readmes_model_keeps_the_contract(
    here: Reel3d, short_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = python_examples("Adding a model")
    folder = tmp_path / "own" / "stages" / "flow"
    folder.mkdir(parents=True)
    (folder / "nothing.py").write_text(source)
    words = ("flow.model=nothing", "sample.model=fps", "sample.fps=5")
    done = here(
        "run", short_film, "--out", "a", "--preset", "understand", *words, models=tmp_path / "own"
    )
    assert done.returncode == 0, done.stderr
    package = sys.modules["stages.flow"]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    test_stage.models.cache_clear()
    try:
        test_stage.test_every_model_keeps_the_contract("flow", "nothing")
        test_stage.test_a_model_makes_what_its_step_is_for("flow", "nothing")
        stage = find("flow", "nothing")(options_of("flow", "nothing")(confidence=0.25))
        stage.open(Context())
        frames, _ = results.clips()[0]
        motion = stage.process(frames=frames)
        assert ports(type(stage)).makes == (type(motion),)
        assert motion.confidence.min() == motion.confidence.max() == 0.25
    finally:
        test_stage.models.cache_clear()
        sys.modules.pop("stages.flow.nothing", None)
