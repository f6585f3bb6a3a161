"""Splats made by hand for the tests of their files, and the pictures they give."""

from dataclasses import replace

import numpy as np

from pipeline.contract import Splats
from stages._gaussians.draw import draw

SIZE = (120, 90)
K = np.array([[100.0, 0, 61.5], [0, 98.0, 44.0], [0, 0, 1]])
PARTS = ("means", "quats", "log_scales", "opacity_logits", "sh")
SIGNALING = np.array([0x7FA00000], np.uint32).view(np.float32)
"""A NaN that raises the processor's flag wherever it is used; files can hold it."""


def splats(means, quats, log_scales, opacity_logits, sh, antialiased=False):
    arrays = [np.array(a, np.float32) for a in (means, quats, log_scales, opacity_logits, sh)]
    return Splats(
        **dict(zip(PARTS, arrays, strict=True)),
        intrinsics=np.empty((0, 3, 3)),
        T_world_camera=np.empty((0, 4, 4)),
        held_out=np.empty(0, np.int32),
        size=(0, 0),
        antialiased=antialiased,
    )


def scene(count=300, degree=3, seed=0, **changes):
    """Long ellipsoids of every direction, whose color turns with the direction of view."""
    rng = np.random.default_rng(seed)
    means = rng.normal((0.3, -0.2, 0.4), (1.2, 0.9, 0.8), (count, 3))
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    log_scales = np.log([0.3, 0.08, 0.04]) + rng.normal(0, 0.2, (count, 3))
    sh0 = rng.normal(0, 0.7, (count, 1, 3))
    rest = rng.normal(0, 0.18, (count, (degree + 1) ** 2 - 1, 3)).clip(-0.9, 0.9)
    logits = rng.normal(1, 1.5, count)
    made = splats(means, quats, log_scales, logits, np.concatenate([sh0, rest], axis=1))
    return replace(made, **changes)


def cameras():
    """Four cameras around the scene, none upright."""
    for turn, tilt in ((0.2, 0.3), (1.8, -0.4), (3.3, 0.6), (4.9, -0.2)):
        c, s = np.cos(turn), np.sin(turn)
        yaw = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        c, s = np.cos(tilt), np.sin(tilt)
        R = yaw @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ [[c, -s, 0], [s, c, 0], [0, 0, 1]]
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, -4.5 * R[:, 2]
        yield T


def pictures(scene, world=None):
    """What the cameras see, where `world` [4, 4] took the scene, and the cameras with it."""
    world = np.eye(4) if world is None else world
    return np.stack([draw(scene, K, world @ T, SIZE).rgb for T in cameras()])


def psnr(a, b):
    return -10 * np.log10(np.square(a.astype(float) - b).mean())


def same(a, b):
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in PARTS)


def header_names(path):
    head = path.read_bytes().split(b"end_header")[0].decode()
    return [line.split()[-1] for line in head.splitlines() if line.startswith("property")]
