"""Why there is no reconstruction, and what a partial one leaves out, in the user's words."""

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
"""In the median keyframe: two images then share the 15 matches that a pair needs."""
STILL = 0.01
"""Of the longer side: less median motion between keyframes is called standing still."""
FLAT = 12.0
"""Standard deviation of the gray values below which a picture holds next to nothing."""
WHOLE = 10
"""A model of so many views stands by itself, however many keyframes it leaves out."""


def why_no_motion(keyframes: Keyframes) -> str:
    """Return why the camera cannot have moved, seen without features; empty if it may have."""
    count = len(keyframes.index)
    if count < MIN_VIEWS:
        return (
            f"no parallax: only {count} keyframe{'s' if count > 1 else ''}, at least {MIN_VIEWS} "
            "are needed: the picture hardly moves or is too short; move the camera sideways"
        )
    share = static_share(keyframes.images, keyframes.shot)
    if share > STATIC_SHARE:
        return (
            f"no parallax: the camera stands still ({100 * share:.0f} % of the picture's texture "
            "stays in place); reconstruction needs a camera that moves sideways"
        )
    return ""


def why_nothing_to_map(keyframes: Keyframes, features: list[Features]) -> str:
    """Return why matching need not begin; empty if it should."""
    found = float(np.median([len(f) for f in features]))
    if found < MIN_FEATURES:
        contrast = float(np.median([image.std() for image in keyframes.images]))
        why = "too little texture" if contrast < FLAT else "too much blur or too little texture"
        return (
            f"{why}: {found:.0f} features in the median keyframe "
            f"({keyframes.images.shape[2]}x{keyframes.images.shape[1]}), at least {MIN_FEATURES} "
            "are needed: film sharper, with more light or at a larger size"
        )
    return ""


def why_no_model(
    keyframes: Keyframes,
    features: list[Features],
    pairs: list[Pair],
    evidence: ParallaxEvidence,
    views: int,
) -> str:
    """Return why a largest model of `views` is no reconstruction, with figures; empty if it is."""
    if reason := why_nothing_to_map(keyframes, features):
        return reason
    count = len(keyframes.index)
    side = max(keyframes.images.shape[1:3])
    joined = _largest_group(count, pairs)
    if joined < max(MIN_VIEWS, count / 4):
        return (
            f"too little overlap: at most {joined} of {count} keyframes show the same place "
            f"({len(pairs)} pairs match): film slower, or give more frames (sample.fps)"
        )
    if evidence.no_parallax:
        how = (
            f"the camera stands still (the picture moves {evidence.moved_px:.1f} px)"
            if evidence.moved_px < STILL * side
            else f"the camera only turns or zooms ({evidence.moved_px:.0f} px of motion, of which "
            f"all but {evidence.residual_px:.1f} px is a turn or zoom)"
        )
        return f"no parallax: {how}; reconstruction needs a camera that moves sideways"
    if views < MIN_VIEWS or (views < WHOLE and views < count / 2):
        return (
            f"too little overlap: only {views} of {count} keyframes could be posed together "
            f"({joined} are joined by matches): film slower, or give more frames (sample.fps)"
        )
    return ""


def left_out(keyframes: Keyframes, views: Views) -> str:
    """Say which keyframes a model lacks, as shots and times; empty if it has all."""
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
    """Return the size of the largest set of keyframes that matches join."""
    group: Array = np.arange(count)
    for pair in pairs:
        a, b = group[pair.i], group[pair.j]
        group[group == b] = a
    return int(np.bincount(group).max())
