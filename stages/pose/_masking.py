"""Features of what moves by itself tell nothing of the camera: they are dropped before matching."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from pipeline.messages import Array
from stages.pose._features import Features

__all__ = ["at_rest"]


def at_rest(features: Features, masks: Array | None, row: int) -> Features:
    """Return the features that stand outside the mask of their keyframe.

    Args:
        features: Of one keyframe.
        masks: bool [K, H, W], True where something moves, or None: all rests.
        row: Of the keyframe.
    """
    if masks is None:
        return features
    height, width = masks.shape[1:]
    column = np.clip(features.xy[:, 0].astype(np.int64), 0, width - 1)
    line = np.clip(features.xy[:, 1].astype(np.int64), 0, height - 1)
    rests = ~masks[row, line, column]
    return replace(features, **{f.name: getattr(features, f.name)[rests] for f in fields(features)})
