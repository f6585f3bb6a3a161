"""Camera paths, by their geometry."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stages._geometry.transforms import project, rotation_angle_deg
from stages._rendering import camera_path
from tests.support import results


def cameras_round(count, first=0.0, last=2 * np.pi, height=1.0, radius=3.0):
    angle = np.linspace(first, last, count, endpoint=False)
    eyes = np.stack([radius * np.cos(angle), np.full(count, -height), radius * np.sin(angle)], 1)
    # The world of reel3d: y points down.
    return camera_path.look_at(eyes, np.zeros(3), np.array([0, -1.0, 0]))


K_ROUND = np.array([[300.0, 0, 160], [0, 300, 90], [0, 0, 1]])
THING = np.random.default_rng(0).normal(0, 0.3, (3000, 3))


def turned(T):
    return rotation_angle_deg(np.swapaxes(T[:-1, :3, :3], -1, -2) @ T[1:, :3, :3])


def test_other_shapes_of_picture_are_crops():
    K = np.array([[300.0, 0, 150], [0, 310, 95], [0, 0, 1]])
    wide = camera_path.fit_intrinsics(K, (320, 180), (640, 240))
    # Twice as wide, so twice as large; 60 of 360 rows are lost above, 60 below.
    assert wide.tolist() == [[600, 0, 300], [0, 620, 130], [0, 0, 1]]
    assert camera_path.fit_intrinsics(K, (320, 180), (320, 180)).tolist() == K.tolist()


def test_half_way_between_two_poses():
    first, second = np.eye(4), np.eye(4)
    second[:3, :3] = Rotation.from_rotvec([0, 0.8, 0]).as_matrix()
    second[:3, 3] = 2, 0, -4
    T = camera_path.between(first, second, 0.25)
    assert T[:3, 3] == pytest.approx([0.5, 0, -1])
    assert Rotation.from_matrix(T[:3, :3]).as_rotvec() == pytest.approx([0, 0.2, 0])


def test_a_path_through_poses_meets_them_all_at_an_even_pace():
    keys = results.poses(6)
    # Uneven steps: the third camera stands close to the second.
    keys[2, :3, 3] = 0.9 * keys[1, :3, 3] + 0.1 * keys[2, :3, 3]
    T, stands = camera_path.through(keys, 4001, 3.0)
    assert np.abs(T[[0, -1]] - keys[[0, -1]]).max() < 1e-12
    for number, key in enumerate(keys):
        met = T[np.argmin(np.abs(stands - number))]
        assert np.abs(met - key).max() < 2e-3
    step = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1) / 3 + np.radians(turned(T))
    assert step.max() < 1.25 * step.mean()
    corner = np.abs(np.diff(T[:, :3, 3], n=2, axis=0)).max()
    assert corner < 0.02 * np.abs(np.diff(T[:, :3, 3], axis=0)).max(), "no corners"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_cameras_that_stand_still_are_a_path(count):
    T, stands = camera_path.through(np.tile(np.eye(4), (count, 1, 1)), 7, 1.0)
    assert np.array_equal(T, np.tile(np.eye(4), (7, 1, 1)))
    assert (stands[0], stands[-1]) == (0, count - 1)


def test_an_orbit_of_cameras_all_round_is_a_full_circle_at_their_height():
    T = camera_path.orbit(cameras_round(24), K_ROUND, (320, 180), THING, 90)
    eyes = T[:, :3, 3]
    assert np.linalg.norm(eyes[:, [0, 2]], axis=1) == pytest.approx(3.0, rel=0.12)
    assert eyes[:, 1] == pytest.approx(-1.0, abs=0.25)
    angle = np.unwrap(np.arctan2(eyes[:, 2], eyes[:, 0]))
    assert abs(angle[-1] - angle[0]) == pytest.approx(2 * np.pi * 89 / 90, rel=0.02)
    uv, z = zip(*(project(np.zeros((1, 3)), K_ROUND, np.linalg.inv(t)) for t in T), strict=True)
    assert np.concatenate(z).min() > 0
    assert np.abs(np.concatenate(uv) - [160, 90]).max() < 45, "it looks at the middle"


def test_an_orbit_of_an_arc_stays_on_it_and_closes():
    cameras = cameras_round(20, 0.2, 1.4)
    T = camera_path.orbit(cameras, K_ROUND, (320, 180), THING, 120)
    eyes = T[:, :3, 3]
    angle = np.arctan2(eyes[:, 2], eyes[:, 0])
    assert 0.2 < angle.min() < 0.6
    assert 1.0 < angle.max() < 1.34
    assert np.linalg.norm(eyes, axis=1) == pytest.approx(np.sqrt(10), rel=0.1)
    closed = np.concatenate([T, T[:1]])
    step = np.linalg.norm(np.diff(closed[:, :3, 3], axis=0), axis=1)
    assert step.max() < 2 * np.median(step)
    assert turned(closed).max() < 3
    assert np.abs(T[:, 1, 0]).max() < 0.02, "level: x axes lie in the horizon"


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("points", [0, 500])
def test_an_orbit_of_next_to_nothing(count, points):
    T = camera_path.orbit(results.poses(6)[:count], K_ROUND, (320, 180), THING[:points], 30)
    assert np.isfinite(T).all()
    moved = np.linalg.norm(T[:, :3, 3] - T[0, :3, 3], axis=1).max()
    assert 0.01 < moved < 1.5, "it sways a little"


def test_what_most_cameras_looked_at():
    cameras = np.concatenate([cameras_round(20, 0, 1.5), np.eye(4)[None]])
    cameras[-1, :3, 3] = 50, 0, 0
    elsewhere = np.array([[50, 0, 4.0]])
    focus, sees = camera_path.orbit_focus(
        cameras, K_ROUND, (320, 180), np.concatenate([THING[:200], elsewhere])
    )
    assert np.linalg.norm(focus) < 0.4
    assert sees.tolist() == [True] * 20 + [False]
