"""The sensor's depth arrives in the units of the poses, at the pixels that it was measured for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.contract import Context, Keyframes, Metric, Views, Warn
from pipeline.errors import PartNotMade
from stages._geometry.transforms import OPENCV_FROM_OPENGL, align_sim3
from stages.depth.given import Config, Model
from tests.stages.pose.test_real import keyframes_of
from tests.support.media import read, sample
from tests.support.motions import opened
from tests.support.posed import posed_views
from tests.support.scenes import Truth, alone


@pytest.fixture(scope="module")
def truck() -> Truth:
    return alone("truck-right", seed=1)


@pytest.fixture(scope="module")
def views(truck: Truth) -> Views:
    """Views with exact depth but for holes, in meters."""
    bare = posed_views(truck, range(0, 60, 12))
    depth = np.stack([truck.depth(int(i)) for i in bare.index])
    depth[:, ::7] = np.nan
    return dataclasses.replace(bare, depth=depth)


def made(views: Views, **options: Any) -> tuple[np.ndarray, dict[str, float], list[str]]:
    heard: list[Any] = []
    stage = Model(Config(**options))
    stage.open(Context(report=heard.append))
    depth = stage.process(views).depth
    figures = {e.name: e.value for e in heard if isinstance(e, Metric)}
    return depth, figures, [e.text for e in heard if isinstance(e, Warn)]


def resized(views: Views, factor: float) -> Views:
    """The same in units of which a meter has `factor`."""
    poses = views.T_world_camera.copy()
    poses[:, :3, 3] *= factor
    return dataclasses.replace(
        views,
        T_world_camera=poses,
        points=views.points * np.float32(factor),
        scale="arbitrary",
    )


def test_with_poses_in_meters_it_is_taken_as_it_is(views: Views) -> None:
    depth, figures, warnings = made(views)
    assert np.array_equal(depth, views.depth, equal_nan=True)
    assert figures["alignment_residual_share"] < 0.005
    assert figures["depth_known_share"] == pytest.approx(6 / 7, abs=0.01)
    assert "depth_units_per_m" not in figures
    assert warnings == []


@pytest.mark.parametrize("factor", [0.13, 25.0])
def test_of_an_arbitrary_scale_it_follows_the_points(views: Views, factor: float) -> None:
    """Also where a third of the points are plainly wrong."""
    rng = np.random.default_rng(1)
    points = views.points.copy()
    wrong = rng.random(len(points)) < 0.3
    center = views.T_world_camera[0, :3, 3].astype(np.float32)
    points[wrong] = center + 2.5 * (points[wrong] - center)
    spoiled = resized(dataclasses.replace(views, points=points), factor)
    depth, figures, _ = made(spoiled)
    assert figures["depth_units_per_m"] == pytest.approx(factor, rel=0.005)
    assert np.allclose(depth, views.depth * factor, rtol=0.006, equal_nan=True)


def test_units_that_cannot_be_right_are_told(views: Views) -> None:
    wrong = dataclasses.replace(views, depth=views.depth * np.float32(5))
    _, figures, (warning,) = made(wrong)
    assert figures["alignment_residual_share"] == pytest.approx(4, abs=0.1)
    assert warning == (
        "the sensor's depth and the sparse points differ by 400 % (median): check "
        "decode.depth_per_m, and whether depth and color are from the same camera"
    )


def test_far_depth_may_be_left_out(views: Views) -> None:
    depth, _, _ = made(views, max_depth_m=2.5)
    near = views.depth <= 2.5
    assert 0.05 < near.mean() < 0.8
    assert np.array_equal(depth, np.where(near, views.depth, np.nan), equal_nan=True)


def test_what_is_lacking_is_said(views: Views) -> None:
    with pytest.raises(PartNotMade) as refused:
        made(dataclasses.replace(views, depth=None))
    assert str(refused.value) == (
        "no depth came with the source; depth/given takes 16-bit PNG beside the images "
        "(frame-*.depth.png, TUM's depth.txt, or a folder depth/ with the same names), read with "
        "decode.model=images; use depth/multiview to compute it"
    )
    nothing = dataclasses.replace(views, depth=np.full_like(views.depth, np.nan))
    with pytest.raises(PartNotMade, match="the sensor measured no depth in any of the 5 views"):
        made(nothing)
    few = dataclasses.replace(
        resized(views, 2.0),
        observed_point=views.observed_point[:7],
        observed_view=views.observed_view[:7],
        observed_xy=views.observed_xy[:7],
    )
    with pytest.raises(PartNotMade, match="the poses have arbitrary scale, and too few"):
        made(few)
    metric = dataclasses.replace(few, scale="metric")
    assert np.array_equal(made(metric)[0], views.depth, equal_nan=True)


def test_from_the_folder_to_the_depth(truck: Truth, views: Views, tmp_path: Path) -> None:
    """Files in the layout of ScanNet with nerfstudio's poses, in units of half a meter."""
    frames = []
    for i in range(0, 60, 12):
        for kind, image in (
            ("color", truck.images[i][..., ::-1]),
            ("depth", np.round(truck.depth(i) * 1000).astype(np.uint16)),
        ):
            (tmp_path / kind).mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / kind / f"{i}.png"), image)
        pose = truck.T_world_camera[i].copy()
        pose[:3, 3] *= 2
        frames.append(
            {
                "file_path": f"color/{i}.png",
                "transform_matrix": (pose @ OPENCV_FROM_OPENGL).tolist(),
            }
        )
    K = truck.K[0]
    lens = {"w": truck.width, "h": truck.height, "fl_x": K[0, 0], "cx": K[0, 2], "cy": K[1, 2]}
    (tmp_path / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    keyframe = opened("keyframe", "every")
    for clip in sample(read(tmp_path, "images"), "dense"):
        keyframe.process(clip)
    keyframes: Keyframes = keyframe.finish()
    posed: Views = opened("pose", "given").process(keyframes)
    assert len(posed.index) == 5
    depth, figures, _ = made(posed)
    assert figures["depth_units_per_m"] == pytest.approx(2, rel=0.01)
    true = np.stack([truck.depth(12 * int(i)) for i in posed.index])
    assert np.allclose(depth, 2 * true, rtol=0.012)


@pytest.mark.data
def test_the_red_kitchen(data: Path) -> None:
    """Without the poses of the recording: its depth says how large the reconstruction is."""
    keyframes = keyframes_of(data / "rgbd-redkitchen-a")
    views = opened("pose", "colmap").process(keyframes)
    _, figures, warnings = made(views)
    rows = np.searchsorted(keyframes.index, views.index)
    true = keyframes.T_world_camera[rows, :3, 3]
    per_m = 1 / align_sim3(views.T_world_camera[:, :3, 3], true)[0]
    assert figures["depth_units_per_m"] == pytest.approx(per_m, rel=0.03)
    assert figures["alignment_residual_share"] < 0.03
    assert figures["depth_known_share"] > 0.65
    assert warnings == []
