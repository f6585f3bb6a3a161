"""Poses against rendered truth, and every reason for which there are none."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.contract import Context, Event, Keyframes, Metric, Views, Warn
from pipeline.errors import PartNotMade
from stages._geometry.transforms import invert, project
from stages.pose import colmap, given
from stages.pose._failure_reasons import left_out
from stages.pose._features import Features, extract, match
from stages.pose._static_camera import static_share
from tests.support.scenes import Truth, alone, trajectory_error


def keyframes_of(film: Truth, every: int, **fields) -> Keyframes:
    index = np.arange(0, len(film), every)
    return keyframes(np.stack([film.images[i] for i in index]), index=index, **fields)


def keyframes(images: np.ndarray, index: np.ndarray | None = None, **fields) -> Keyframes:
    count = len(images)
    index = np.arange(count) if index is None else index
    values = {
        "images": images,
        "pts_ns": index.astype(np.int64) * 100_000_000,
        "index": index.astype(np.int64),
        "sharpness": np.ones(count, np.float32),
        "shot": np.zeros(count, np.int32),
        "parallax_px": np.full(count, np.nan, np.float32),
    }
    return Keyframes(**{**values, **fields})


def pose(what: Keyframes, model=colmap, threads=1, **options) -> tuple[Views, list[Event]]:
    events: list[Event] = []
    stage = model.Model(model.Config(**options))
    stage.open(Context(threads=threads, report=events.append))
    return stage.process(what), events


def reason(what: Keyframes, model=colmap, **options) -> str:
    with pytest.raises(PartNotMade) as failure:
        pose(what, model, **options)
    text = str(failure.value)
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def film() -> Truth:
    return alone("truck-right", seed=1)


@pytest.fixture(scope="module")
def posed(film: Truth) -> tuple[Views, list[Event]]:
    return pose(keyframes_of(film, 5))


def test_a_sideways_move_is_posed(film, posed):
    views, events = posed
    assert len(views.index) == views.candidates == 12
    error = trajectory_error(views.T_world_camera, film.T_world_camera[views.index])
    assert error.percent < 0.5
    assert views.scale == "arbitrary"
    focal = {e.name: e.value for e in events if isinstance(e, Metric)}["focal_length_px"]
    # A straight move without turning hardly tells the focal length.
    assert focal == pytest.approx(film.K[0, 0, 0], rel=0.35)


def test_points_lie_where_they_were_seen(posed):
    views, _ = posed
    off = []
    for k in range(len(views.index)):
        seen = views.observed_view == k
        xyz = views.points[views.observed_point[seen]].astype(np.float64)
        uv, z = project(xyz, views.intrinsics[k], invert(views.T_world_camera[k]))
        assert (z > 0).all()
        off.append(np.linalg.norm(uv - views.observed_xy[seen], axis=1))
    assert np.mean(np.concatenate(off)) < 0.7
    assert len(views.points) > 300


def test_the_world_is_upright_and_of_sane_size(posed):
    views, _ = posed
    assert views.T_world_camera[:, 1, 1].min() > 0.9
    z = [
        project(
            views.points[views.observed_point[views.observed_view == k]],
            views.intrinsics[k],
            invert(views.T_world_camera[k]),
        )[1]
        for k in range(len(views.index))
    ]
    assert np.median(np.concatenate(z)) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(np.median(views.points, axis=0), 0, atol=1e-3)


def test_colors_are_those_of_the_pixels(posed):
    views, _ = posed
    k = 0
    seen = views.observed_view == k
    column, row = views.observed_xy[seen].astype(int).T
    pixel = views.images[k][row, column].astype(float)
    color = views.points_rgb[views.observed_point[seen]]
    assert np.median(np.abs(pixel - color)) < 12


def test_the_same_again_is_the_same_with_any_number_of_threads(film, posed):
    views, _ = pose(keyframes_of(film, 5), threads=4)
    for name in ("T_world_camera", "intrinsics", "points", "observed_xy"):
        np.testing.assert_array_equal(getattr(views, name), getattr(posed[0], name))


def test_given_intrinsics_are_kept(film):
    what = keyframes_of(film, 10, intrinsics=np.ascontiguousarray(film.K[::10]))
    views, _ = pose(what)
    np.testing.assert_allclose(views.intrinsics, what.intrinsics[: len(views.index)])


def test_a_dolly_is_not_taken_for_a_zoom():
    film = alone("dolly-out", seed=1, jitter=1.0)
    views, _ = pose(keyframes_of(film, 6))
    assert len(views.index) == views.candidates
    error = trajectory_error(views.T_world_camera, film.T_world_camera[views.index])
    assert error.percent < 1


@pytest.mark.parametrize("label", ["pan-left", "zoom-in"])
def test_a_turn_or_zoom_is_no_parallax(label):
    text = reason(keyframes_of(alone(label, seed=1, jitter=1.0), 10))
    assert text.startswith("no parallax: the camera only turns or zooms (")
    assert text.endswith("reconstruction needs a camera that moves sideways")


def test_a_still_camera_is_no_parallax():
    text = reason(keyframes_of(alone("object-moving", seed=1, seconds=1.0), 6))
    assert text.startswith("no parallax: the camera stands still (")


def test_one_keyframe_is_no_parallax():
    assert reason(keyframes(np.zeros((1, 90, 160, 3), np.uint8))) == (
        "no parallax: only 1 keyframe, at least 3 are needed: the video hardly moves or is too "
        "short; move the camera sideways"
    )


@pytest.mark.parametrize("size", [(90, 160), (8, 8), (1, 1), (40, 1000)])
def test_flat_pictures_of_any_size_have_no_texture(size):
    text = reason(keyframes(np.full((5, *size, 3), 90, np.uint8)))
    assert text == (
        f"too little texture: 0 features in the median keyframe ({size[1]}x{size[0]}), at least "
        "60 are needed: record sharper video, with more light or at a larger size, or try "
        "pose.model=learned"
    )


def test_blurred_pictures_are_called_so(blurred):
    text = reason(keyframes(blurred))
    assert text.startswith("too much blur or too little texture: ")


@pytest.fixture
def blurred() -> np.ndarray:
    import cv2

    noise = np.random.default_rng(0).normal(size=(4, 120, 160)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(n, (0, 0), 25) for n in noise])
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 255
    return np.repeat(smooth[..., None], 3, axis=-1).astype(np.uint8)


def test_strangers_have_too_little_overlap():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (5, 45, 80, 3), np.uint8)
    text = reason(keyframes(coarse.repeat(4, axis=1).repeat(4, axis=2)))
    assert text == (
        "too little overlap: at most 1 of 5 keyframes show the same place (0 pairs match): move "
        "the camera slower, or give more frames (sample.fps), or try pose.model=learned"
    )


def test_two_places_give_the_larger_and_a_warning(film):
    other = alone("truck-left", seed=2)
    rows = np.concatenate([np.arange(0, 60, 5), np.arange(0, 60, 10)])
    images = np.stack([*(film.images[i] for i in rows[:12]), *(other.images[i] for i in rows[12:])])
    shot = np.repeat([0, 1], [12, 6]).astype(np.int32)
    views, events = pose(keyframes(images, shot=shot))
    assert views.index.tolist() == list(range(12))
    assert views.candidates == 18
    assert [e.text for e in events if isinstance(e, Warn)] == [
        "12 of 18 keyframes posed; left out: 1.2-1.7 s (shot 1)"
    ]


def test_left_out_names_times(posed):
    views, _ = posed
    some = np.arange(60)[::5]
    all_of = keyframes(np.repeat(views.images[:1], 12, axis=0), index=some)
    part = replace(
        views,
        index=np.delete(views.index, [0, 3, 4]),
        **{
            n: np.delete(getattr(views, n), [0, 3, 4], axis=0)
            for n in ("images", "pts_ns", "intrinsics", "T_world_camera")
        },
    )
    assert left_out(all_of, views) == ""
    assert left_out(all_of, part) == "9 of 12 keyframes posed; left out: 0.0 s, 1.5-2.0 s"


def test_given_poses_triangulate_points_at_the_true_depth(film):
    rows = np.arange(0, 60, 6)
    what = keyframes_of(
        film,
        6,
        intrinsics=np.ascontiguousarray(film.K[rows]),
        T_world_camera=np.ascontiguousarray(film.T_world_camera[rows]),
        metric=True,
    )
    views, _ = pose(what, given)
    assert views.scale == "metric"
    np.testing.assert_allclose(views.T_world_camera, what.T_world_camera, atol=1e-9)
    relative = []
    for k, row in enumerate(rows):
        seen = views.observed_view == k
        _, z = project(
            views.points[views.observed_point[seen]].astype(np.float64),
            views.intrinsics[k],
            invert(views.T_world_camera[k]),
        )
        column, line = views.observed_xy[seen].astype(int).T
        relative.append(np.abs(z / film.depth(row)[line, column] - 1))
    assert np.median(np.concatenate(relative)) < 0.02
    assert len(views.points) > 200


def test_given_leaves_out_keyframes_without_a_pose(film):
    poses = np.array(film.T_world_camera[:60:6])
    poses[2] = np.nan
    what = keyframes_of(
        film, 6, intrinsics=np.ascontiguousarray(film.K[:60:6]), T_world_camera=poses
    )
    views, events = pose(what, given)
    assert len(views.index) == 9
    assert views.candidates == 10
    assert [e.text for e in events if isinstance(e, Warn)] == [
        "9 of 10 keyframes have a pose; the others are left out"
    ]


def test_given_without_poses_says_what_it_reads(film):
    assert reason(keyframes_of(film, 20), given) == (
        "no poses came with the source; pose/given reads them from transforms.json, a COLMAP "
        "model (sparse/0), KITTI's poses.txt or 7-Scenes' *.pose.txt beside the images; use "
        "pose/colmap to estimate them"
    )


def test_given_without_intrinsics_says_so(film):
    what = keyframes_of(film, 20, T_world_camera=np.array(film.T_world_camera[::20]))
    assert "but no focal length" in reason(what, given)


def test_features_have_pixel_centers_at_a_half():
    """A disc about the pixel (60, 40) has its center at (60.5, 40.5)."""
    v, u = np.mgrid[:80, :120]
    gray = np.where((u - 60) ** 2 + (v - 40) ** 2 <= 64, 220, 40).astype(np.uint8)
    found = extract(gray, most=50)
    assert np.linalg.norm(found.xy - [60.5, 40.5], axis=1).min() < 0.1


def test_matches_are_mutual_and_unambiguous():
    rng = np.random.default_rng(0)
    d = np.abs(rng.normal(size=(40, 128))).astype(np.float32)
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    a = Features(xy=np.zeros((40, 2), np.float32), descriptors=d)
    order = rng.permutation(40)
    b = Features(xy=np.zeros((40, 2), np.float32), descriptors=np.ascontiguousarray(d[order]))
    np.testing.assert_array_equal(order[match(a, b)[:, 1]], match(a, b)[:, 0])
    twice = Features(xy=np.zeros((80, 2), np.float32), descriptors=np.concatenate([d, d]))
    assert len(match(a, twice)) == 0


def test_still_share_of_a_moving_and_a_fixed_picture():
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (120, 400), np.uint8)
    moving = np.stack([wide[:, 20 * i : 20 * i + 160] for i in range(6)])
    fixed = np.repeat(moving[:1], 6, axis=0)
    shot = np.zeros(6, np.int32)
    assert static_share(np.repeat(moving[..., None], 3, -1), shot) < 0.02
    assert static_share(np.repeat(fixed[..., None], 3, -1), shot) == 1
    assert np.isnan(static_share(np.zeros((6, 40, 40, 3), np.uint8), shot))
