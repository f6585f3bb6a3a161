"""Rigid motions, similarity and upright worlds: axioms and exact answers."""

import numpy as np
import pytest

from stages._geometry.transforms import (
    align_sim3,
    invert,
    project,
    quaternion_wxyz,
    rotation_angle_deg,
    rotation_from_wxyz,
    scale_intrinsics,
    unproject,
    upright,
)

K = np.array([[500.0, 0, 320], [0, 510, 180], [0, 0, 1]])


def poses(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = [rotation_from_wxyz(q) for q in rng.normal(size=(count, 4))]
    T[:, :3, 3] = rng.normal(size=(count, 3))
    return T


def test_invert_is_the_inverse():
    T = poses(20)
    np.testing.assert_allclose(invert(T) @ T, np.tile(np.eye(4), (20, 1, 1)), atol=1e-12)


def test_quaternions_go_round_trip_for_every_branch():
    half_turns = [np.diag(d) for d in ([1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1])]
    for R in [*poses(50)[:, :3, :3], *half_turns]:
        q = quaternion_wxyz(np.asarray(R, np.float64))
        assert q[0] >= 0
        np.testing.assert_allclose(rotation_from_wxyz(q), R, atol=1e-12)


def test_rotation_angle():
    assert rotation_angle_deg(rotation_from_wxyz([np.cos(0.1), 0, np.sin(0.1), 0])) == (
        pytest.approx(np.degrees(0.2))
    )


def test_unproject_then_project_returns_the_pixel_centers():
    T = poses(1)[0]
    depth = np.random.default_rng(1).uniform(1, 5, (4, 6))
    uv, z = project(unproject(depth, K, T).reshape(-1, 3), K, invert(T))
    u, v = np.meshgrid(np.arange(6) + 0.5, np.arange(4) + 0.5)
    np.testing.assert_allclose(uv, np.stack([u, v], -1).reshape(-1, 2), atol=1e-9)
    np.testing.assert_allclose(z, depth.ravel())


def test_scaled_intrinsics_scale_the_pixels():
    xyz = np.array([[0.2, -0.1, 2.0]])
    uv, _ = project(xyz, K, np.eye(4))
    half, _ = project(xyz, scale_intrinsics(K, 0.5, 0.25), np.eye(4))
    np.testing.assert_allclose(half, uv * [0.5, 0.25])


def test_align_sim3_finds_the_similarity():
    source = np.random.default_rng(2).normal(size=(30, 3))
    R, t = poses(1, seed=3)[0][:3, :3], np.array([1.0, -2, 3])
    s, R_found, t_found = align_sim3(source, 2.5 * source @ R.T + t)
    assert s == pytest.approx(2.5)
    np.testing.assert_allclose(R_found, R, atol=1e-9)
    np.testing.assert_allclose(t_found, t, atol=1e-9)


def test_align_sim3_never_mirrors():
    source = np.random.default_rng(4).normal(size=(30, 3))
    _, R, _ = align_sim3(source, source * [1, 1, -1])
    assert np.linalg.det(R) == pytest.approx(1)


def test_align_sim3_of_one_spot_keeps_the_scale():
    s, R, t = align_sim3(np.ones((3, 3)), np.full((3, 3), 4.0))
    assert s == 1
    np.testing.assert_allclose(R, np.eye(3))
    np.testing.assert_allclose(t, 3)


@pytest.mark.parametrize("pitch_deg", [0.0, -30.0, 60.0])
def test_upright_levels_cameras_that_look_around(pitch_deg):
    """Level cameras with a common pitch, in a world that was turned at random."""
    pitch = np.radians(pitch_deg) / 2
    look = rotation_from_wxyz([np.cos(pitch), np.sin(pitch), 0, 0])
    turned = poses(1, seed=5)[0][:3, :3]
    T = np.tile(np.eye(4), (8, 1, 1))
    for i, yaw in enumerate(np.linspace(0, 2.0, 8) / 2):
        T[i, :3, :3] = turned @ rotation_from_wxyz([np.cos(yaw), 0, np.sin(yaw), 0]) @ look
    R = upright(T)
    assert np.linalg.det(R) == pytest.approx(1)
    np.testing.assert_allclose(R @ turned @ [0, 1, 0], [0, 1, 0], atol=0.02)
    first = R @ T[0, :3, 2]
    assert first[0] == pytest.approx(0, abs=1e-9)
    assert first[2] > 0


def test_upright_of_a_camera_that_never_turns_follows_its_own_down():
    T = np.tile(poses(1, seed=6)[0], (4, 1, 1))
    np.testing.assert_allclose(upright(T) @ T[0, :3, 1], [0, 1, 0], atol=1e-9)
