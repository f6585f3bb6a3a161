"""The fit of a turn and zoom against exact homographies, outliers and parallax."""

import numpy as np
import pytest

from stages._geometry.pure_rotation import fit_rotation_zoom

SIZE = (640, 360)
CENTER = np.array([320.0, 180.0])


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def turned(p: np.ndarray, R: np.ndarray, focal_px: float, zoom: float) -> np.ndarray:
    rays = np.column_stack([(p - CENTER) / focal_px, np.ones(len(p))]) @ R.T
    return rays[:, :2] / rays[:, 2:] * focal_px * zoom + CENTER


@pytest.mark.parametrize("focal_px", [350.0, 550.0, 900.0])
@pytest.mark.parametrize("degrees", [5.0, 15.0])
@pytest.mark.parametrize("zoom", [1.0, 1.3])
def test_a_turn_with_noise_and_a_fifth_of_outliers(focal_px, degrees, zoom):
    rng = np.random.default_rng(1)
    p = rng.uniform((0, 0), SIZE, (300, 2))
    R = rotation((0.3, 1, 0.2), degrees)
    q = turned(p, R, focal_px, zoom) + rng.normal(0, 0.3, p.shape)
    q[:60] += rng.uniform(-40, 40, (60, 2))
    turn = fit_rotation_zoom(p, q, SIZE)
    assert turn.focal_px == pytest.approx(focal_px, rel=0.05)
    assert turn.zoom == pytest.approx(zoom, rel=0.005)
    assert turn.angle_deg == pytest.approx(degrees, abs=0.1)
    assert np.median(turn.residual_px[60:]) < 0.5


def test_a_known_focal_length_is_kept():
    p = np.random.default_rng(2).uniform((0, 0), SIZE, (100, 2))
    q = turned(p, rotation((0, 1, 0), 1.0), 500.0, 1.0)
    turn = fit_rotation_zoom(p, q, SIZE, focal_px=500.0)
    assert turn.focal_px == pytest.approx(500.0, rel=1e-3)
    assert turn.residual_px.max() < 1e-3


def test_parallax_is_left_over():
    """A sideways step of 0.1 m before points 1 to 4 m away moves them by 55 down to 14 px."""
    rng = np.random.default_rng(3)
    p = rng.uniform((0, 0), SIZE, (300, 2))
    depth_m = rng.uniform(1, 4, 300)
    q = p - np.column_stack([0.1 * 550 / depth_m, np.zeros(300)])
    assert np.median(fit_rotation_zoom(p, q, SIZE).residual_px) > 3
