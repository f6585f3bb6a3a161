"""How good flow, depth, clouds and timed labels are, against exact truth.

What cannot be compared (no estimate, no truth) never counts as good: completeness and shares are
of all that could have been estimated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from tests.support.scenes.truth import Truth

Span = tuple[str, float, float]
"""(label, start_s, end_s)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowError:
    """End-point error in pixels over valid pixels: mean, median, and share above 1 px."""

    epe_px: float
    median_px: float
    above_1px: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthError:
    """Error of a depth map.

    Attributes:
        abs_rel: Mean of |estimate - truth| / truth where there is an estimate.
        complete: Share of the valid pixels that have an estimate.
        good: Share of the valid pixels with an estimate within 3 % of the truth.
        scale: Factor applied to the estimate first (1 unless aligned).
    """

    abs_rel: float
    complete: float
    good: float
    scale: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CloudScore:
    """Shares within a threshold: of estimated points near a true one, and the other way round."""

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanScore:
    """How well timed labels were found.

    Attributes:
        found: Share of the true spans whose best overlap within its family is at least a half.
        right: Share of the true spans found by a span with the very same label.
        mean_iou: Mean of the best overlaps.
        best: (true span, best predicted span or None, IoU), in the order of the truth.
    """

    found: float
    right: float
    mean_iou: float
    best: tuple[tuple[Span, Span | None, float], ...]


def flow_error(
    estimated: np.ndarray, true: np.ndarray, valid: np.ndarray | None = None
) -> FlowError:
    """Compare flows ``[..., 2]`` px where ``valid [...]``; a NaN estimate there raises."""
    distance = np.linalg.norm(estimated.astype(np.float64) - true, axis=-1)
    distance = distance[valid if valid is not None else np.isfinite(true).all(-1)]
    if not distance.size or not np.isfinite(distance).all():
        raise ValueError(
            f"{distance.size} valid pixels, {np.isnan(distance).sum()} of them NaN: "
            "flow must be finite on every valid pixel"
        )
    return FlowError(
        epe_px=float(distance.mean()),
        median_px=float(np.median(distance)),
        above_1px=float((distance > 1).mean()),
    )


def depth_error(
    estimated: np.ndarray,
    true: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    align: bool = False,
    within: float = 0.03,
) -> DepthError:
    """Compare depths ``[...]`` (NaN or <= 0: none) where ``valid``.

    ``align`` first scales the estimate, as one, by the median of truth / estimate.
    """
    asked = np.isfinite(true) if valid is None else valid & np.isfinite(true)
    known = asked & np.isfinite(estimated) & (np.nan_to_num(estimated) > 0)
    if not known.any():
        return DepthError(abs_rel=float("nan"), complete=0.0, good=0.0, scale=1.0)
    guess, answer = estimated[known].astype(np.float64), true[known].astype(np.float64)
    scale = float(np.median(answer / guess)) if align else 1.0
    relative = np.abs(scale * guess - answer) / answer
    total = float(asked.sum())
    return DepthError(
        abs_rel=float(relative.mean()),
        complete=float(known.sum()) / total,
        good=float((relative <= within).sum()) / total,
        scale=scale,
    )


def cloud_score(estimated: np.ndarray, true: np.ndarray, threshold_m: float) -> CloudScore:
    """Compare two clouds ``[N, 3]`` and ``[M, 3]`` that are already in one frame."""
    if not len(estimated) or not len(true):
        return CloudScore(precision=0.0, recall=0.0)
    there, _ = cKDTree(true).query(estimated, distance_upper_bound=threshold_m)
    back, _ = cKDTree(estimated).query(true, distance_upper_bound=threshold_m)
    return CloudScore(
        precision=float(np.isfinite(there).mean()), recall=float(np.isfinite(back).mean())
    )


def true_cloud(
    truth: Truth, frames: Iterable[int], voxel_m: float = 0.01, every: int = 1
) -> np.ndarray:
    """Return what rests in the scene and is seen in the frames: ``float64 [N, 3]``, one a voxel."""
    cloud = np.empty((0, 3))
    for i in frames:
        cloud = thinned(np.concatenate([cloud, truth.points(i, every)[0]]), voxel_m)
    return cloud


def thinned(points: np.ndarray, voxel_m: float) -> np.ndarray:
    """Keep the first point ``[N, 3]`` of every cubic voxel."""
    cell = np.floor(points / voxel_m).astype(np.int64) + (1 << 20)
    _, first = np.unique((cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2], return_index=True)
    return points[np.sort(first)]


def family(label: str) -> str:
    """Return what a label shares with its opposite: "pan-left" and "pan-right" are "pan"."""
    return label if label == "object-moving" else label.split("-")[0]


def span_score(
    predicted: Sequence[Span], true: Sequence[Span], *, overlap: float = 0.5
) -> SpanScore:
    """Match every true span with the predicted one of its family that overlaps it most.

    Raises:
        ValueError: There are no true spans.
    """
    if not true:
        raise ValueError("no true spans: there is nothing to find")
    best = []
    for span in true:
        rivals = [
            (_iou(guess, span), guess[0] == span[0], guess)
            for guess in predicted
            if family(guess[0]) == family(span[0])
        ]
        iou, _, guess = max(rivals, key=lambda r: r[:2], default=(0.0, False, None))
        best.append((span, guess if iou > 0 else None, iou))
    found = [iou >= overlap for _, _, iou in best]
    right = [
        hit and guess is not None and guess[0] == span[0]
        for hit, (span, guess, _) in zip(found, best, strict=True)
    ]
    return SpanScore(
        found=float(np.mean(found)),
        right=float(np.mean(right)),
        mean_iou=float(np.mean([iou for _, _, iou in best])),
        best=tuple(best),
    )


def _iou(a: Span, b: Span) -> float:
    shared = max(min(a[2], b[2]) - max(a[1], b[1]), 0.0)
    return shared / max(a[2] - a[1] + b[2] - b[1] - shared, 1e-12)
