"""Depth of rectified pairs: right where both cameras see, else unknown, in the poses' units."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d as o3d
import pytest
from scipy.spatial import cKDTree

from pipeline.contract import Context, Metric, Views, Warn
from pipeline.errors import PartNotMade, UsageError
from stages.depth.stereo import Config, Model
from tests.support.motions import clip_of, opened
from tests.support.scenes import Truth, depth_error
from tests.support.stereo_scenes import BASELINE_M, kitti, stereo_film, stereo_views


@pytest.fixture(scope="module")
def truth() -> Truth:
    return stereo_film()


@pytest.fixture(scope="module")
def views(truth: Truth) -> Views:
    return stereo_views(truth)


@pytest.fixture(scope="module")
def depth(truth: Truth) -> np.ndarray:
    return np.stack([truth.depth(i) for i in range(0, len(truth), 2)])


@pytest.fixture(scope="module")
def disparity(truth: Truth) -> np.ndarray:
    return np.stack([-truth.flow(i, i + 1)[..., 0] for i in range(0, len(truth), 2)])


@pytest.fixture(scope="module")
def seen(truth: Truth) -> np.ndarray:
    """What both cameras see."""
    return np.stack([truth.visible(i, i + 1) for i in range(0, len(truth), 2)])


@pytest.fixture(scope="module")
def random_raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file
    from torchvision.models import optical_flow

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "raft.safetensors"
    state = optical_flow.raft_small(weights=None).state_dict()
    # Small flows lead back home within half a pixel, so that some are believed.
    for part in ("weight", "bias"):
        state[f"update_block.flow_head.conv2.{part}"] *= 0.2
    save_file(state, path)
    return path


def made(
    views: Views, flow: Any = None, **options: Any
) -> tuple[np.ndarray, dict[str, float], list[str]]:
    """Depth, figures and warnings; `flow` stands in for RAFT."""
    heard: list[Any] = []
    stage = Model(Config(**options))
    stage.open(Context(report=heard.append))
    if flow is not None:
        stage._raft = flow
    depth = stage.process(views).depth
    figures = {e.name: e.value for e in heard if isinstance(e, Metric)}
    return depth, figures, [e.text for e in heard if isinstance(e, Warn)]


def changed(views: Views, **changes: Any) -> Views:
    return dataclasses.replace(views, **changes)


def resized(views: Views, factor: float) -> Views:
    """The same in units of which a meter has `factor`."""
    poses = views.T_world_camera.copy()
    poses[:, :3, 3] *= factor
    points = views.points * np.float32(factor)
    return changed(views, T_world_camera=poses, points=points, scale="arbitrary")


def off_px(views: Views, found: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    """Error of the disparity that a depth speaks of, NaN where it is unknown."""
    focal = views.intrinsics[:, 0, 0, None, None]
    return np.abs(focal * BASELINE_M / found - disparity)


def test_it_is_right_where_both_cameras_see(
    views: Views, depth: np.ndarray, disparity: np.ndarray, seen: np.ndarray
) -> None:
    found, figures, warnings = made(views)
    assert found.dtype == np.float32
    kept = np.isfinite(found)
    assert (off_px(views, found, disparity)[kept & seen] <= 1).mean() > 0.99
    error = depth_error(found, depth, seen)
    assert error.complete > 0.95
    assert error.abs_rel < 0.015
    hidden = ~seen
    assert 0.01 < hidden.mean() < 0.2
    assert kept[hidden].mean() < 0.2
    assert figures["depth_known_share"] == pytest.approx(kept.mean())
    assert figures["alignment_residual_share"] < 0.02
    assert figures["vertical_residual_px"] < 0.3
    assert "depth_units_per_m" not in figures
    assert warnings == []


def test_the_range_follows_what_is_near(views: Views, disparity: np.ndarray) -> None:
    _, figures, _ = made(views)
    nearest = disparity.max()
    assert nearest < figures["max_disparity_px"] < 3 * nearest
    bare = changed(
        views,
        observed_point=views.observed_point[:0],
        observed_view=views.observed_view[:0],
        observed_xy=views.observed_xy[:0],
    )
    assert nearest < made(bare)[1]["max_disparity_px"] < 3 * nearest
    # Things nearer than the range allows cannot be found: here all of them.
    nearer = changed(views, right=np.roll(views.right, -30, axis=2))
    assert np.isfinite(made(nearer, max_disparity=60)[0]).mean() > 0.85
    found, figures, _ = made(nearer, max_disparity=16)
    assert figures["max_disparity_px"] == 16
    assert np.isfinite(found).mean() < 0.5


@pytest.mark.parametrize("factor", [0.13, 25.0])
def test_of_an_arbitrary_scale_it_follows_the_points(views: Views, factor: float) -> None:
    wanted, _, _ = made(views)
    found, figures, _ = made(resized(views, factor))
    assert figures["depth_units_per_m"] == pytest.approx(factor, rel=0.01)
    both = np.isfinite(found) & np.isfinite(wanted)
    assert both.mean() > 0.85
    assert np.allclose(found[both], factor * wanted[both], rtol=0.012)


def test_a_wrong_baseline_is_told_and_an_option_overrules(views: Views) -> None:
    _, figures, (warning,) = made(views, baseline_m=2 * BASELINE_M)
    assert figures["alignment_residual_share"] == pytest.approx(1, abs=0.05)
    assert warning.startswith("the stereo rig's depth and the sparse points differ by")
    right, _, warnings = made(changed(views, baseline_m=9.0), baseline_m=BASELINE_M)
    assert np.array_equal(right, made(views)[0], equal_nan=True)
    assert warnings == []


def test_views_may_be_reduced_and_far_depth_left_out(
    views: Views, depth: np.ndarray, seen: np.ndarray
) -> None:
    found, _, _ = made(views, working_side=200)
    error = depth_error(found, depth, seen)
    assert error.complete > 0.9
    assert error.abs_rel < 0.04
    whole, _, _ = made(views)
    near, _, _ = made(views, max_depth_m=3)
    with np.errstate(invalid="ignore"):
        wanted = np.where(whole <= 3, whole, np.nan)
    assert 0.1 < np.isfinite(wanted).mean() < 0.9
    assert np.array_equal(near, wanted, equal_nan=True)


def test_any_number_of_threads_says_the_same(views: Views) -> None:
    made_by = []
    for threads in (1, 2):
        stage = Model(Config())
        stage.open(Context(threads=threads))
        made_by.append(stage.process(views).depth)
    assert np.array_equal(*made_by, equal_nan=True)


def test_a_frame_without_a_right_view_has_no_depth(views: Views) -> None:
    right = views.right.copy()
    right[1] = 0
    found, _, _ = made(changed(views, right=right))
    assert np.isnan(found[1]).all()
    assert np.array_equal(found[2:], made(views)[0][2:], equal_nan=True)


@pytest.mark.parametrize("method", ["sgbm", "raft"])
def test_pairs_that_are_not_rectified_are_told(
    views: Views, method: str, random_raft: Path
) -> None:
    """DIS stands in for RAFT, whose weights cannot be had here: any flow will do."""
    options = {"method": method, "weights": str(random_raft), "size": "small"}
    flow = opened("flow", "dis") if method == "raft" else None
    tilted = changed(views, right=np.roll(views.right, 3, axis=1))
    _, figures, heard = made(tilted, flow, **options)
    assert figures["vertical_residual_px"] == pytest.approx(3, abs=0.3)
    assert heard[0].startswith(
        "the stereo pairs are not rectified: points are 3.0 px higher or lower in the right view"
    )
    _, figures, heard = made(views, flow, **options)
    assert figures["vertical_residual_px"] < 0.3
    assert heard == []


def test_flow_between_the_views_is_depth(
    views: Views, depth: np.ndarray, disparity: np.ndarray, seen: np.ndarray, random_raft: Path
) -> None:
    """The way of `method=raft`, with DIS in the place of a network without weights."""
    options = {"method": "raft", "weights": str(random_raft), "size": "small"}
    found, figures, _ = made(views, opened("flow", "dis"), **options)
    kept = np.isfinite(found)
    assert (off_px(views, found, disparity)[kept & seen] <= 1).mean() > 0.92
    assert kept[seen].mean() > 0.9
    assert kept[~seen].mean() < 0.35
    assert depth_error(found, depth, seen).abs_rel < 0.05
    assert figures["alignment_residual_share"] < 0.03


def test_raft_is_flow_raft_on_the_pair(views: Views, random_raft: Path) -> None:
    options = {"weights": str(random_raft), "size": "small", "iterations": 2}
    stage = Model(Config(method="raft", **options, working_side=640))
    stage.open(Context())
    own = opened("flow", "raft", **options)
    trusted = 0
    for k, found in zip(range(2), stage._by_flow(views, views.right), strict=False):
        motion = own.process(clip_of(np.stack([views.images[k], views.right[k]])))
        flow, trust = motion.flow[0], motion.confidence[0]
        assert np.abs(flow).max() > 0.1, "the network says nothing: the test shows nothing"
        same, _ = stage._flow(np.stack([views.images[k], views.right[k]]), "x")
        assert np.abs(same - flow).max() <= 1e-5
        assert np.abs(found - np.where(trust >= 0.5, -flow[..., 0], 0)).max() <= 1e-5
        trusted += np.count_nonzero(trust >= 0.5)
    assert trusted


def test_raft_speaks_of_the_options_of_this_step(random_raft: Path) -> None:
    stage = Model(Config(method="raft"))
    (weights,) = stage.weights
    assert weights in Model.catalog()
    assert weights.instead == "depth.method=sgbm"
    assert Model(Config()).weights == ()
    own = Config(method="raft", weights=str(random_raft), size="small", precision="float16")
    with pytest.raises(UsageError, match=r"depth\.precision=float16 needs a GPU"):
        Model(own.model_copy(update={"device": "cpu"})).open(Context())


def test_what_is_lacking_is_said(views: Views) -> None:
    with pytest.raises(PartNotMade) as refused:
        made(changed(views, right=None))
    assert str(refused.value) == (
        "no right views came with the source; depth/stereo takes rectified pairs: frames that hold "
        "both (decode.stereo=side_by_side or top_bottom), or folders of images with the same names "
        "(left and right, image_2 and image_3); use depth/multiview for one camera"
    )
    with pytest.raises(PartNotMade) as refused:
        made(changed(views, baseline_m=None))
    assert str(refused.value) == (
        "the distance between the two cameras is unknown: set depth.baseline_m in meters "
        "(or put KITTI's calib.txt beside the images)"
    )
    with pytest.raises(PartNotMade, match=r"points are .* px farther right in the right view"):
        made(changed(views, images=views.right, right=views.images))
    few = resized(
        changed(
            views,
            observed_point=views.observed_point[:5],
            observed_view=views.observed_view[:5],
            observed_xy=views.observed_xy[:5],
        ),
        2,
    )
    with pytest.raises(PartNotMade, match=r"too few of their sparse points .* the stereo rig"):
        made(few)


@pytest.mark.parametrize("gray", [0, 90, 255])
def test_pictures_of_nothing(gray: int, views: Views) -> None:
    blank = np.full(views.images.shape, gray, np.uint8)
    for left, right in ((blank, blank), (views.images, blank), (blank, views.right)):
        with pytest.raises(PartNotMade) as refused:
            made(changed(views, images=left, right=right))
        assert str(refused.value) == (
            "nothing in the left views was matched in the right ones, in any of 5 pairs; check "
            "that they are rectified, and decode.stereo"
        )


def test_tiny_and_wide_pictures(views: Views) -> None:
    tiny = changed(views, images=views.images[:, :8, :8], right=views.right[:, :8, :8])
    with pytest.raises(PartNotMade, match="images of at least 16 px per side, got 8x8"):
        made(tiny)
    strip = changed(views, images=views.images[:, :20], right=views.right[:, :20])
    inside = views.observed_xy[:, 1] < 20
    strip = changed(
        strip,
        observed_point=views.observed_point[inside],
        observed_view=views.observed_view[inside],
        observed_xy=views.observed_xy[inside],
    )
    assert np.isfinite(made(strip)[0]).mean() > 0.6


def test_the_command_from_the_folder_to_the_cloud(
    here: Callable[..., Any], truth: Truth, tmp_path: Path
) -> None:
    kitti(tmp_path / "drive", truth)
    done = here(
        *("run", tmp_path / "drive", "--out", "out", "sample.model=dense", "keyframe.model=every"),
        *("flow.model=none", "action.model=none", "pose.model=given", "depth.model=stereo"),
        *("splat.model=none", "fuse.model=tsdf", "report.model=none"),
        *("export.frames=none", "export.events=none", "export.colmap=none", "export.mesh=none"),
        *("export.transforms=none", "export.trajectory=none"),
        *("export.flow_video=none", "export.depth_video=none", "export.storyboard=none"),
        *("export.splats=none", "export.splat_video=none", "export.held_out=none"),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["source"]["stereo"] == "image_3/"
    rows = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    (figures,) = [row for row in rows if row["stage"] == "depth/stereo"]
    assert figures["alignment_residual_share"] < 0.03
    assert figures["depth_known_share"] > 0.9
    cloud = np.asarray(o3d.io.read_point_cloud(str(tmp_path / "out" / "points.ply")).points)
    assert len(cloud) > 5000
    true = np.concatenate([truth.points(i)[0] for i in range(0, len(truth), 2)])
    nearest, _ = cKDTree(true).query(cloud)
    assert np.median(nearest) < 0.05


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "unit", "wrong", "known"),
    [
        ("cones", 4, 0.07, 0.82),
        ("tsukuba", 16, 0.05, 0.88),
        ("venus", 8, 0.04, 0.87),
        ("bull", 8, 0.03, 0.9),
    ],
)
def test_middlebury(
    data: Path, views: Views, name: str, unit: int, wrong: float, known: float
) -> None:
    """Share of what is kept that is off by more than 1 px, and of what is kept."""
    folder = data / "stereo-middlebury" / name
    left, right = (cv2.imread(str(folder / f"im{n}.png"))[None, ..., ::-1].copy() for n in (2, 6))
    true = cv2.imread(str(folder / "disp2.png"), cv2.IMREAD_GRAYSCALE) / unit
    alone = Views(
        images=left,
        right=right,
        baseline_m=1.0,
        intrinsics=np.array([[[500.0, 0, 200], [0, 500, 180], [0, 0, 1]]]),
        T_world_camera=np.eye(4)[None],
        pts_ns=np.zeros(1, np.int64),
        index=np.zeros(1, np.int64),
        points=np.zeros((0, 3), np.float32),
        points_rgb=np.zeros((0, 3), np.uint8),
        points_error_px=np.zeros(0, np.float32),
        observed_point=np.zeros(0, np.int32),
        observed_view=np.zeros(0, np.int32),
        observed_xy=np.zeros((0, 2), np.float32),
        candidates=1,
        scale="metric",
    )
    found, _, warnings = made(alone)
    off = np.abs(500 / found[0] - true)[true > 0]
    assert (off[np.isfinite(off)] > 1).mean() < wrong
    assert np.isfinite(off).mean() > known
    assert warnings == []
