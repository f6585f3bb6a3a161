"""Ready-made films: a tour of a room, one motion alone, and the awkward ones.

The camera's start is drawn until the whole path keeps clear of everything and looks across the
room; the ball's way is drawn until it stays in view, small, and touches nothing.
"""

from collections.abc import Sequence

import numpy as np

from tests.scenes.furniture import BALL_RADIUS_M, ROOM_M, furnish, solids_of
from tests.scenes.geometry import Solids, rigid
from tests.scenes.paths import Path, Segment, compose, eased, join
from tests.scenes.raycast import Camera, trace
from tests.scenes.truth import Effects, Truth

CLEAR_M = 0.5
LOOK_M = (2.2, 4.2)
SOLIDS_IN_VIEW = 7
BALL_SHARE = (0.006, 0.06)
BALL_M_S = 0.75


def film(
    segments: Sequence[Segment],
    seed: int = 0,
    *,
    width: int = 640,
    height: int = 360,
    fps: float = 30.0,
    jitter: float = 1.0,
    moving_s: tuple[float, float] | None = None,
    plain: bool = False,
    effects: tuple[Effects, ...] = (),
    field_of_view: float = 1.18,
) -> Truth:
    """Film the segments somewhere in the room of a seed.

    Args:
        segments: What the camera does, one after the other.
        seed: Of the room, the start and the tremor.
        width: Columns.
        height: Rows.
        fps: Frames per second.
        jitter: Factor on the tremor of the hand; 0 is a tripod.
        moving_s: When the ball rolls, (start, end) in seconds.
        plain: Surfaces of one colour each.
        effects: What spoils the pictures.
        field_of_view: Of the width at the start, in radians.

    Raises:
        RuntimeError: No start was found from which these segments stay clear of everything.
    """
    focal_px = 0.5 * width / np.tan(0.5 * field_of_view)
    solids = solids_of(furnish(seed))
    rng = np.random.default_rng([seed, 6])
    for _ in range(3000):
        x, z = rng.uniform(-0.5, 0.5, 2) * (ROOM_M[[0, 2]] - 2 * CLEAR_M)
        path = compose(
            segments, start_m=(x, rng.uniform(-1.55, -1.3), z),
            yaw_rad=rng.uniform(-np.pi, np.pi), pitch_rad=rng.uniform(-0.2, -0.08),
            focal_px=focal_px, fps=fps, jitter=jitter, seed=seed,
        )
        if not _roomy(solids, path, width, height):
            continue
        ball = _rolled(rng, solids, path, width, height, moving_s)
        if ball is not None:
            return Truth(seed=seed, path=path, width=width, height=height, T_world_ball=ball,
                         moving_s=moving_s, plain=plain, effects=effects)
    raise RuntimeError(f"room {seed} has no place for {[s.label for s in segments]}: "
                       "shorten or slow the segments, or take another seed")


def tour(seed: int = 0, *, width: int = 640, height: int = 360, fps: float = 30.0) -> Truth:
    """Film the demo: 10 s by hand, still at first, then moving through parallax all the time."""
    side, back = (("right", "left"), ("left", "right"))[seed % 2]
    segments = [
        Segment("static", 1.0),
        Segment(f"truck-{side}", 2.2),
        Segment(f"pan-{back}", 1.2),
        Segment("dolly-in", 1.8),
        Segment(f"truck-{back}", 2.2),
        Segment("dolly-out", 1.6),
    ]
    return film(segments, seed, width=width, height=height, fps=fps, moving_s=(4.6, 6.8))


def alone(label: str, seed: int = 0, *, seconds: float = 2.0, width: int = 320,
          height: int = 180, fps: float = 30.0, jitter: float = 0.5) -> Truth:
    """Film one label by itself; "object-moving" rolls the ball before a camera at rest."""
    moving_s = (0.0, seconds) if label == "object-moving" else None
    start = 0.75 if label == "zoom-out" else 1.18
    return film([Segment(label, seconds)], seed, width=width, height=height, fps=fps,
                jitter=jitter, moving_s=moving_s, field_of_view=start)


def tripod(seed: int = 0, *, seconds: float = 2.0, width: int = 320, height: int = 180) -> Truth:
    """Film nothing at all: no motion of camera or object, no parallax."""
    return alone("static", seed, seconds=seconds, width=width, height=height, jitter=0.0)


def two_shots(seed: int = 0, *, seconds: float = 2.0, width: int = 320,
              height: int = 180) -> Truth:
    """Film two places of one room with a hard cut between them; `Path.cuts` names the frame."""
    first = film([Segment("truck-right", seconds)], seed, width=width, height=height)
    solids = solids_of(furnish(seed))
    rng = np.random.default_rng([seed, 7])
    ahead = first.T_world_camera[-1, :3, 2]
    while True:
        x, z = rng.uniform(-0.5, 0.5, 2) * (ROOM_M[[0, 2]] - 2 * CLEAR_M)
        second = compose([Segment("dolly-in", seconds)], start_m=(x, -1.4, z), seed=seed + 1,
                         yaw_rad=rng.uniform(-np.pi, np.pi), focal_px=first.path.focal_px[0])
        away = second.T_world_camera[0, :3, 2] @ ahead < -0.3
        if away and _roomy(solids, second, width, height):
            break
    path = join(first.path, second)
    resting = np.repeat(first.T_world_ball[:1], len(path.pts_ns), axis=0)
    return Truth(seed=seed, path=path, width=width, height=height, T_world_ball=resting)


def _roomy(solids: Solids, path: Path, width: int, height: int) -> bool:
    """Tell whether a path keeps clear of everything and looks across the room."""
    if solids.clearance_m(path.T_world_camera[:, :3, 3], skip=len(solids.kind) - 1).min() < CLEAR_M:
        return False
    away = solids.moved(-1, rigid(np.eye(3), np.array([0.0, 100.0, 0.0])))
    for i in np.linspace(0, len(path.pts_ns) - 1, 5).astype(int):
        seen, depth = trace(away, _thumbnail(path, i, width, height))
        deep = LOOK_M[0] < np.median(depth) < LOOK_M[1] and depth.min() > 0.8
        if not deep or len(np.unique(seen)) < SOLIDS_IN_VIEW:
            return False
    return True


def _thumbnail(path: Path, i: int, width: int, height: int) -> Camera:
    return Camera(T_world_camera=path.T_world_camera[i], width=64, height=64 * height // width,
                  focal_px=path.focal_px[i] * 64 / width)


def _rolled(rng, solids, path, width, height, moving_s) -> np.ndarray | None:
    """Return poses ``[T, 4, 4]`` of a ball that rolls over the floor in view, or None."""
    t = path.pts_ns / 1e9
    if moving_s is None:
        start_s, end_s, speed = 0.0, 1.0, 0.0
    else:
        (start_s, end_s), speed = moving_s, BALL_M_S
    rates = speed * eased(t, start_s, end_s)
    way = np.concatenate([[0.0], np.cumsum(0.5 * (rates[1:] + rates[:-1]) * np.diff(t))])
    watched = np.flatnonzero((t >= start_s) & (t <= end_s)) if moving_s else np.array([0])
    for _ in range(400):
        x, z = rng.uniform(-0.5, 0.5, 2) * (ROOM_M[[0, 2]] - 2 * BALL_RADIUS_M)
        heading = rng.uniform(-np.pi, np.pi)
        forward = np.array([np.sin(heading), 0.0, np.cos(heading)])
        centres = np.array([x, -BALL_RADIUS_M, z]) + way[:, None] * forward
        free = solids.clearance_m(centres, skip=len(solids.kind) - 1) >= BALL_RADIUS_M - 1e-9
        apart = np.linalg.norm(path.T_world_camera[:, :3, 3] - centres, axis=1)
        if not free.all() or apart.min() < CLEAR_M + BALL_RADIUS_M:
            continue
        poses = np.stack([_turned(forward, s, c) for s, c in zip(way, centres, strict=True)])
        if moving_s is None or _in_view(solids, path, poses, watched, width, height):
            return poses
    return None


def _turned(forward: np.ndarray, way_m: float, centre: np.ndarray) -> np.ndarray:
    """Return the pose of a ball that has rolled so far along ``forward`` without slipping."""
    axis = np.cross(forward, [0.0, -1.0, 0.0])
    angle = -way_m / BALL_RADIUS_M
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
    return rigid(rotation, centre)


def _in_view(solids, path, poses, watched, width, height) -> bool:
    """Tell whether the ball lies wholly inside the picture, in front of things, and small."""
    samples = np.linspace(watched[0], watched[-1], 7).astype(int)
    cameras = [_thumbnail(path, i, width, height) for i in samples]
    for i, camera in zip(samples, cameras, strict=True):
        pose = camera.T_world_camera
        x, y, z = pose[:3, :3].T @ (poses[i, :3, 3] - pose[:3, 3])
        around = BALL_RADIUS_M * camera.focal_px
        if z < 0.5 or max(abs(x) * camera.focal_px + around - 0.5 * camera.width * z,
                          abs(y) * camera.focal_px + around - 0.5 * camera.height * z) > 0:
            return False
    for i, camera in zip(samples, cameras, strict=True):
        seen, _ = trace(solids.moved(-1, poses[i]), camera)
        if not BALL_SHARE[0] < np.mean(seen == len(solids.kind) - 1) < BALL_SHARE[1]:
            return False
    return True
