"""Both depth models against rendered truth, and what they refuse."""

import dataclasses

import numpy as np
import pytest

from pipeline.contract import Context, DepthMaps, Metric, Progress, Views
from pipeline.contract.stage import find, options_of, ports
from pipeline.errors import PartNotMade
from tests.support.posed import posed_views
from tests.support.scenes import DepthError, Truth, alone, depth_error

MODELS = ("multiview", "plane_sweep")


def made(model: str, views: Views, threads: int = 2, **options: object) -> tuple[DepthMaps, list]:
    events: list[object] = []
    stage = find("depth", model)(options_of("depth", model)(**options))
    stage.open(Context(threads=threads, report=events.append))
    try:
        return stage.process(views=views), events
    finally:
        stage.close()


def compared(depth: np.ndarray, views: Views, truth: Truth) -> DepthError:
    """Over all views at once; what moves at some time does not count."""
    frames = [int(i) for i in views.index]
    true = np.stack([truth.depth(i) for i in frames])
    return depth_error(depth, true, ~np.stack([truth.ball(i) for i in frames]))


def part(views: Views, rows: list[int], **changes: object) -> Views:
    """Return some of the views; observations of the others are dropped."""
    number = np.full(len(views.images), -1)
    number[rows] = np.arange(len(rows))
    kept = number[views.observed_view] >= 0
    per_view = ("images", "pts_ns", "index", "intrinsics", "T_world_camera")
    return dataclasses.replace(
        views,
        **{name: getattr(views, name)[rows] for name in per_view},
        observed_point=views.observed_point[kept],
        observed_view=number[views.observed_view[kept]].astype(np.int32),
        observed_xy=views.observed_xy[kept],
        **changes,
    )


@pytest.fixture(scope="module")
def truck() -> Truth:
    return alone("truck-right", seed=1)


@pytest.fixture(scope="module")
def views(truck: Truth) -> Views:
    return posed_views(truck, range(0, 60, 6))


@pytest.mark.parametrize("model", MODELS)
def test_close_to_truth(model: str, views: Views, truck: Truth) -> None:
    depth, events = made(model, views)
    error = compared(depth.depth, views, truck)
    assert error.abs_rel < 0.015
    assert error.complete > 0.65
    assert error.good > 0.9 * error.complete
    known = np.isfinite(depth.depth)
    assert (depth.depth[known] > 0).all()
    assert not np.isinf(depth.depth).any()
    figures = {e.name: e.value for e in events if isinstance(e, Metric)}
    assert figures["depth_known_share"] == pytest.approx(known.mean())
    assert 0.5 < figures["depth_confirmed_share"] <= 1
    steps = [e for e in events if isinstance(e, Progress)]
    assert steps[-1].done == steps[-1].total
    assert [e.done for e in steps] == list(range(1, len(steps) + 1))
    assert len(steps) > len(views.images)


@pytest.mark.parametrize("model", MODELS)
def test_threads_change_nothing(model: str, views: Views) -> None:
    few = part(views, [0, 1, 2, 3, 4])
    one, two = (made(model, few, threads=n)[0].depth for n in (1, 2))
    assert np.array_equal(one, two, equal_nan=True)


@pytest.mark.parametrize("model", MODELS)
def test_units_are_those_of_the_views(model: str, views: Views, truck: Truth) -> None:
    """A world ten times as large has depths ten times as large: nothing is in meters."""
    few = part(views, [0, 1, 2, 3, 4])
    poses = few.T_world_camera.copy()
    poses[:, :3, 3] *= 10
    large = dataclasses.replace(few, T_world_camera=poses, points=few.points * np.float32(10))
    error = compared(made(model, large)[0].depth / 10, few, truck)
    assert error.abs_rel < 0.02
    assert error.complete > 0.4


@pytest.mark.parametrize("model", MODELS)
def test_large_steps(model: str, views: Views, truck: Truth) -> None:
    """Neighbors move far more than the 30 px that flow follows by itself."""
    far = part(views, [0, 4, 9])
    moved = np.linalg.norm(truck.flow(int(far.index[0]), int(far.index[1])), axis=-1)
    assert np.median(moved) > 30
    error = compared(made(model, far)[0].depth, far, truck)
    assert error.abs_rel < 0.03
    assert error.complete > 0.3


def test_what_moves_is_left_out(views: Views, truck: Truth) -> None:
    """A patch with a motion of its own, across the epipolar lines, gets no wrong depth."""
    images = views.images.copy()
    texture = np.random.default_rng(3).integers(0, 255, (12, 12, 3), np.uint8)
    texture = np.kron(texture, np.ones((4, 4, 1), np.uint8))
    mine = np.zeros(images.shape[:3], np.bool_)
    for n in range(len(images)):
        window = np.s_[20 + 9 * n : 68 + 9 * n, 120:168]
        images[n][window], mine[n][window] = texture, True
    depth = made("multiview", dataclasses.replace(views, images=images))[0].depth
    true = np.stack([truck.depth(int(i)) for i in views.index])
    with np.errstate(invalid="ignore"):
        wrong = np.abs(depth / true - 1) > 0.1
    assert wrong[mine].mean() < 0.05
    assert np.isfinite(depth[~mine]).mean() > 0.5


def test_without_sparse_points_flow_alone(truck: Truth) -> None:
    views = posed_views(truck, range(0, 24, 3), points=False)
    error = compared(made("multiview", views)[0].depth, views, truck)
    assert error.abs_rel < 0.03
    assert error.complete > 0.4
    with pytest.raises(PartNotMade) as refused:
        made("plane_sweep", views)
    assert str(refused.value) == (
        "depth/plane_sweep takes its depth range from the sparse points of the poses, got 0; "
        "use depth.model=multiview"
    )


@pytest.mark.parametrize("model", MODELS)
def test_two_views_are_enough(model: str, views: Views, truck: Truth) -> None:
    pair = part(views, [0, 2])
    error = compared(made(model, pair)[0].depth, pair, truck)
    assert error.abs_rel < 0.03
    assert error.complete > 0.3


@pytest.mark.parametrize("model", MODELS)
def test_one_view_is_refused(model: str, views: Views) -> None:
    with pytest.raises(PartNotMade) as refused:
        made(model, part(views, [0]))
    assert str(refused.value) == (
        "depth needs at least 2 posed views, got 1; "
        "sample more frames or move the camera more slowly"
    )


@pytest.mark.parametrize("model", MODELS)
def test_tiny_pictures_are_refused(model: str, views: Views) -> None:
    tiny = dataclasses.replace(views, images=views.images[:, :15, :40])
    with pytest.raises(PartNotMade) as refused:
        made(model, tiny)
    assert str(refused.value) == "depth needs images of at least 16 px per side, got 40x15"
    small = dataclasses.replace(views, images=np.ascontiguousarray(views.images[:, :16, :40]))
    assert made(model, small)[0].depth.shape == (10, 16, 40)


@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_views_from_one_place_are_refused(model: str, points: bool, truck: Truth) -> None:
    still = posed_views(truck, [0, 1, 2], points=points)
    still = dataclasses.replace(still, T_world_camera=np.repeat(still.T_world_camera[:1], 3, 0))
    with pytest.raises(PartNotMade) as refused:
        made(model, still)
    assert str(refused.value) == (
        "depth needs views of the same scene from different positions, but no two of the 3 views "
        "have parallax; move the camera sideways"
    )


@pytest.mark.parametrize("model", MODELS)
def test_blank_pictures_give_nothing(model: str, views: Views) -> None:
    """Nothing is invented where there is nothing to match."""
    gray = dataclasses.replace(views, images=np.full_like(views.images, 128))
    assert np.isfinite(made(model, gray)[0].depth).mean() < 0.02


@pytest.mark.parametrize("model", MODELS)
def test_wiring(model: str) -> None:
    wired = ports(find("depth", model))
    assert wired.required == {"views": Views}
    assert wired.makes == (DepthMaps,)
