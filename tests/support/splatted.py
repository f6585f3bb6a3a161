"""Splats with exact truth, for the tests of what draws them: a rendered room as soft dots.

Every second pixel of some frames becomes a round Gaussian at its true place, as wide as the gap to
its neighbors. No training is involved, so that a render at a true pose must resemble the picture:
wrong axes, poses or intrinsics cannot.
"""

from functools import cache

import numpy as np

from pipeline.contract import Splats, Views
from tests.support.posed import posed_views
from tests.support.scenes import Truth, alone

EVERY = 2
SH_0 = 0.5 / np.sqrt(np.pi)
"""The constant harmonic."""


@cache
def room() -> tuple[Truth, Views, Splats]:
    """A sideways move of 2 s, 320x180: every 6th frame a view, every second view held out."""
    truth = alone("truck-right", seed=1)
    frames = range(0, len(truth), 6)
    views = posed_views(truth, frames, points=False)
    held_out = np.arange(1, len(frames), 2)
    return truth, views, splats_of(truth, views, held_out)


def splats_of(truth: Truth, views: Views, held_out: np.ndarray) -> Splats:
    """Return the splats of what the views show that are not held out."""
    means, rgb, width = [], [], []
    for k, frame in enumerate(views.index):
        if k in held_out:
            continue
        xyz, colors = truth.points(int(frame), EVERY)
        away = (xyz - views.T_world_camera[k][:3, 3]) @ views.T_world_camera[k][:3, 2]
        means.append(xyz)
        rgb.append(colors)
        width.append(0.55 * EVERY * away / views.intrinsics[k][0, 0])
    xyz = np.concatenate(means).astype(np.float32)
    height, columns = views.images.shape[1:3]
    sh = (np.concatenate(rgb)[:, None] / 255 - 0.5) / SH_0
    return Splats(
        means=xyz,
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (len(xyz), 1)),
        log_scales=np.repeat(np.log(np.concatenate(width))[:, None], 3, 1).astype(np.float32),
        opacity_logits=np.full(len(xyz), 3.0, np.float32),
        sh=sh.astype(np.float32),
        intrinsics=views.intrinsics,
        T_world_camera=views.T_world_camera,
        held_out=held_out.astype(np.int32),
        size=(columns, height),
    )


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures, uint8; at most 100."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / max(error, 255**2 * 1e-10)))
