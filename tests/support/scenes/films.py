"""Ready-made films: a tour of a room, one motion alone, and the awkward ones.

The camera's start is drawn until the whole path keeps clear of everything and looks across the
room; the ball's way is drawn until it stays in view, small, and touches nothing.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tests.support.scenes.ball import CLEAR_M, rolled, thumbnail
from tests.support.scenes.furniture import ROOM_M, furnish, solids_of
from tests.support.scenes.geometry import Solids, rigid
from tests.support.scenes.paths import Path, Segment, compose, join
from tests.support.scenes.raycast import trace
from tests.support.scenes.truth import Effects, Truth

LOOK_M = (2.2, 4.2)
"""Least and greatest median depth of the view."""
SOLIDS_IN_VIEW = 7
STARTS = 3000


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
        plain: Surfaces of one color each.
        effects: What spoils the pictures.
        field_of_view: Of the width at the start, in radians.

    Raises:
        RuntimeError: No start was found from which these segments stay clear of everything.
    """
    focal_px = 0.5 * width / np.tan(0.5 * field_of_view)
    solids = solids_of(furnish(seed))
    rng = np.random.default_rng([seed, 6])
    for path in _paths(
        rng, solids, segments, width, height, focal_px=focal_px, fps=fps, jitter=jitter, seed=seed
    ):
        ball = rolled(rng, solids, path, width, height, moving_s)
        if ball is not None:
            return Truth(
                seed=seed,
                path=path,
                width=width,
                height=height,
                T_world_ball=ball,
                moving_s=moving_s,
                plain=plain,
                effects=effects,
            )
    raise RuntimeError(
        f"room {seed} has no place for {[s.label for s in segments]}: "
        "shorten or slow the segments, or take another seed"
    )


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


def alone(
    label: str,
    seed: int = 0,
    *,
    seconds: float = 2.0,
    width: int = 320,
    height: int = 180,
    fps: float = 30.0,
    jitter: float = 0.5,
) -> Truth:
    """Film one label by itself; "object-moving" rolls the ball before a camera at rest."""
    moving_s = None
    if label == "object-moving":
        label, moving_s = "static", (0.0, seconds)
    start = 0.75 if label == "zoom-out" else 1.18
    return film(
        [Segment(label, seconds)],
        seed,
        width=width,
        height=height,
        fps=fps,
        jitter=jitter,
        moving_s=moving_s,
        field_of_view=start,
    )


def tripod(seed: int = 0, *, seconds: float = 2.0, width: int = 320, height: int = 180) -> Truth:
    """Film nothing at all: no motion of camera or object, no parallax."""
    return alone("static", seed, seconds=seconds, width=width, height=height, jitter=0.0)


def two_shots(seed: int = 0, *, seconds: float = 2.0, width: int = 320, height: int = 180) -> Truth:
    """Film two places of one room with a hard cut between them; `Path.cuts` names the frame."""
    first = film([Segment("truck-right", seconds)], seed, width=width, height=height)
    solids = solids_of(furnish(seed))
    ahead = first.T_world_camera[-1, :3, 2]
    others = _paths(
        np.random.default_rng([seed, 7]),
        solids,
        [Segment("dolly-in", seconds)],
        width,
        height,
        focal_px=float(first.path.focal_px[0]),
        seed=seed + 1,
    )
    second = next(path for path in others if path.T_world_camera[0, :3, 2] @ ahead < -0.3)
    path = join(first.path, second)
    resting = np.repeat(first.T_world_ball[:1], len(path.pts_ns), axis=0)
    return Truth(seed=seed, path=path, width=width, height=height, T_world_ball=resting)


def _paths(
    rng: np.random.Generator,
    solids: Solids,
    segments: Sequence[Segment],
    width: int,
    height: int,
    **how: float,
) -> Iterator[Path]:
    """Draw starts of the segments and yield the paths that have room."""
    for _ in range(STARTS):
        x, z = rng.uniform(-0.5, 0.5, 2) * (ROOM_M[[0, 2]] - 2 * CLEAR_M)
        path = compose(
            segments,
            start_m=(x, rng.uniform(-1.55, -1.3), z),
            yaw_rad=rng.uniform(-np.pi, np.pi),
            pitch_rad=rng.uniform(-0.2, -0.08),
            **how,
        )
        if _roomy(solids, path, width, height):
            yield path


def _roomy(solids: Solids, path: Path, width: int, height: int) -> bool:
    """Tell whether a path keeps clear of everything and looks across the room."""
    if solids.clearance_m(path.T_world_camera[:, :3, 3], skip=len(solids.kind) - 1).min() < CLEAR_M:
        return False
    away = solids.moved(-1, rigid(np.eye(3), np.array([0.0, 100.0, 0.0])))
    for i in np.linspace(0, len(path.pts_ns) - 1, 5).astype(int):
        seen, depth = trace(away, thumbnail(path, i, width, height))
        deep = LOOK_M[0] < np.median(depth) < LOOK_M[1] and depth.min() > 0.8
        if not deep or len(np.unique(seen)) < SOLIDS_IN_VIEW:
            return False
    return True
