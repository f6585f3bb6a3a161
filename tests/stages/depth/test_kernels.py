"""The kernels of depth against plain numpy, exact geometry and OpenCV."""

import cv2
import numpy as np
import pytest

from stages._geometry.transforms import invert, project, unproject
from stages.depth._consistency import drop_speckles, keep_consistent
from stages.depth._rig import Rig, choose_neighbors
from stages.depth._sweep import WORST, _correlate, enlarge
from stages.depth._triangulate import combine, targets, triangulate, warp_map
from tests.support.posed import posed_views
from tests.support.scenes import Truth, alone


@pytest.fixture(scope="module")
def truth() -> Truth:
    return alone("truck-right", seed=1)


@pytest.fixture(scope="module")
def rig(truth: Truth) -> Rig:
    return Rig.of(posed_views(truth, [0, 10, 20]))


def landing(truth: Truth, rig: Rig, i: int, j: int) -> np.ndarray:
    """Return where the true surface of frame 10 i lies in frame 10 j, float64 [H, W, 2] px."""
    world = unproject(truth.depth(10 * i), rig.K[i], invert(rig.T_camera_world[i]))
    uv, _ = project(world.reshape(-1, 3), rig.K[j], rig.T_camera_world[j])
    return uv.reshape(*world.shape[:2], 2)


def test_warp_map_is_projection(truth: Truth, rig: Rig) -> None:
    A, b = rig.relative(0, 1)
    where = np.empty((truth.height, truth.width, 2), np.float32)
    warp_map((1 / truth.depth(0)).astype(np.float32), A, b, where)
    assert np.abs(where + 0.5 - landing(truth, rig, 0, 1)).max() < 1e-2


def test_relative_at_another_size(rig: Rig) -> None:
    """Half the size halves the pixel, centers at 0.5 included."""
    u, w = np.array([100.0, 60.0, 1.0]), 0.4
    (A, b), (a, c) = rig.relative(0, 1), rig.relative(0, 1, 0.5)
    whole, half = A @ u + w * b, a @ [50.0, 30.0, 1.0] + w * c
    assert half[:2] / half[2] == pytest.approx(whole[:2] / whole[2] / 2)


def test_perfect_flow_gives_perfect_depth(truth: Truth, rig: Rig) -> None:
    """True matches there and back, triangulated: the true inverse depth, where both see it."""
    A, b = rig.relative(0, 1)
    flow = np.zeros((truth.height, truth.width, 2), np.float32)
    there, back, out = np.empty_like(flow), np.empty_like(flow), np.empty_like(flow[..., 0])
    near = [(1 / truth.depth(10 * i)).astype(np.float32) for i in (0, 1)]
    targets(flow, near[0], A, b, there)
    targets(flow, near[1], *rig.relative(1, 0), back)
    triangulate(there, back, A, b, 1.0, 1.0, out)
    known = out > 0
    assert known.mean() > 0.6
    assert out[known] == pytest.approx(near[0][known], rel=1e-3)


@pytest.mark.parametrize("wrong", [(0.0, 3.0), (40.0, 0.0)], ids=["off the line", "not back"])
def test_wrong_matches_are_refused(truth: Truth, rig: Rig, wrong: tuple[float, float]) -> None:
    A, b = rig.relative(0, 1)
    there = (landing(truth, rig, 0, 1) + wrong).astype(np.float32)
    back = landing(truth, rig, 1, 0).astype(np.float32)
    out = np.empty(there.shape[:2], np.float32)
    triangulate(there, back, A, b, 1.0, 1.0, out)
    assert (out > 0).mean() < 0.05


def test_combine_is_the_weighted_mean_of_those_who_agree() -> None:
    """Two pairs agree, weights by squared slope; the outlier has no say."""
    A = np.repeat(np.eye(3)[None], 3, axis=0)
    b = np.array([[100.0, 0, 0], [200.0, 0, 0], [150.0, 0, 0]])
    w = np.array([0.500, 0.502, 0.8], np.float32)[:, None, None] * np.ones((3, 2, 2), np.float32)
    out = np.empty((2, 2), np.float32)
    nothing = np.zeros((2, 2), np.float32)
    combine(w, nothing, A, b, 1.0, 2, 6.0, out)
    assert out == pytest.approx((0.500 * 1 + 0.502 * 4) / 5, rel=1e-5)
    combine(w[:2], nothing, A[:2], b[:2], 1.0, 3, 6.0, out)
    assert (out == 0).all()
    combine(w[:2], nothing + np.float32(0.501), A[:2], b[:2], 1.0, 3, 6.0, out)
    assert (out > 0).all()
    # Parallax is 0.5016 * sqrt(100² + 200²) = 112 px.
    combine(w, nothing, A, b, 1.0, 2, 113.0, out)
    assert (out == 0).all()


def test_consistency_keeps_the_seen_and_drops_the_looked_through(truth: Truth, rig: Rig) -> None:
    near = np.stack([1 / truth.depth(10 * i) for i in range(3)]).astype(np.float32)
    A, b = (np.stack(x) for x in zip(rig.relative(0, 1), rig.relative(0, 2), strict=True))
    kept = np.empty_like(near[0])
    keep_consistent(near[0], near[1:], A, b, 0.02, 2, kept)
    assert (kept > 0).mean() > 0.6
    floating = near[0] * np.float32(1.3)
    keep_consistent(floating, near[1:], A, b, 0.02, 1, kept)
    assert (kept > 0).mean() < 0.03


def test_speckles() -> None:
    near = np.full((40, 60), 0.5, np.float32)
    near[5:8, 5:8] = 0.7
    near[20:35, 20:50] = 0.7
    near[0, 0] = 0
    left = drop_speckles(near, 20, 0.02)
    assert (left[5:8, 5:8] == 0).all()
    assert (left[20:35, 20:50] == np.float32(0.7)).all()
    assert left[0, 0] == 0
    assert (left > 0).sum() == 40 * 60 - 9 - 1
    assert (drop_speckles(np.zeros_like(near), 20, 0.02) == 0).all()


def test_correlation_against_opencv() -> None:
    """One neighbor, one plane: the costs are those of OpenCV's TM_CCOEFF_NORMED."""
    rng = np.random.default_rng(5)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (40, 60)).astype(np.float32), (0, 0), 1.5) * 4
    other = np.roll(image, 3, axis=1) + rng.normal(0, 4, image.shape).astype(np.float32)
    A = np.eye(3, dtype=np.float32)[None]
    cost = np.empty((40, 60, 2), np.uint8)
    near = np.array([0.0, 1.0], np.float32)
    b = np.array([[3.0, 0, 0]], np.float32)
    _correlate(image - 512, other[None] - np.float32(512), A, b, near, cost)
    for y, x in [(10, 10), (20, 33), (30, 50), (15, 41)]:
        for plane, shift in enumerate((0, 3)):
            a = image[y - 2 : y + 3, x - 2 : x + 3]
            c = other[y - 2 : y + 3, x - 2 + shift : x + 3 + shift]
            ncc = float(cv2.matchTemplate(c, a, cv2.TM_CCOEFF_NORMED)[0, 0])
            # 2 gray levels of noise are added to both variances; rounding to 1/127.
            spread = 1 + 4 / float(min(a.var(), c.var()))
            assert cost[y, x, plane] == pytest.approx(
                min(WORST * (1 - ncc), WORST), abs=WORST * (spread - 1) + 1
            )
    assert np.median(cost[5:-5, 5:-8, 1]) < 20
    assert np.median(cost[5:-5, 5:-8, 0]) > 60


def test_enlarge_keeps_steps_sharp() -> None:
    small = np.where(np.arange(8) < 4, 0.5, 1.0).astype(np.float32)[None].repeat(4, 0)
    large = np.empty((8, 16), np.float32)
    enlarge(small, np.array([0.5, 0.5]), 0.05, large)
    assert set(np.unique(large)) == {np.float32(0.5), np.float32(1.0)}
    slope = np.linspace(1.0, 1.1, 8, dtype=np.float32)[None].repeat(4, 0)
    enlarge(slope, np.array([0.5, 0.5]), 0.05, large)
    assert (np.diff(large[:, 1:-1], axis=1) > 0).all()


def test_neighbors_stand_well_apart(truth: Truth) -> None:
    """The nearest frames have too little parallax: the choice goes past them."""
    rig = Rig.of(posed_views(truth, range(20, 50)))
    chosen = choose_neighbors(rig, 4)
    for i, mates in enumerate(chosen):
        assert len(mates) == len(set(mates)) == 4
        assert i not in mates
    assert {abs(j - 15) for j in chosen[15]}.isdisjoint({1, 2})
    assert any(j < 15 for j in chosen[15])
    assert any(j > 15 for j in chosen[15])
