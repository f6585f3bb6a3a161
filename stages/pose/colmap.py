"""Camera poses by COLMAP: structure from motion on the keyframes, nothing known beforehand.

SIFT features are matched between neighbouring keyframes, ever wider gaps and whatever else looks
alike; the incremental mapper builds the model. One camera is assumed for each shot, its focal
length and radial distortion estimated, unless the source gives intrinsics, which are then kept.

A first attempt that leaves out more than a twentieth of the keyframes of its shots is followed by
others: all pairs with twice the features, then a focal length of its own for every keyframe
(a lens that zooms while the camera moves). The best attempt counts.

A camera that stands still, turns or zooms on the spot is told so before any mapping, since COLMAP
would register it: see `_parallax.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
import pycolmap
from pydantic import Field

from pipeline.errors import PartNotMade
from pipeline.messages import Array, Keyframes, Views
from pipeline.stage import Context, Options, Stage
from stages.pose._cameras import cameras_for
from stages.pose._features import Features, extract
from stages.pose._mapping import fill_database, largest, map_incrementally
from stages.pose._matching import Pair, choose_pairs, match_pairs
from stages.pose._parallax import Evidence, parallax_evidence
from stages.pose._reasons import left_out, why_no_model, why_nothing_to_map
from stages.pose._views import views_from

__all__ = ["Config", "Model"]

GOOD_SHARE = 0.95
"""Of the keyframes of the shots that a model reaches into: less asks for another attempt."""
FEW = 12
"""Up to so many keyframes, all pairs are tried at once."""


class Config(Options):
    """How much is matched and what counts as a model."""

    features: int = Field(
        1500, ge=100, le=20_000, description="strongest SIFT features of a keyframe"
    )
    overlap: int = Field(4, ge=1, le=50, description="neighbours that each keyframe is matched to")
    attempts: int = Field(3, ge=1, le=3, description="strategies tried before giving up")
    init_angle_deg: float = Field(
        6.0, gt=0, le=45, description="triangulation angle that the first pair should have"
    )


@dataclass(frozen=True, kw_only=True)
class _Strategy:
    """How one attempt goes about it."""

    features: int
    exhaustive: bool
    focal: str
    """`shot`: one camera a shot; `keyframe`: each keyframe has its own focal length."""
    init_angle_deg: float
    init_inliers: int


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What one strategy came to."""

    features: list[Features]
    pairs: list[Pair]
    evidence: Evidence
    models: list[pycolmap.Reconstruction]


class Model(Stage[Config]):
    """Structure from motion by COLMAP."""

    isolated = True
    deadline_s: ClassVar[float | None] = 3600.0

    def open(self, context: Context) -> None:
        """Take threads and silence COLMAP."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        pycolmap.logging.minloglevel = 3
        pycolmap.set_random_seed(context.seed)

    def process(self, keyframes: Keyframes) -> Views:
        """Find the poses of the keyframes.

        Raises:
            PartNotMade: No model; the message says why, with figures.
        """
        best: _Attempt | None = None
        for strategy in self._strategies(keyframes):
            attempt = self._attempt(keyframes, strategy)
            if best is None or _rank(attempt) > _rank(best):
                best = attempt
            if attempt.evidence.no_parallax or _complete(attempt, keyframes):
                break
        assert best is not None
        if reason := why_no_model(keyframes, best.features, best.pairs, best.evidence, best.models):
            raise PartNotMade(reason)
        views = views_from(best.models[0], keyframes, scale="arbitrary", normalise=True)
        if text := left_out(keyframes, views):
            self.warn(text)
        self._measure(best, views)
        return views

    def _strategies(self, keyframes: Keyframes) -> list[_Strategy]:
        few = len(keyframes.index) <= FEW
        first = _Strategy(
            features=self.config.features,
            exhaustive=few,
            focal="shot",
            init_angle_deg=self.config.init_angle_deg,
            init_inliers=60,
        )
        more = replace(
            first,
            features=2 * self.config.features,
            exhaustive=True,
            init_angle_deg=self.config.init_angle_deg / 2,
            init_inliers=30,
        )
        strategies = [first, more]
        if keyframes.intrinsics is None:
            strategies.append(replace(more, features=self.config.features, focal="keyframe"))
        return strategies[: self.config.attempts]

    def _attempt(self, keyframes: Keyframes, strategy: _Strategy) -> _Attempt:
        count = len(keyframes.index)
        cameras = cameras_for(keyframes, each=strategy.focal == "keyframe")
        features = []
        for i, image in enumerate(keyframes.images):
            features.append(
                extract(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), most=strategy.features)
            )
            self.progress(i, 4 * count)
        nothing = Evidence(unexplained=0, residual_px=0, moved_px=0, pairs=0)
        if why_nothing_to_map(keyframes, features):
            return _Attempt(features=features, pairs=[], evidence=nothing, models=[])
        wanted = choose_pairs(
            features,
            keyframes.shot,
            overlap=self.config.overlap,
            exhaustive=strategy.exhaustive,
        )
        tick = self._counter(count, 2 * count / max(1, len(wanted)), 4 * count)
        pairs = match_pairs(features, cameras, wanted, seed=self.context.seed, tick=tick)
        height, width = keyframes.images.shape[1:3]
        focal_px = (
            float(cameras[0].mean_focal_length()) if keyframes.intrinsics is not None else None
        )
        evidence = parallax_evidence(pairs, features, (width, height), focal_px)
        models: list[pycolmap.Reconstruction] = []
        if pairs and not evidence.no_parallax:
            models = map_incrementally(
                fill_database(features, cameras, pairs),
                seed=self.context.seed,
                threads=self.context.threads,
                refine_focal=keyframes.intrinsics is None,
                init_min_tri_angle_deg=strategy.init_angle_deg,
                init_min_num_inliers=strategy.init_inliers,
                registered=self._counter(3 * count, 1, 4 * count),
            )
        return _Attempt(features=features, pairs=pairs, evidence=evidence, models=models)

    def _counter(self, start: float, step: float, total: float) -> Callable[[], None]:
        done = start

        def tick() -> None:
            nonlocal done
            done += step
            self.progress(min(done, total), total)

        return tick

    def _measure(self, attempt: _Attempt, views: Views) -> None:
        model = attempt.models[0]
        self.measure("registered_share", len(views.index) / views.candidates)
        self.measure("reprojection_error_px", model.compute_mean_reprojection_error())
        self.measure("points_count", len(views.points))
        self.measure("track_length_views", model.compute_mean_track_length())
        self.measure("unexplained_by_turn_share", attempt.evidence.unexplained)
        self.measure("focal_length_px", float(np.median(views.intrinsics[:, 0, 0])))


def _rank(attempt: _Attempt) -> tuple[int, int]:
    return largest(attempt.models[0]) if attempt.models else (0, len(attempt.pairs))


def _complete(attempt: _Attempt, keyframes: Keyframes) -> bool:
    """Whether the model holds nearly all keyframes of the shots that it reaches into."""
    if not attempt.models:
        return False
    rows = np.array(sorted(attempt.models[0].reg_image_ids())) - 1
    reached: Array = np.isin(keyframes.shot, np.unique(keyframes.shot[rows]))
    return len(rows) >= GOOD_SHARE * reached.sum()
