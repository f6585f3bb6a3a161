"""The one object that moves: a ball that rolls over the floor, in view, touching nothing."""

import numpy as np

from tests.support.scenes.furniture import BALL_RADIUS_M, ROOM_M
from tests.support.scenes.geometry import Solids, rigid
from tests.support.scenes.paths import Path, eased
from tests.support.scenes.raycast import Camera, trace

SHARE = (0.006, 0.06)
"""Least and greatest share of the picture that the ball covers while it rolls."""
SPEED_M_S = 0.75
CLEAR_M = 0.5
TRIES = 400


def rolled(
    rng: np.random.Generator,
    solids: Solids,
    path: Path,
    width: int,
    height: int,
    moving_s: tuple[float, float] | None,
) -> np.ndarray | None:
    """Return poses ``float64 [T, 4, 4]`` of the ball (the last solid), or None: no way was found.

    While it moves it lies wholly inside the picture; where ``moving_s`` is None it rests, in view
    or not.
    """
    t = path.pts_ns / 1e9
    start_s, end_s = moving_s or (0.0, 0.0)
    rates = SPEED_M_S * eased(t, start_s, end_s) if moving_s else np.zeros_like(t)
    way = np.concatenate([[0.0], np.cumsum(0.5 * (rates[1:] + rates[:-1]) * np.diff(t))])
    inside = np.flatnonzero((t >= start_s) & (t <= end_s))
    watched = np.linspace(inside[0], inside[-1], 7 if moving_s else 1).astype(int)
    floor = rng.uniform(-0.5, 0.5, (TRIES, 2)) * (ROOM_M[[0, 2]] - 2 * BALL_RADIUS_M)
    starts = np.stack([floor[:, 0], np.full(TRIES, -BALL_RADIUS_M), floor[:, 1]], -1)
    headings = rng.uniform(-np.pi, np.pi, TRIES)
    forwards = np.stack([np.sin(headings), np.zeros(TRIES), np.cos(headings)], -1)
    seen = np.ones(TRIES, np.bool_)
    if moving_s:
        seen = _inside(starts, forwards, way, path, watched, width, height)
    stops = np.linspace(0.0, way[-1], 25)[:, None]
    for start, forward in zip(starts[seen], forwards[seen], strict=True):
        gap = solids.clearance_m(start + stops * forward, skip=len(solids.kind) - 1)
        centers = start + way[:, None] * forward
        apart = np.linalg.norm(path.T_world_camera[:, :3, 3] - centers, axis=1)
        if gap.min() < BALL_RADIUS_M - 1e-9 or apart.min() < CLEAR_M + BALL_RADIUS_M:
            continue
        poses = np.stack([_turned(forward, s, c) for s, c in zip(way, centers, strict=True)])
        if not moving_s or _uncovered(solids, poses, path, watched, width, height):
            return poses
    return None


def thumbnail(path: Path, i: int, width: int, height: int) -> Camera:
    """Return the camera of frame i with 64 columns."""
    return Camera(
        T_world_camera=path.T_world_camera[i],
        width=64,
        height=64 * height // width,
        focal_px=path.focal_px[i] * 64 / width,
    )


def _inside(starts, forwards, way, path, watched, width, height) -> np.ndarray:
    """Return ``bool [TRIES]``: the whole ball is within the picture in all watched frames."""
    inside = np.ones(len(starts), np.bool_)
    for i in watched:
        pose, f = path.T_world_camera[i], path.focal_px[i]
        x, y, z = ((starts + way[i] * forwards - pose[:3, 3]) @ pose[:3, :3]).T
        around = BALL_RADIUS_M * f
        inside &= (z > 0.5) & (np.abs(x) * f + around < 0.5 * width * z)
        inside &= np.abs(y) * f + around < 0.5 * height * z
    return inside


def _uncovered(solids, poses, path, watched, width, height) -> bool:
    """Tell whether the ball covers a share of the picture within `SHARE` in watched frames."""
    for i in watched:
        seen, _ = trace(solids.moved(-1, poses[i]), thumbnail(path, i, width, height))
        if not SHARE[0] < np.mean(seen == len(solids.kind) - 1) < SHARE[1]:
            return False
    return True


def _turned(forward: np.ndarray, way_m: float, center: np.ndarray) -> np.ndarray:
    """Return the pose of a ball that has rolled so far along ``forward`` without slipping."""
    axis = np.cross([0.0, -1.0, 0.0], forward)
    angle = way_m / BALL_RADIUS_M
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
    return rigid(rotation, center)
