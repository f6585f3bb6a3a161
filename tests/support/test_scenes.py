"""The rendered scenes agree with themselves, and the metrics with cases worked out by hand."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from tests.support import scenes
from tests.support.paths import DATA
from tests.support.scenes import Effects, Segment, cache
from tests.support.scenes.ball import SHARE
from tests.support.scenes.furniture import furnish, solids_of
from tests.support.scenes.geometry import turn
from tests.support.scenes.paths import MOTIONS

SLAMBOOK = DATA / "traj-slambook"


@pytest.fixture(scope="module")
def truth():
    return scenes.film(
        [Segment("truck-right", 0.8), Segment("pan-left", 0.6)],
        seed=3,
        width=256,
        height=144,
        moving_s=(0.2, 1.2),
    )


@pytest.mark.parametrize(("i", "j"), [(10, 11), (10, 16), (30, 26)])
def test_the_picture_of_j_warped_by_the_flow_is_the_picture_of_i(truth, i, j):
    flow, visible = truth.flow_and_visible(i, j)
    v, u = np.mgrid[: truth.height, : truth.width].astype(np.float32)
    later = truth.images[j].astype(np.float32)

    def off(where, shift_px=0.0):
        warped = cv2.remap(later, u + flow[..., 0] + shift_px, v + flow[..., 1], cv2.INTER_CUBIC)
        return np.abs(warped - truth.images[i])[where].mean()

    inside = cv2.erode(visible.astype(np.uint8), np.ones((3, 3))) > 0
    for where in (inside, truth.moving(i) & inside):
        assert off(where) < 6.5
        assert off(where) < 0.3 * np.abs(later - truth.images[i])[where].mean()
        assert off(where) < min(off(where, -0.5), off(where, 0.5))
    assert 0.5 < visible.mean() < 1


@pytest.mark.parametrize(("i", "j"), [(0, 1), (12, 40), (35, 9)])
def test_depth_and_poses_give_the_flow_of_everything_that_rests(truth, i, j):
    points = np.full((truth.height, truth.width, 3), np.nan)
    points[~truth.ball(i)] = truth.points(i)[0]
    pose, K = truth.T_world_camera[j], truth.K[j]
    seen = ((points - pose[:3, 3]) @ pose[:3, :3]) @ K.T
    v, u = np.mgrid[: truth.height, : truth.width] + 0.5
    expected = seen[..., :2] / seen[..., 2:] - np.stack([u, v], -1)
    flow = truth.flow(i, j)
    ahead = ~truth.ball(i) & (seen[..., 2] > 0)
    np.testing.assert_allclose(flow[ahead], expected[ahead], atol=1e-3)
    assert truth.depth(i)[0, 0] == pytest.approx(
        (
            (truth.points(i)[0][0] - truth.T_world_camera[i, :3, 3])
            @ truth.T_world_camera[i, :3, :3]
        )[2],
        rel=1e-6,
    )


def test_a_frame_sees_all_of_itself_and_what_is_hidden_has_something_before_it(truth):
    flow, visible = truth.flow_and_visible(20, 20)
    assert visible.all()
    assert np.abs(flow).max() < 1e-6
    flow, visible = truth.flow_and_visible(5, 30)
    v, u = np.mgrid[: truth.height, : truth.width] + 0.5
    column = np.floor(u + flow[..., 0]).astype(int)
    row = np.floor(v + flow[..., 1]).astype(int)
    hidden = ~visible & (column >= 0) & (column < truth.width) & (row >= 0) & (row < truth.height)
    hidden &= ~truth.ball(5)
    points = np.zeros((truth.height, truth.width, 3))
    points[~truth.ball(5)] = truth.points(5)[0]
    pose = truth.T_world_camera[30]
    far = ((points - pose[:3, 3]) @ pose[:3, :3])[..., 2][hidden]
    near = truth.depth(30)[row[hidden], column[hidden]]
    assert hidden.sum() > 100
    assert np.mean(near < far) > 0.85, "but for pixels on an edge, something nearer is seen there"


@pytest.mark.parametrize("label", [*MOTIONS, "static", "handheld"])
def test_a_label_is_what_the_camera_does_and_what_the_picture_shows(label):
    film = scenes.alone(label, seed=1, seconds=1.0, width=128, height=72, jitter=0.0)
    poses, focal = film.T_world_camera, film.path.focal_px
    first, last = poses[:-1, :3, :3], poses[1:, :3, :3]
    turned = np.array([cv2.Rodrigues(a.T @ b)[0].ravel() for a, b in zip(first, last, strict=True)])
    moved = np.einsum("tji,tj->ti", first, np.diff(poses[:, :3, 3], axis=0))
    rates = {
        "pan": turned[:, 1], "tilt": turned[:, 0], "roll": turned[:, 2],
        "truck": moved[:, 0], "dolly": moved[:, 2], "zoom": np.diff(np.log(focal)),
    }  # fmt: skip
    kind, _, way = label.partition("-")
    forwards = way in ("right", "up", "cw", "in")
    for name, rate in rates.items():
        if name == kind:
            assert np.all(rate * (1 if forwards else -1) >= -1e-9)
            assert abs(rate.sum()) > 0.1
        elif label != "handheld":
            assert abs(rate.sum()) < (0.25 * abs(rates[kind].sum()) if kind in rates else 1e-9)
    middle = len(film) // 2
    flow = film.flow(middle)
    x, y = np.meshgrid(np.linspace(-1, 1, 128), np.linspace(-1, 1, 72))
    shown = {
        "pan": -flow[..., 0], "truck": -flow[..., 0], "tilt": flow[..., 1],
        "zoom": x * flow[..., 0] + y * flow[..., 1], "dolly": x * flow[..., 0] + y * flow[..., 1],
        "roll": y * flow[..., 0] - x * flow[..., 1],
    }  # fmt: skip
    if kind in shown:
        assert shown[kind].mean() * (1 if forwards else -1) > 0.1
    steps = np.array([np.linalg.norm(film.flow(i), axis=-1).mean() for i in range(len(film) - 1)])
    per_frame = np.percentile(steps, 80) * 640 / 128
    assert (per_frame < 1e-6) if label == "static" else (1 < per_frame < 8)


def test_segments_follow_each_other_and_tell_when_they_begin():
    path = scenes.compose([Segment("static", 0.5), Segment("pan-right", 1.0)], jitter=0.0)
    assert path.labels == (("static", 0.0, 0.5), ("pan-right", 0.5, 1.5))
    still = np.abs(path.T_world_camera - path.T_world_camera[0]).max((1, 2)) < 1e-9
    np.testing.assert_array_equal(still, np.arange(45) <= 15)
    assert path.length_m == 0
    with pytest.raises(ValueError, match="'spin' is not one of static"):
        Segment("spin", 1.0)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_tour_keeps_clear_of_things_and_its_ball_stays_in_view(seed):
    tour = scenes.tour(seed, width=128, height=72)
    solids = solids_of(furnish(seed))
    assert solids.clearance_m(tour.T_world_camera[:, :3, 3]).min() >= 0.5
    assert tour.path.length_m > 3
    assert len(tour) == 300
    start_s, end_s = tour.moving_s
    t = tour.pts_ns / 1e9
    resting = np.isclose(tour.T_world_ball[1:], tour.T_world_ball[:-1]).all((1, 2))
    assert resting[(t[1:] <= start_s) | (t[:-1] >= end_s)].all()
    assert not resting[(t[:-1] > start_s + 0.05) & (t[1:] < end_s - 0.05)].any()
    shares = [tour.moving(i).mean() for i in range(0, 300, 10)]
    shown = np.array(shares) > 0
    np.testing.assert_array_equal(shown, (t[::10] >= start_s) & (t[::10] <= end_s))
    assert SHARE[0] * 0.8 < np.array(shares)[shown].min()
    assert max(shares) < SHARE[1] * 1.2
    assert solids.clearance_m(tour.T_world_ball[:, :3, 3], skip=len(solids.kind) - 1).min() > 0.239


def test_seeds_make_rooms_and_the_same_seed_makes_the_same_one():
    a, b, again = (scenes.tripod(seed, seconds=0.1, width=96, height=54) for seed in (1, 2, 1))
    assert np.array_equal(a.images, again.images)
    assert not np.array_equal(a.images, b.images)
    assert np.array_equal(a.images[0], a.images[-1])
    assert not np.allclose(a.T_world_camera, b.T_world_camera)


def test_effects_spoil_only_their_span_and_a_plain_room_has_no_texture():
    def detail(image):
        return cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()

    def filmed(**how):
        return scenes.film([Segment("static", 0.2)], 4, width=96, height=54, jitter=0.0, **how)

    sharp = filmed().images
    blurred = filmed(effects=(Effects(blur_px=1.5, span_s=(0.0, 0.1)),)).images
    assert detail(blurred[0]) < 0.2 * detail(sharp[0])
    assert np.array_equal(blurred[-1], sharp[-1])
    dark = filmed(effects=(Effects(gain=0.1, noise=2.0),)).images
    assert dark.mean() == pytest.approx(0.1 * sharp.mean(), rel=0.15)
    assert not np.array_equal(dark[0], dark[1])
    assert detail(filmed(plain=True).images[0]) < 0.3 * detail(sharp[0])


def test_two_shots_are_cut_where_they_say():
    film = scenes.two_shots(0, seconds=0.5, width=96, height=54)
    (cut,) = film.path.cuts
    steps = np.linalg.norm(np.diff(film.T_world_camera[:, :3, 3], axis=0), axis=1)
    assert steps.argmax() == cut - 1
    assert film.visible(cut - 1).mean() < 0.2 < 0.8 < film.visible(cut).mean()
    assert film.path.length_m == pytest.approx(np.delete(steps, cut - 1).sum())
    assert film.segments[1][0] == "dolly-in"
    assert film.segments[1][1] == pytest.approx(film.pts_ns[cut] / 1e9)


def test_a_cache_entry_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "cache")

    def broken():
        yield np.ones((2, 2), np.uint8)
        raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"):
        cache.cached_array(("a", 1), (2, 2, 2), broken)
    assert {path.suffix for path in cache.FOLDER.iterdir()} <= {".lock"}
    made = cache.cached_array(("a", 1), (1, 2, 2), lambda: [np.ones((2, 2), np.uint8)])
    kept = cache.cached_array(("a", 1), (1, 2, 2), broken)
    assert np.array_equal(made, kept)
    assert not kept.flags.writeable
    other = cache.cached_array(("a", 2), (1, 2, 2), lambda: [np.zeros((2, 2), np.uint8)])
    assert other.max() == 0


def _decoded(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        sar = container.streams.video[0].sample_aspect_ratio
    times = [round(f.pts * f.time_base * 10**9) for f in frames]
    return frames, np.array(times), sar


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_encoded_film_keeps_its_times_and_its_texture(truth, tmp_path, suffix):
    frames, times, _ = _decoded_film(truth, tmp_path / f"a{suffix}", fps=30, gop=10)
    tolerance = 0 if suffix == ".mp4" else 500_000
    assert np.abs(times - truth.pts_ns).max() <= tolerance
    assert [i for i, f in enumerate(frames) if f.key_frame] == list(range(0, len(truth), 10))
    shown = frames[20].to_ndarray(format="rgb24").astype(float)
    assert 10 * np.log10(255**2 / np.mean((shown - truth.images[20]) ** 2)) > 33


def _decoded_film(truth, path, **how):
    written = scenes.encode(path, truth.images, **how)
    frames, times, sar = _decoded(path)
    assert np.array_equal(times, written)
    return frames, times, sar


def test_encoding_takes_any_times_rotation_and_pixel_shape(truth, tmp_path):
    uneven = np.cumsum(np.random.default_rng(0).integers(5_000_000, 90_000_000, len(truth)))
    frames, times, sar = _decoded_film(
        truth, tmp_path / "b.mp4", pts_ns=uneven, rotation=90, sar=Fraction(4, 3)
    )
    assert np.abs(times - uneven).max() <= 500
    assert sar == Fraction(4, 3)
    assert frames[0].rotation == -90, "FFmpeg counts counter-clockwise"
    with pytest.raises(ValueError, match=r"degrees = 45 in \.mp4"):
        scenes.encode(tmp_path / "c.mp4", truth.images[:2], rotation=45)
    paths = scenes.save_images(tmp_path / "frames", truth.images[:2])
    assert np.array_equal(cv2.imread(str(paths[1]))[..., ::-1], truth.images[1])


def test_umeyama_finds_the_similarity_and_refuses_what_fixes_none():
    points = np.random.default_rng(1).normal(size=(30, 3))
    R, t = turn(0.4, -0.7, 1.1), np.array([3.0, -1.0, 0.5])
    found = scenes.umeyama(points, 2.5 * points @ R.T + t)
    assert found.scale == pytest.approx(2.5)
    np.testing.assert_allclose(found.R, R, atol=1e-12)
    np.testing.assert_allclose(found.t, t, atol=1e-12)
    assert scenes.umeyama(points, 2.5 * points, with_scale=False).scale == 1
    mirrored = scenes.umeyama(points, points * [1, 1, -1])
    assert np.linalg.det(mirrored.R) == pytest.approx(1)
    for bad in (points[:2], np.outer(np.arange(5.0), [1, 2, 3]), np.ones((5, 3)) * np.nan):
        with pytest.raises(ValueError, match="points"):
            scenes.umeyama(bad, bad)


def test_trajectory_error_of_a_bent_square():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    bent = square.copy()
    bent[:, 2] = [0.1, -0.1, 0.1, -0.1]
    error = scenes.trajectory_error(bent, square, with_scale=False)
    assert error.rmse_m == pytest.approx(0.1)
    assert error.percent == pytest.approx(100 * 0.1 / 3)
    assert scenes.trajectory_error(7 * square + 1, square).rmse_m < 1e-12
    assert scenes.trajectory_error(7 * square, square, with_scale=False).rmse_m > 1


def test_trajectory_error_of_a_published_pair():
    if not SLAMBOOK.is_dir():
        pytest.skip("the clips of ../shared/data are not here")
    estimated, true = (np.loadtxt(SLAMBOOK / f"{n}.txt") for n in ("estimated", "groundtruth"))
    i, j = scenes.associate(estimated[:, 0], true[:, 0])
    assert len(i) == 612
    rigid = scenes.trajectory_error(estimated[i, 1:4], true[j, 1:4], with_scale=False)
    similar = scenes.trajectory_error(estimated[i, 1:4], true[j, 1:4])
    assert rigid.rmse_m == pytest.approx(0.02309, abs=1e-5)
    assert similar.rmse_m == pytest.approx(0.02262, abs=1e-5)
    assert similar.alignment.scale == pytest.approx(0.99524, abs=1e-5)


def test_association_pairs_the_nearest_and_each_once():
    first, second = np.array([0.0, 0.01, 1.0, 2.0]), np.array([0.012, 1.03, 2.0, 2.001])
    i, j = scenes.associate(first, second)
    assert (i.tolist(), j.tolist()) == ([1, 3], [0, 2])


def test_flow_depth_and_cloud_scores_by_hand():
    true = np.zeros((2, 2, 2))
    guess = np.array([[[3.0, 4.0], [0, 0]], [[0, 1.0], [100, 0]]])
    error = scenes.flow_error(guess, true, np.array([[True, True], [True, False]]))
    assert (error.epe_px, error.median_px, error.above_1px) == (2.0, 1.0, 1 / 3)
    with pytest.raises(ValueError, match="1 of them NaN"):
        scenes.flow_error(np.full((1, 1, 2), np.nan), true[:1, :1])

    depth = scenes.depth_error(np.array([1.02, np.nan, 2.0, 0.0]), np.array([1.0, 1, 4, 1]))
    assert (depth.complete, depth.good, depth.scale) == (0.5, 0.25, 1)
    assert depth.abs_rel == pytest.approx(0.26)
    scaled = scenes.depth_error(np.array([2.0, 4.0, 7.0]), np.array([1.0, 2, 3]), align=True)
    assert (scaled.scale, scaled.good) == (0.5, 2 / 3)
    assert scenes.depth_error(np.full(3, np.nan), np.ones(3)).complete == 0

    cloud = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    score = scenes.cloud_score(np.array([[0.0, 0, 0.04], [9, 9, 9]]), cloud, 0.05)
    assert (score.precision, score.recall, score.f) == (0.5, 0.25, pytest.approx(1 / 3))
    assert scenes.cloud_score(np.empty((0, 3)), cloud, 0.05).f == 0


def test_the_true_cloud_lies_on_surfaces_one_point_a_voxel(truth):
    cloud = scenes.true_cloud(truth, [0, 20], voxel_m=0.05, every=2)
    solids = solids_of(furnish(truth.seed))
    assert np.abs(solids.clearance_m(cloud, skip=len(solids.kind) - 1)).max() < 1e-9
    assert len(np.unique(np.floor(cloud / 0.05), axis=0)) == len(cloud) > 1000


def test_spans_match_within_their_family():
    true = [("pan-left", 0.0, 2.0), ("static", 2.0, 4.0), ("zoom-in", 4.0, 6.0)]
    score = scenes.span_score(
        [
            ("pan-left", 0.5, 2.0),
            ("pan-left", 9.0, 9.5),
            ("zoom-out", 4.0, 6.0),
            ("dolly-in", 4.0, 6.0),
            ("static", 3.5, 4.0),
        ],
        true,
    )
    assert score.found == pytest.approx(2 / 3)
    assert score.right == pytest.approx(1 / 3)
    assert [iou for *_, iou in score.best] == [0.75, 0.25, 1.0]
    nothing = scenes.span_score([], true)
    assert (nothing.found, nothing.right, nothing.best[0][1]) == (0, 0, None)
    with pytest.raises(ValueError, match="nothing to find"):
        scenes.span_score([], [])


def test_object_moving_alone_moves_the_ball_before_a_camera_at_rest():
    film = scenes.alone("object-moving", seed=2, seconds=1.0, width=128, height=72, jitter=0.0)
    assert film.segments == [("static", 0.0, 1.0), ("object-moving", 0.0, 1.0)]
    flow, ball = np.linalg.norm(film.flow(15), axis=-1), film.moving(15)
    assert flow[~ball].max() < 1e-6
    assert flow[ball].mean() * 640 / 128 > 2
