"""The fused surface against rendered truth, and what fusion refuses."""

import dataclasses

import numpy as np
import pytest

from pipeline.contract import Context, DepthMaps, Points, Views, Warn
from pipeline.contract.stage import find, options_of, ports
from pipeline.errors import PartNotMade, UsageError
from stages.fuse import tsdf
from tests.support.posed import posed_views
from tests.support.scenes import Truth, alone, cloud_score, true_cloud


def fused(views: Views, depth: np.ndarray, **options: object) -> tuple[Points, list[object]]:
    events: list[object] = []
    stage = tsdf.Model(tsdf.Config(**options))
    stage.open(Context(threads=2, report=events.append))
    try:
        return stage.process(views=views, depth=DepthMaps(depth=depth)), events
    finally:
        stage.close()


def true_depth(truth: Truth, views: Views) -> np.ndarray:
    """Unknown on the ball, which `true_cloud` leaves out."""
    frames = [int(i) for i in views.index]
    return np.stack([np.where(truth.ball(i), np.float32(np.nan), truth.depth(i)) for i in frames])


@pytest.fixture(scope="module")
def truth() -> Truth:
    return alone("truck-right", seed=1)


@pytest.fixture(scope="module")
def views(truth: Truth) -> Views:
    return posed_views(truth, range(0, 60, 6))


@pytest.fixture(scope="module")
def depth(truth: Truth, views: Views) -> np.ndarray:
    return true_depth(truth, views)


@pytest.fixture(scope="module")
def points(views: Views, depth: np.ndarray) -> Points:
    return fused(views, depth, max_depth=100)[0]


def test_true_depth_gives_the_true_surface(points: Points, truth: Truth) -> None:
    score = cloud_score(points.xyz, true_cloud(truth, range(0, 60, 6), 0.02), 0.05)
    assert score.precision > 0.97
    assert score.recall > 0.9


def test_pixel_centers_are_right(points: Points, truth: Truth) -> None:
    """Half a pixel off, in either direction, moves the surface: then a third are so close."""
    world = true_cloud(truth, range(0, 60, 6), 0.01)
    assert cloud_score(points.xyz, world, 0.2 * points.voxel_size).precision > 0.6


def test_normals_face_the_cameras(points: Points, views: Views) -> None:
    center = views.T_world_camera[:, :3, 3].mean(0)
    assert np.linalg.norm(points.normals, axis=1) == pytest.approx(1, abs=1e-3)
    facing = np.sum(points.normals * (center - points.xyz), axis=1) > 0
    assert facing.mean() > 0.95


def test_triangles_turn_outwards(points: Points) -> None:
    a, b, c = (points.vertices[points.triangles[:, k]] for k in range(3))
    turned = np.cross(b - a, c - a)
    mean = points.vertices_normals[points.triangles].mean(1)
    area = np.linalg.norm(turned, axis=1) > 1e-3 * points.voxel_size**2
    assert (np.sum(turned * mean, axis=1)[area] > 0).mean() > 0.98


def test_colors_are_those_of_the_pictures(points: Points, truth: Truth) -> None:
    from scipy.spatial import cKDTree

    xyz, rgb = truth.points(30)
    distance, nearest = cKDTree(xyz).query(points.xyz)
    close = distance < 0.3 * points.voxel_size
    off = np.abs(points.rgb[close].astype(int) - rgb[nearest[close]]).mean()
    assert close.sum() > 1000
    assert off < 15


def test_what_one_view_says_is_dropped(views: Views, depth: np.ndarray, points: Points) -> None:
    """A sheet that only one view claims to see, half way to the wall, leaves nothing."""
    lying = depth.copy()
    lying[4, 60:120, 120:200] *= 0.5
    ghost = fused(views, lying, max_depth=100)[0]
    pose = views.T_world_camera[4]
    local = (ghost.xyz - pose[:3, 3]) @ pose[:3, :3]
    uv = local @ views.intrinsics[4].T
    u, v = (uv[:, :2] / uv[:, 2:]).T
    inside = (u > 120) & (u < 200) & (v > 60) & (v < 120) & (local[:, 2] > 0)
    sheet = np.abs(local[:, 2] / np.median(lying[4, 60:120, 120:200]) - 1) < 0.1
    assert (inside & sheet).sum() < 0.01 * inside.sum()


def test_the_scale_is_the_scene_s_own(views: Views, depth: np.ndarray, points: Points) -> None:
    """A world a thousand times as large gives the same surface, a thousand times as large."""
    poses = views.T_world_camera.copy()
    poses[:, :3, 3] *= 1000
    large = fused(dataclasses.replace(views, T_world_camera=poses), depth * 1000, max_depth=100)[0]
    assert large.voxel_size == pytest.approx(1000 * points.voxel_size, rel=1e-4)
    assert len(large.xyz) == pytest.approx(len(points.xyz), rel=0.02)


def test_a_far_background_is_left_out(views: Views, depth: np.ndarray) -> None:
    far = depth.copy()
    far[:, :40] = 1000.0
    cloud, events = fused(views, far)
    center = views.T_world_camera[:, :3, 3].mean(0)
    assert np.linalg.norm(cloud.xyz - center, axis=1).max() < 50
    assert not [e for e in events if isinstance(e, Warn)]


def test_memory_is_bounded(
    views: Views, depth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tsdf, "MAX_BLOCKS", 300)
    cloud, events = fused(views, depth, voxel=0.02)
    said = [e.text for e in events if isinstance(e, Warn)]
    assert said[0] == ("the scene does not fit into 300 blocks with voxels of 0.02; using 0.03")
    assert cloud.voxel_size > 0.02


def test_a_voxel_can_be_given(views: Views, depth: np.ndarray) -> None:
    assert fused(views, depth, voxel=0.08)[0].voxel_size == 0.08


def test_small_pieces_of_the_mesh_are_dropped() -> None:
    triangles = np.array([[0, 1, 2], [1, 2, 3], [4, 5, 6]], np.int32)
    chosen, left = tsdf.keep_large_pieces(8, triangles, 2)
    assert chosen.tolist() == [True] * 4 + [False] * 4
    assert left.tolist() == [[0, 1, 2], [1, 2, 3]]
    chosen, left = tsdf.keep_large_pieces(8, triangles[[2]], 1)
    assert np.flatnonzero(chosen).tolist() == [4, 5, 6]
    assert left.tolist() == [[0, 1, 2]]
    assert not tsdf.keep_large_pieces(8, triangles[:0], 1)[0].any()


def test_estimated_depth_gives_a_clean_surface(views: Views, truth: Truth) -> None:
    stage = find("depth", "multiview")(options_of("depth", "multiview")())
    stage.open(Context(threads=2))
    found = np.where(
        np.isfinite(true_depth(truth, views)), stage.process(views=views).depth, np.nan
    )
    score = cloud_score(fused(views, found)[0].xyz, true_cloud(truth, range(0, 60, 6), 0.02), 0.05)
    assert score.precision > 0.85
    assert score.f > 0.7


def test_no_depth_is_refused(views: Views, depth: np.ndarray) -> None:
    with pytest.raises(PartNotMade) as refused:
        fused(views, np.full_like(depth, np.nan))
    assert str(refused.value) == (
        "fusion needs depth, but none is known in any of the 10 views; "
        "more views with more parallax and texture are needed"
    )


def test_depth_without_agreement_is_refused(views: Views, depth: np.ndarray) -> None:
    alone_known = np.full_like(depth, np.nan)
    alone_known[0] = depth[0]
    with pytest.raises(PartNotMade) as refused:
        fused(views, alone_known)
    assert str(refused.value) == (
        "fusion found no surface of 200 triangles that 3 views agree on; "
        "lower fuse.min_views or give more views"
    )


def test_without_open3d_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    with pytest.raises(UsageError) as refused:
        tsdf.Model(tsdf.Config()).open(Context())
    assert str(refused.value).endswith(
        "install it: apt-get install libusb-1.0-0 libegl1 libgl1 libx11-6 libudev1 libidn2-0"
    )


def test_wiring() -> None:
    wired = ports(tsdf.Model)
    assert wired.required == {"views": Views, "depth": DepthMaps}
    assert wired.makes == (Points,)
    assert tsdf.Model.isolated


def test_a_mesh_is_the_same_whatever_order_its_parts_came_in() -> None:
    rng = np.random.default_rng(3)
    vertices = rng.normal(size=(40, 6)).astype(np.float32)
    vertices[7, :3] = vertices[8, :3]
    triangles = rng.permuted(np.tile(np.arange(40), (60, 1)), axis=1)[:, :3].astype(np.int32)
    order, sorted_triangles = tsdf.in_order(vertices, triangles)
    shuffle = rng.permutation(40)
    back = np.argsort(shuffle)
    others = np.roll(back[rng.permutation(triangles)], 1, axis=1).astype(np.int32)
    other_order, other_triangles = tsdf.in_order(vertices[shuffle], others)
    assert np.array_equal(vertices[order], vertices[shuffle][other_order])
    assert np.array_equal(sorted_triangles, other_triangles)
    # Each still has the same corners in the same sense.
    before = {tuple(np.roll(row, -int(np.argmin(row)))) for row in np.argsort(order)[triangles]}
    assert before == set(map(tuple, sorted_triangles.tolist()))
