"""User-facing reasons why reconstruction failed, and what a partial one leaves out."""

from __future__ import annotations

import numpy as np

from pipeline.contract import Array, Keyframes, Views
from stages.pose._features import Features
from stages.pose._matching import Pair
from stages.pose._parallax import ParallaxEvidence
from stages.pose._static_camera import STATIC_SHARE, static_share

__all__ = ["left_out", "why_no_model", "why_no_motion", "why_nothing_to_map"]

MIN_VIEWS = 3
MIN_FEATURES = 60
"""Required features in the median keyframe: two images then share the 15 matches of a pair."""
STILL = 0.01
"""Median motion between keyframes, as a share of the longer side, below which it is static."""
FLAT = 12.0
"""Standard deviation of the gray values below which an image has almost no content."""
WHOLE = 10
"""A model of this many views is accepted, however many keyframes it leaves out."""


def why_no_motion(keyframes: Keyframes) -> str:
    """Return why the camera cannot have moved, judged without features; empty if it may have."""
    count = len(keyframes.index)
    if count < MIN_VIEWS:
        return (
            f"no parallax: only {count} keyframe{'s' if count > 1 else ''}, at least {MIN_VIEWS} "
            "are needed: the video hardly moves or is too short; move the camera sideways"
        )
    share = static_share(keyframes.images, keyframes.shot)
    if share > STATIC_SHARE:
        return (
            f"no parallax: the camera stands still ({100 * share:.0f} % of the image texture "
            "stays in place); reconstruction needs a camera that moves sideways"
        )
    return ""


def why_nothing_to_map(keyframes: Keyframes, features: list[Features]) -> str:
    """Return why matching would be futile; empty if it should run."""
    found = float(np.median([len(f) for f in features]))
    if found < MIN_FEATURES:
        contrast = float(np.median([image.std() for image in keyframes.images]))
        why = "too little texture" if contrast < FLAT else "too much blur or too little texture"
        return (
            f"{why}: {found:.0f} features in the median keyframe "
            f"({keyframes.images.shape[2]}x{keyframes.images.shape[1]}), at least {MIN_FEATURES} "
            "are needed: record sharper video, with more light or at a larger size"
        )
    return ""


def why_no_model(
    keyframes: Keyframes,
    features: list[Features],
    pairs: list[Pair],
    evidence: ParallaxEvidence,
    views: int,
) -> str:
    """Return why a largest model of `views` is insufficient, with figures; empty if it is not."""
    if reason := why_nothing_to_map(keyframes, features):
        return reason
    count = len(keyframes.index)
    side = max(keyframes.images.shape[1:3])
    joined = _largest_group(count, pairs)
    if joined < max(MIN_VIEWS, count / 4):
        return (
            f"too little overlap: at most {joined} of {count} keyframes show the same place "
            f"({len(pairs)} pairs match): move the camera slower, or give more frames (sample.fps)"
        )
    if evidence.no_parallax:
        how = (
            f"the camera stands still (the image moves {evidence.moved_px:.1f} px)"
            if evidence.moved_px < STILL * side
            else f"the camera only turns or zooms ({evidence.moved_px:.0f} px of motion, all but "
            f"{evidence.residual_px:.1f} px of it rotation or zoom)"
        )
        return f"no parallax: {how}; reconstruction needs a camera that moves sideways"
    if views < MIN_VIEWS or (views < WHOLE and views < count / 2):
        return (
            f"too little overlap: only {views} of {count} keyframes could be posed together "
            f"({joined} are connected by matches): move the camera slower, or give more frames "
            "(sample.fps)"
        )
    return ""


def left_out(keyframes: Keyframes, views: Views) -> str:
    """Describe the keyframes that a model lacks, as shots and times; empty if it has all."""
    missing = ~np.isin(keyframes.index, views.index)
    if not missing.any():
        return ""
    ranges: list[str] = []
    starts = np.flatnonzero(missing & ~np.concatenate([[False], missing[:-1]]))
    ends = np.flatnonzero(missing & ~np.concatenate([missing[1:], [False]]))
    for a, b in zip(starts, ends, strict=True):
        begin, end = keyframes.pts_ns[a] / 1e9, keyframes.pts_ns[b] / 1e9
        ranges.append(f"{begin:.1f} s" if a == b else f"{begin:.1f}-{end:.1f} s")
    if len(ranges) > 6:
        ranges = [*ranges[:5], f"{len(ranges) - 5} more"]
    shots = np.unique(keyframes.shot)
    absent = [str(s) for s in shots if missing[keyframes.shot == s].all()]
    text = (
        f"{len(views.index)} of {views.candidates} keyframes posed; left out: {', '.join(ranges)}"
    )
    if absent and len(shots) > 1:
        text += f" (shot{'s' if len(absent) > 1 else ''} {', '.join(absent[:8])})"
    return text


def _largest_group(count: int, pairs: list[Pair]) -> int:
    """Return the size of the largest set of keyframes connected by matches."""
    group: Array = np.arange(count)
    for pair in pairs:
        a, b = group[pair.i], group[pair.j]
        group[group == b] = a
    return int(np.bincount(group).max())
