"""From matches of any origin to poses: ideal ones, from exact truth, through the learned paths."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.contract import Context, Event, Keyframes, Metric, Progress, Views
from pipeline.errors import PartNotMade
from stages._geometry.transforms import invert, project
from stages.pose import colmap
from stages.pose._correspondences import MERGE_PX, Correspondences, features_of
from stages.pose._features import Features
from stages.pose._front_end import FrontEnd
from stages.pose._image_transform import ImageTransform
from stages.pose._kornia import NearestNeighborMatcher
from stages.pose._learned import DetectorFreeFrontEnd, LearnedFrontEnd
from stages.pose.learned import Config, Model
from tests.stages.pose.test_pose import keyframes_of
from tests.support.scenes import Truth, alone, trajectory_error
from tests.support.scenes.truth import Effects

NOISE_PX = 0.3
"""What a good matcher is off."""


@pytest.fixture(scope="module")
def film() -> Truth:
    """A room in plain colors, out of focus: nothing that SIFT could hold on to."""
    return replace(alone("truck-right", seed=1), plain=True, effects=(Effects(blur_px=8),))


class Exact:
    """Knows which picture is which frame, and where every point of it really is."""

    def __init__(self, film: Truth, what: Keyframes) -> None:
        self.film = film
        self._frame = {
            image.tobytes(): int(i) for image, i in zip(what.images, what.index, strict=True)
        }
        self._rng = np.random.default_rng(0)

    def image_transform(self, full: tuple[int, int]) -> ImageTransform:
        return ImageTransform(size=full, full=full)

    def frame(self, image: np.ndarray) -> int:
        return self._frame[image.tobytes()]

    def noisy(self, xy: np.ndarray) -> np.ndarray:
        return (xy + self._rng.normal(0, NOISE_PX, xy.shape)).astype(np.float32)


class ExactPairs(Exact):
    """Says of every eighth pixel where it is in another picture, as EfficientLoFTR would."""

    def extract(self, images: np.ndarray) -> list[int]:
        return [self.frame(image) for image in images]

    def pair(
        self, a: int, b: int, grid: ImageTransform
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        del grid
        flow, visible = self.film.flow_and_visible(a, b)
        v, u = np.mgrid[4 : self.film.height : 8, 4 : self.film.width : 8].reshape(2, -1)
        v, u = v[visible[v, u]], u[visible[v, u]]
        here = np.stack([u, v], 1) + 0.5
        score = self._rng.uniform(0.2, 1, len(u)).astype(np.float32)
        return here.astype(np.float32), self.noisy(here + flow[v, u]), score


class ExactPoints(Exact):
    """Finds the same 900 points of the room in every picture, each with its own descriptor."""

    def __init__(self, film: Truth, what: Keyframes) -> None:
        super().__init__(film, what)
        parts = [film.points(i, 6)[0] for i in (0, len(film) // 2, len(film) - 1)]
        self._xyz = self._rng.permutation(np.concatenate(parts))[:900]
        told = self._rng.normal(size=(len(self._xyz), 64)).astype(np.float32)
        self._descriptors = told / np.linalg.norm(told, axis=1, keepdims=True)

    def extract(self, images: np.ndarray, most: int) -> list[Features]:
        found = []
        for image in images:
            i = self.frame(image)
            uv, z = project(self._xyz, self.film.K[i], invert(self.film.T_world_camera[i]))
            inside = (
                (z > 0) & (uv >= 1).all(1) & (uv < (image.shape[1] - 1, image.shape[0] - 1)).all(1)
            )
            rows = np.flatnonzero(inside)
            column, line = uv[rows].astype(int).T
            rows = rows[np.abs(self.film.depth(i)[line, column] / z[rows] - 1) < 0.02][:most]
            found.append(Features(xy=self.noisy(uv[rows]), descriptors=self._descriptors[rows]))
        return found


def posed(what: Keyframes, front_end: FrontEnd) -> tuple[Views, list[Event]]:
    """Views of pose/learned, with a front end in place of its networks."""
    events: list[Event] = []
    stage = Stage(Config())
    stage.chosen = front_end
    stage.open(Context(report=events.append))
    return stage.process(what), events


class Stage(Model):
    """pose/learned whose front end needs no weights."""

    chosen: FrontEnd

    def _built(self) -> FrontEnd:
        return self.chosen


def assert_true(views: Views, film: Truth) -> None:
    assert len(views.index) == views.candidates
    error = trajectory_error(views.T_world_camera, film.T_world_camera[views.index])
    assert error.percent < 0.3
    estimated, true = views.T_world_camera[:, :3, :3], film.T_world_camera[views.index, :3, :3]
    turned = np.einsum("nji,jk,nkl->nil", estimated, estimated[0] @ true[0].T, true)
    angles = np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert angles.max() < 0.6
    off = []
    for k in range(len(views.index)):
        seen = views.observed_view == k
        xyz = views.points[views.observed_point[seen]].astype(np.float64)
        uv, z = project(xyz, views.intrinsics[k], invert(views.T_world_camera[k]))
        assert (z > 0).all()
        off.append(np.linalg.norm(uv - views.observed_xy[seen], axis=1))
    assert np.mean(np.concatenate(off)) < 1


def quiet(_: str) -> None:
    raise AssertionError("nothing was to be warned of")


def test_where_sift_finds_nothing_correspondences_give_poses(film: Truth) -> None:
    what = keyframes_of(film, 8)
    stage = colmap.Model(colmap.Config())
    stage.open(Context())
    with pytest.raises(PartNotMade, match="too much blur or too little texture"):
        stage.process(what)
    matcher = ExactPairs(film, what)
    views, events = posed(what, DetectorFreeFrontEnd(matcher, sure=4, threads=1, warn=quiet))
    assert_true(views, film)
    told = {event.name: event.value for event in events if isinstance(event, Metric)}
    # A point that two images share is followed through the others.
    assert told["track_length_views"] > 3
    assert told["registered_share"] == 1
    done = [event.done / event.total for event in events if isinstance(event, Progress)]
    assert 0 <= min(done) <= max(done) <= 1


def test_where_sift_finds_nothing_keypoints_give_poses(film: Truth) -> None:
    what = keyframes_of(film, 8)
    front_end = LearnedFrontEnd(
        ExactPoints(film, what),
        NearestNeighborMatcher(device="cpu"),
        sure=4,
        batch=3,
        threads=2,
        warn=quiet,
    )
    views, _ = posed(what, front_end)
    assert_true(views, film)


def test_a_picture_is_looked_at_once_for_all_its_pairs(film: Truth) -> None:
    what = keyframes_of(film, 8)
    looked: list[int] = []

    class Counted(ExactPairs):
        def extract(self, images: np.ndarray) -> list[int]:
            found = super().extract(images)
            looked.extend(found)
            return found

    front_end = DetectorFreeFrontEnd(Counted(film, what), sure=4, threads=1, warn=quiet)
    pairs = [(i, j) for i in range(8) for j in range(i + 1, min(8, i + 5))]
    front_end.describe(what, 500, lambda i: None)
    features, matched = front_end.match(what, [], pairs)
    assert [(one.i, one.j) for one in matched] == pairs
    assert sorted(looked) == what.index.tolist()
    assert all(len(some) for some in features)


def test_points_off_the_picture_and_no_numbers_take_no_part(film: Truth) -> None:
    what = keyframes_of(film, 20)
    heard: list[str] = []

    class Wild(ExactPairs):
        def pair(self, a: int, b: int, grid: ImageTransform) -> Any:
            if a == what.index[1]:
                return None
            first, second, score = super().pair(a, b, grid)
            second[:10], second[10:20] = np.nan, -5
            return first, second, score

    front_end = DetectorFreeFrontEnd(Wild(film, what), sure=2, threads=1, warn=heard.append)
    front_end.describe(what, 10_000, lambda i: None)
    features, matched = front_end.match(what, [], [(0, 1), (1, 2)])
    assert [(one.i, one.j) for one in matched] == [(0, 1)]
    for some in features:
        assert np.isfinite(some.xy).all()
        assert (some.xy >= 0).all()
    assert heard == ["1 of 2 pairs have no matches: the network's scores are non-finite (NaN)"]


def correspondences(i: int, j: int, rows: list[tuple[Any, Any, float]]) -> Correspondences:
    return Correspondences(
        i=i,
        j=j,
        xy_i=np.array([a for a, _, _ in rows], np.float32).reshape(-1, 2),
        xy_j=np.array([b for _, b, _ in rows], np.float32).reshape(-1, 2),
        score=np.array([s for _, _, s in rows], np.float32),
    )


def test_points_close_together_are_one_and_make_tracks() -> None:
    features, matched = features_of(
        [
            correspondences(0, 1, [((10, 10), (20, 20), 0.9), ((50, 50), (60, 60), 0.5)]),
            correspondences(1, 2, [((20.4, 20), (30, 30), 0.8), ((60, 60.6), (70, 70), 0.4)]),
            correspondences(0, 2, [((10.2, 10.1), (30.3, 30), 0.7)]),
        ],
        4,
    )
    assert [len(some) for some in features] == [2, 3, 2, 0]
    # The most certain gives the place.
    np.testing.assert_array_equal(features[0].xy[0], [10, 10])
    np.testing.assert_array_equal(features[2].xy[0], [30, 30])
    assert [one.matches.tolist() for one in matched] == [
        [[0, 0], [1, 1]],
        [[0, 0], [2, 1]],
        [[0, 0]],
    ]


def test_a_feature_has_one_match_in_a_pair() -> None:
    features, (one,) = features_of(
        [correspondences(0, 1, [((10, 10), (20, 20), 0.3), ((10.4, 10), (25, 20), 0.6)])], 2
    )
    assert len(features[0]) == 1
    np.testing.assert_array_equal(features[1].xy[one.matches[:, 1]], [[25, 20]])


def test_nothing_merges_to_nothing() -> None:
    features, (one,) = features_of([correspondences(0, 1, [])], 2)
    assert [len(some) for some in features] == [0, 0]
    assert one.matches.shape == (0, 2)
    assert features_of([], 1)[1] == []


def test_merged_points_keep_their_distance() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 40, (2, 2000, 2)).astype(np.float32)
    score = rng.uniform(size=2000).astype(np.float32)
    features, (one,) = features_of(
        [Correspondences(i=0, j=1, xy_i=xy[0], xy_j=xy[1], score=score)], 2
    )
    for some in features:
        apart = np.linalg.norm(some.xy[:, None] - some.xy[None], axis=2)
        assert np.min(apart + 10 * np.eye(len(apart))) > MERGE_PX
    for side in (0, 1):
        assert len(np.unique(one.matches[:, side])) == len(one.matches) > 100
