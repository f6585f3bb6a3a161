"""The fit of one pair against exact flows of turning, zooming and moving cameras."""

import numpy as np
import pytest

from stages.action._objects import object_evidence
from stages.action._planar import CameraMotion, PlanarFit, camera_motion, fit_plane
from stages.action._samples import FlowSamples, sample_flow
from tests.support.motions import texture

H, W, F = 180, 320, 0.85
IMAGE = texture(H, W)
SURE = np.ones((H, W), np.float32)


def rays() -> np.ndarray:
    v, u = np.mgrid[:H, :W] + 0.5
    return np.stack([(u - W / 2) / (F * W), (v - H / 2) / (F * W), np.ones_like(u)], axis=-1)


def seen(
    rotation: np.ndarray | None = None,
    zoom: float = 1.0,
    move: tuple[float, float, float] = (0, 0, 0),
    depth: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Exact flow px [H, W, 2] of a camera that moves, turns and zooms before a depth map."""
    points = rays() * np.broadcast_to(np.asarray(depth, float), (H, W))[..., None] - np.array(move)
    points = points if rotation is None else points @ rotation
    projected = points[..., :2] / points[..., 2:] * F * W * zoom
    start = rays()[..., :2] * F * W
    return (projected - start).astype(np.float32)


def turned(axis: int, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    rotation = np.eye(3)
    rotation[a, a] = rotation[b, b] = c
    rotation[a, b], rotation[b, a] = -s, s
    return rotation


def motion_of(flow: np.ndarray, sure: np.ndarray = SURE) -> tuple[CameraMotion, PlanarFit]:
    samples = sample_flow(flow, sure, IMAGE)
    fit = fit_plane(samples)
    return camera_motion(samples, fit, F), fit


def test_a_pan_is_its_angle_and_has_no_parallax() -> None:
    motion, fit = motion_of(seen(turned(1, 0.05)))
    assert motion.pan == pytest.approx(F * 0.05, rel=0.01)
    assert max(abs(motion.tilt), abs(motion.zoom), abs(motion.roll)) < 1e-3 * motion.pan
    assert np.linalg.norm(motion.shear) < 2e-3 * motion.size
    assert np.linalg.norm(motion.bend) < 0.01 * motion.size
    assert fit.support == 1


def test_a_tilt_a_roll_and_a_zoom_have_the_sign_of_their_label() -> None:
    up, _ = motion_of(seen(turned(0, 0.04)))
    clockwise, _ = motion_of(seen(turned(2, 0.06)))
    nearer, _ = motion_of(seen(zoom=1.05))
    assert up.tilt == pytest.approx(F * 0.04, rel=0.01)
    assert clockwise.roll == pytest.approx(0.3 * 0.06, rel=0.01)
    assert nearer.zoom == pytest.approx(0.3 * 0.05, rel=0.03)
    assert np.linalg.norm(nearer.bend) < 1e-6


def test_a_truck_past_the_ground_slides_and_a_dolly_to_a_slanted_wall_bends() -> None:
    v, u = np.mgrid[:H, :W] / np.array([H, W]).reshape(2, 1, 1)
    ground = 1 / (0.4 + 0.6 * v)
    truck, _ = motion_of(seen(move=(0.03, 0, 0), depth=ground))
    assert truck.pan > 0
    assert truck.truck == pytest.approx(truck.pan)
    assert np.linalg.norm(truck.shear) > 0.1 * truck.size
    wall = 1 / (0.6 + 0.8 * u)
    dolly, _ = motion_of(seen(move=(0, 0, 0.06), depth=wall))
    assert dolly.zoom > 0
    assert np.linalg.norm(dolly.bend) > 0.1 * dolly.size


def test_an_orbit_is_a_truck_against_its_pan() -> None:
    """Move right and turn left about something near: the far background moves right."""
    v = np.mgrid[:H, :W][0] / H
    ground = 1 / (0.05 + 0.95 * v**1.0)
    flow = seen(turned(1, -0.045), move=(0.06, 0, 0), depth=ground)
    motion, _ = motion_of(flow)
    assert motion.pan < 0
    assert motion.truck > 0


def test_a_third_of_wrong_flow_does_not_matter() -> None:
    flow = seen(turned(1, 0.04))
    flow[:, W // 3 : 2 * W // 3] += (9, -7)
    motion, fit = motion_of(flow)
    assert motion.pan == pytest.approx(F * 0.04, rel=0.02)
    assert 0.6 < fit.support < 0.72


def test_a_dull_background_at_rest_wins_over_a_large_object() -> None:
    flow = np.zeros((H, W, 2), np.float32)
    flow[:, 110:190] = (0, -12)
    sure = np.full((H, W), 0.05, np.float32)
    sure[:, 110:190] = 1
    sure[:, :48] = sure[:, -48:] = 0.55
    motion, fit = motion_of(flow, sure)
    assert motion.size == 0
    assert np.all(fit.parameters == 0)


def evidence(flow: np.ndarray) -> float:
    samples = sample_flow(flow, SURE, IMAGE)
    return object_evidence(samples, fit_plane(samples))


def with_object(flow: np.ndarray, extra: tuple[float, float]) -> np.ndarray:
    flow = flow.copy()
    flow[80:120, 140:180] += extra
    return flow


def test_an_object_is_seen_before_cameras_that_rest_turn_and_move() -> None:
    v = np.mgrid[:H, :W][0] / H
    ground = 1 / (0.4 + 0.6 * v)
    rest = np.zeros((H, W, 2), np.float32)
    pan, truck = seen(turned(1, 0.03)), seen(move=(0.03, 0, 0), depth=ground)
    for flow in (rest, pan, truck):
        assert evidence(flow) == 0
        assert evidence(with_object(flow, (0, 6))) > 0.8


def test_parallax_is_no_object() -> None:
    v, u = np.mgrid[:H, :W]
    near = np.minimum(2.0 / (0.5 + v / H), 1.2 + 1.5 * np.abs(u / W - 0.4))
    near[60:140, 90:150] = 1.1
    near[100:180, 220:300] = 1.0
    assert evidence(seen(move=(0.05, 0, 0), depth=near)) < 0.2


def test_samples_sit_on_texture_and_are_free_of_the_size() -> None:
    image = np.full((H, W, 3), 128, np.uint8)
    image[:, 100:104] = 250
    samples = sample_flow(np.zeros((H, W, 2), np.float32), SURE, image)
    assert len(samples.flow) == 40 * (H // 8)
    strong = samples.weight > 0.5
    assert np.all(np.abs(samples.at[strong][:, 0] + 0.5 - 102 / W) < 8 / W)
    assert samples.weight[~strong].max() < 0.05


def test_sparse_flow_gives_its_known_points() -> None:
    flow = np.full((H, W, 2), np.nan, np.float32)
    sure = np.zeros((H, W), np.float32)
    flow[::20, ::20], sure[::20, ::20] = (3, 1), 1
    samples: FlowSamples = sample_flow(flow, sure, IMAGE)
    assert len(samples.flow) == 9 * 16
    assert np.allclose(samples.flow, np.array([3, 1]) / W)
    none = sample_flow(np.full((H, W, 2), np.nan, np.float32), 0 * sure, IMAGE)
    assert len(none.flow) == 0
