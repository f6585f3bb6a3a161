"""Learned depth takes its scale from sparse points: robustly, steadily, and never the wrong way."""

from typing import Any

import numpy as np
import pytest

from pipeline.errors import PartNotMade
from stages.depth._align import Anchors, Kind, align, anchors_of
from stages.depth._robust import robust_fit
from tests.support.posed import posed_views
from tests.support.scenes import Truth, alone

H, W = 60, 80


def room(count: int, seed: int = 0) -> np.ndarray:
    """Depths float32 [K, H, W] of a slanted wall with waves, 1 to 5 m."""
    v, u = np.mgrid[:H, :W]
    rng = np.random.default_rng(seed)
    waves = [0.4 * np.sin(u / 9 + a) * np.cos(v / 7 + a) for a in rng.uniform(0, 6, count)]
    return np.stack([3 + 1.6 * (u / W - 0.5) + wave for wave in waves]).astype(np.float32)


def points(
    depth: np.ndarray, count: int, rng: np.random.Generator, *, noise: float, wrong: float
) -> list[Anchors]:
    """Measured depths at random pixels, some of them plainly wrong, and all to one side."""
    found = []
    for z in depth:
        u, v = rng.integers(0, W, count), rng.integers(0, H, count)
        measured = z[v, u] * np.exp(rng.normal(0, noise, count))
        off = rng.random(count) < wrong
        measured[off] *= rng.uniform(1.3, 4, int(off.sum()))
        found.append(Anchors(np.stack([u + 0.5, v + 0.5], 1), measured))
    return found


def disturbed(depth: np.ndarray, kind: Kind, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What a network would have to say for `scale` and `shift` [K] to bring it to the truth."""
    value = 1 / depth if kind == "inverse" else depth
    return ((value - shift[:, None, None]) / scale[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("kind", ["inverse", "scale", "affine"])
def test_the_scale_is_found_within_one_per_cent_with_thirty_per_cent_outliers(kind: Kind) -> None:
    rng = np.random.default_rng(1)
    depth = room(12)
    scale = rng.uniform(0.2, 3, 12)
    shift = np.zeros(12) if kind == "scale" else rng.uniform(-0.1, 0.1, 12)
    predicted = disturbed(depth, kind, scale, shift)
    anchors = points(depth, 300, rng, noise=0.005, wrong=0.3)
    made = align(predicted, anchors, kind, drift=0.03)
    assert np.abs(made.scale / scale - 1).max() < 0.01
    size = np.median(1 / depth if kind == "inverse" else depth)
    assert np.abs(made.shift - shift).max() < 0.01 * size
    for k, true in enumerate(depth):
        assert np.median(np.abs(made.depth(k, predicted[k]) / true - 1)) < 0.005
    assert not made.borrowed.any()
    # Outliers do not hide the residual of the rest, and are not hidden by it.
    assert np.all((made.residual > 0.002) & (made.residual < 0.03))
    least_squares = np.median([np.mean(a.z) for a in anchors]) / depth.mean()
    assert least_squares > 1.2, "the outliers would do no harm: the test shows nothing"


def flicker(depth: np.ndarray) -> float:
    """Root mean square of how much the depth of a scene at rest changes from view to view."""
    return float(np.sqrt(np.mean(np.diff(np.log(depth), axis=0) ** 2)))


@pytest.mark.parametrize("kind", ["inverse", "scale", "affine"])
def test_neighbors_steady_one_another_and_do_not_bias_the_scale(kind: Kind) -> None:
    rng = np.random.default_rng(2)
    depth = np.repeat(room(1), 40, axis=0)
    scale, shift = np.full(40, 2.0), np.full(40, 0.0 if kind == "scale" else 0.05)
    predicted = disturbed(depth, kind, scale, shift)
    anchors = points(depth, 40, rng, noise=0.08, wrong=0.2)
    alone_each, together = (
        align(predicted, anchors, kind, drift=drift) for drift in (1000.0, 0.01)
    )
    apart, steady = (
        np.stack([made.depth(k, p) for k, p in enumerate(predicted)])
        for made in (alone_each, together)
    )
    assert flicker(steady) < 0.3 * flicker(apart)
    assert abs(np.median(together.scale) / 2 - 1) < 0.03
    assert abs(np.median(steady / depth) - 1) < 0.01
    assert np.mean(np.abs(steady / depth - 1)) < np.mean(np.abs(apart / depth - 1))


def test_a_network_that_does_change_is_followed() -> None:
    """A jump by a third, as at a change of exposure, is not smeared over the views beside it."""
    rng = np.random.default_rng(3)
    depth = room(10)
    scale = np.where(np.arange(10) < 5, 1.0, 1.33)
    predicted = disturbed(depth, "scale", scale, np.zeros(10))
    made = align(predicted, points(depth, 200, rng, noise=0.02, wrong=0.3), "scale", drift=0.01)
    assert np.abs(made.scale / scale - 1).max() < 0.01


def test_views_without_points_take_their_neighbors_fit() -> None:
    rng = np.random.default_rng(4)
    depth = room(6)
    predicted = disturbed(depth, "inverse", np.full(6, 0.5), np.full(6, 0.02))
    anchors = points(depth, 100, rng, noise=0.01, wrong=0.1)
    for k in (0, 3):
        anchors[k] = Anchors(anchors[k].xy[:3], anchors[k].z[:3])
    anchors[5] = Anchors(np.empty((0, 2)), np.empty(0))
    made = align(predicted, anchors, "inverse", drift=0.03)
    assert made.borrowed.tolist() == [True, False, False, True, False, True]
    assert np.abs(made.scale / 0.5 - 1).max() < 0.03
    assert np.isnan(made.residual).tolist() == [False] * 5 + [True]


def test_too_few_points_anywhere_are_refused() -> None:
    depth = room(3)
    anchors = points(depth, 7, np.random.default_rng(5), noise=0, wrong=0)
    with pytest.raises(PartNotMade) as refused:
        align(depth, anchors, "scale", drift=0.03)
    assert str(refused.value) == (
        "learned depth takes its scale from at least 8 sparse points in a view, but the best of 3 "
        "views has 7 with a prediction; move the camera sideways through a textured scene to get "
        "more"
    )
    nowhere = np.full_like(depth, np.nan)
    more = points(depth, 50, np.random.default_rng(5), noise=0, wrong=0)
    with pytest.raises(PartNotMade, match="the best of 3 views has 0 with a prediction"):
        align(nowhere, more, "inverse", drift=0.03)


def test_what_is_nearer_the_farther_it_should_be_is_refused() -> None:
    """A checkpoint that predicts depth, taken for one of inverse depth, would need scale < 0."""
    depth = room(3)
    anchors = points(depth, 100, np.random.default_rng(6), noise=0.01, wrong=0.1)
    with pytest.raises(PartNotMade, match="contradicts the sparse points in all of the 3"):
        align(depth, anchors, "inverse", drift=0.03)


def test_a_flat_wall_lends_no_shift() -> None:
    """Points that all lie at one depth do not tell a scale from a shift."""
    depth = room(4)
    predicted = disturbed(depth, "inverse", np.full(4, 0.5), np.full(4, 0.02))
    anchors = points(depth, 100, np.random.default_rng(7), noise=0.01, wrong=0.1)
    predicted[1] = predicted[1, 0, 0]
    made = align(predicted, anchors, "inverse", drift=0.03)
    assert made.borrowed.tolist() == [False, True, False, False]


def test_unbelievable_depth_is_unknown() -> None:
    """The sky of a relative network has an inverse depth of 0 or below after the shift."""
    depth = room(2)
    predicted = disturbed(depth, "inverse", np.full(2, 0.5), np.full(2, -0.1))
    anchors = points(depth, 100, np.random.default_rng(8), noise=0, wrong=0)
    made = align(predicted, anchors, "inverse", drift=0.03)
    sky, haze, lens = np.float32(0.0), np.float32((1 / 500 + 0.1) / 0.5), np.float32(100)
    strange = np.array([[sky, haze, lens, np.nan, np.inf, predicted[0, 30, 40]]], np.float32)
    found = made.depth(0, strange)
    assert found.dtype == np.float32
    assert np.isnan(found[0, :5]).all()
    assert found[0, 5] == pytest.approx(depth[0, 30, 40], rel=1e-4)


def test_predictions_that_are_not_numbers_are_left_out() -> None:
    rng = np.random.default_rng(9)
    depth = room(4)
    anchors = points(depth, 200, rng, noise=0.005, wrong=0.2)
    predicted = disturbed(depth, "scale", np.full(4, 1.7), np.zeros(4))
    predicted[:, ::2, ::3] = np.nan
    predicted[:, 1::2, ::3] = -1
    made = align(predicted, anchors, "scale", drift=0.03)
    assert np.abs(made.scale / 1.7 - 1).max() < 0.01
    assert np.array_equal(np.isfinite(made.depth(0, predicted[0])), predicted[0] > 0)


def test_the_seed_decides_and_nothing_else() -> None:
    depth = room(3)
    anchors = points(depth, 50, np.random.default_rng(10), noise=0.05, wrong=0.4)
    made = [align(depth, anchors, "affine", drift=0.03, seed=s) for s in (1, 1, 2)]
    assert np.array_equal(made[0].scale, made[1].scale)
    assert np.allclose(made[0].scale, made[2].scale, rtol=0.05)


@pytest.fixture(scope="module")
def truck() -> Truth:
    return alone("truck-right", seed=1)


def test_points_of_views_are_depths_in_their_cameras(truck: Truth) -> None:
    views = posed_views(truck, range(0, 30, 10))
    anchors = anchors_of(views)
    assert sum(len(a.z) for a in anchors) == len(views.observed_point)
    for k, one in enumerate(anchors):
        column, row = np.floor(one.xy).astype(int).T
        true = truck.depth(int(views.index[k]))[row, column]
        assert np.median(np.abs(one.z / true - 1)) < 0.005


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.45])
def test_a_line_is_found_through_outliers(wrong: float) -> None:
    rng = np.random.default_rng(11)
    x = rng.uniform(-1, 1, 400)
    y = 0.7 * x + 0.2 + rng.normal(0, 0.01, 400)
    off = rng.random(400) < wrong
    y[off] += rng.uniform(0.2, 2, int(off.sum()))
    fit: Any = robust_fit(np.stack([x, np.ones(400)], 1), y, [0], positive=True)
    assert np.allclose(fit.theta, [0.7, 0.2], atol=0.01)
    assert np.mean(fit.good == ~off) > 0.95
    # The covariance is honest: for 400 points of 0.01, some 0.0009 on the slope.
    assert 0.0005 < np.sqrt(fit.covariance[0, 0]) < 0.002


def test_what_determines_no_line_gives_none() -> None:
    ones = np.ones((20, 2))
    assert robust_fit(ones, np.ones(20), [0], positive=False) is None
    x = np.arange(20.0)
    A = np.stack([x, np.ones(20)], 1)
    assert robust_fit(A, -x, [0], positive=True) is None
    assert robust_fit(A[:2], x[:2], [0], positive=True) is None
    exact: Any = robust_fit(A, 2 * x + 1, [0], positive=True)
    assert np.allclose(exact.theta, [2, 1])
