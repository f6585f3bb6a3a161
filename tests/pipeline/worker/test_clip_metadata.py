"""A clip without its pixels goes through JSON and comes back whole."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np

from pipeline.contract import Frames
from pipeline.worker.clip_metadata import PIXELS, ClipMetadata

T, H, W = 3, 4, 6


def clip() -> Frames:
    rng = np.random.default_rng(0)
    return Frames(
        clip="film/3-9",
        images=rng.integers(0, 255, (T, H, W, 3), dtype=np.uint8),
        pts_ns=np.array([100, 200, 350_000_000_001]),
        index=np.array([3, 6, 9]),
        sharpness=np.array([0.1, 2.5, 1e-7], np.float32),
        shot=2,
        overlap=1,
        intrinsics=np.tile(np.eye(3) * 7.1, (T, 1, 1)),
        T_world_camera=np.tile(np.eye(4) / 3, (T, 1, 1)),
        metric=True,
        depth=rng.random((T, H, W)).astype(np.float32),
        right=rng.integers(0, 255, (T, H, W, 3), dtype=np.uint8),
        baseline_m=0.12,
    )


def test_every_field_survives() -> None:
    """A field that is added to `Frames` is covered without a change here."""
    made = clip()
    metadata = ClipMetadata(json.loads(json.dumps(ClipMetadata.of(made).values)))
    assert made.depth is not None
    assert made.right is not None
    again = metadata.with_pixels(list(made.images), list(made.depth), list(made.right))
    for part in fields(Frames):
        before, after = getattr(made, part.name), getattr(again, part.name)
        np.testing.assert_array_equal(before, after, err_msg=part.name)
        assert getattr(before, "dtype", None) == getattr(after, "dtype", None), part.name


def test_pixels_are_the_only_fields_left_out() -> None:
    values = ClipMetadata.of(clip()).values
    assert set(values) | set(PIXELS) == {part.name for part in fields(Frames)}
    assert not set(values) & set(PIXELS)


def test_what_one_frame_lacks_the_clip_lacks() -> None:
    made = clip()
    metadata = ClipMetadata.of(made)
    again = metadata.with_pixels(list(made.images), [None] * T, [None, None, made.images[0]])
    assert again.depth is None
    assert again.right is None


def test_what_the_scheduler_asks() -> None:
    metadata = ClipMetadata.of(clip())
    assert metadata.name == "film/3-9"
    assert metadata.index == [3, 6, 9]
    assert metadata.frame_count == T
    assert metadata.end_s == 350.000000001
