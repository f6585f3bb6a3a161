"""Structure from motion with COLMAP on the features of any front end.

The incremental mapper builds the model. One camera is assumed per shot, with estimated focal
length and radial distortion, unless the source gives intrinsics, which are kept.

If the first attempt leaves out more than a twentieth of the keyframes of its shots, others follow:
a separate focal length for every keyframe (a lens that zoomed meanwhile), then all pairs with
twice the features. The best attempt is used, the first on a tie.

A camera that is static, or only rotates or zooms, is detected before mapping, since COLMAP would
register it: see `_static_camera.py` and `_parallax.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, TypeVar

import numpy as np
from pydantic import Field

from pipeline.contract import Array, Keyframes, Options, Views
from pipeline.errors import PartNotMade, later
from stages.pose._cameras import cameras_for
from stages.pose._colmap_stage import ColmapStage
from stages.pose._failure_reasons import left_out, why_no_model, why_no_motion, why_nothing_to_map
from stages.pose._features import Features
from stages.pose._front_end import FrontEnd
from stages.pose._mapping import fill_database, map_incrementally
from stages.pose._matching import Pair, choose_pairs, verify
from stages.pose._parallax import ParallaxEvidence, parallax_evidence
from stages.pose._views import views_from

pycolmap = later("pycolmap")

__all__ = ["MappingOptions", "StructureFromMotion"]

GOOD_SHARE = 0.95
"""Share of the keyframes of a model's shots below which another attempt is made."""
BETTER = 1.1
"""Factor by which a later attempt must pose more keyframes to replace an earlier one."""
FEW = 12
"""Up to this many keyframes, all pairs are tried in the first attempt."""


class MappingOptions(Options):
    """Matching and mapping options."""

    overlap: int = Field(4, ge=1, le=50, description="neighbors each keyframe is matched to")
    attempts: int = Field(3, ge=1, le=3, description="strategies tried before giving up")
    init_angle_deg: float = Field(
        6.0, gt=0, le=45, description="minimum triangulation angle of the initial pair, in degrees"
    )


C = TypeVar("C", bound=MappingOptions)


@dataclass(frozen=True, kw_only=True)
class _MatchedKeyframes:
    """Features and verified pairs of the keyframes, and the parallax evidence."""

    features: list[Features]
    pairs: list[Pair]
    evidence: ParallaxEvidence


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """Result of one strategy: its models, the largest first."""

    matched: _MatchedKeyframes
    models: list[pycolmap.Reconstruction]

    @property
    def views(self) -> int:
        """Number of keyframes in the largest model; 0 if it has no points left."""
        if not self.models or not self.models[0].num_points3D():
            return 0
        return self.models[0].num_reg_images()


class StructureFromMotion(ColmapStage[C]):
    """Structure from motion with COLMAP; a model defines its front end and number of features."""

    otherwise: ClassVar[str] = ""
    """Advice appended to the error where too little was found or matched; begins with a comma."""

    @property
    def most(self) -> int:
        """Number of features per keyframe in the first attempt."""
        raise NotImplementedError

    @property
    def front_end(self) -> FrontEnd:
        """Front end that extracts and matches features; available once the stage is open."""
        raise NotImplementedError

    def process(self, keyframes: Keyframes) -> Views:
        """Estimate the poses of the keyframes.

        Raises:
            PartNotMade: No model; the message gives the reason, with figures.
        """
        if reason := why_no_motion(keyframes):
            raise PartNotMade(reason)
        best: _Attempt | None = None
        for attempt in islice(self._strategies(keyframes), self.config.attempts):
            if best is None or attempt.views >= BETTER * best.views:
                best = attempt
            if attempt.matched.evidence.no_parallax or _complete(best, keyframes):
                break
        assert best is not None
        matched = best.matched
        if reason := why_no_model(
            keyframes, matched.features, matched.pairs, matched.evidence, best.views
        ):
            raise PartNotMade(reason if matched.evidence.no_parallax else reason + self.otherwise)
        views = views_from(best.models[0], keyframes, scale="arbitrary", normalize=True)
        if text := left_out(keyframes, views):
            self.warn(text)
        self._measure(best, views)
        return views

    def _strategies(self, keyframes: Keyframes) -> Iterator[_Attempt]:
        few = len(keyframes.index) <= FEW
        angle = self.config.init_angle_deg
        matched = self._match_keyframes(keyframes, self.most, exhaustive=few)
        yield self._map(keyframes, matched, angle_deg=angle, inliers=60)
        if keyframes.intrinsics is None:
            yield self._map(keyframes, matched, angle_deg=angle / 2, inliers=30, each=True)
        matched = self._match_keyframes(keyframes, 2 * self.most, exhaustive=True)
        yield self._map(keyframes, matched, angle_deg=angle / 2, inliers=30)

    def _match_keyframes(
        self, keyframes: Keyframes, most: int, *, exhaustive: bool
    ) -> _MatchedKeyframes:
        """Extract features, match them and compute the parallax evidence."""
        front_end, count = self.front_end, len(keyframes.index)
        features = front_end.describe(keyframes, most, lambda i: self.progress(i, 4 * count))
        if front_end.detects and why_nothing_to_map(keyframes, features):
            return _MatchedKeyframes(features=features, pairs=[], evidence=ParallaxEvidence())
        wanted = choose_pairs(
            features,
            keyframes.shot,
            overlap=self.config.overlap,
            exhaustive=exhaustive,
            sure=front_end.sure,
        )
        tick = self._counter(count, 2 * count / max(1, len(wanted)), 4 * count)
        features, matched = front_end.match(keyframes, features, wanted)
        seed = self.context.seed
        pairs = verify(matched, features, cameras_for(keyframes), seed=seed, tick=tick)
        height, width = keyframes.images.shape[1:3]
        focal_px = None if keyframes.intrinsics is None else float(keyframes.intrinsics[0, 0, 0])
        evidence = parallax_evidence(pairs, features, (width, height), focal_px)
        return _MatchedKeyframes(features=features, pairs=pairs, evidence=evidence)

    def _map(
        self,
        keyframes: Keyframes,
        matched: _MatchedKeyframes,
        *,
        angle_deg: float,
        inliers: int,
        each: bool = False,
    ) -> _Attempt:
        """Build models from the matches; with `each`, every keyframe has its own focal length."""
        if not matched.pairs or matched.evidence.no_parallax:
            return _Attempt(matched=matched, models=[])
        count = len(keyframes.index)
        models = map_incrementally(
            fill_database(matched.features, cameras_for(keyframes, each=each), matched.pairs),
            seed=self.context.seed,
            refine_focal=keyframes.intrinsics is None,
            init_min_tri_angle_deg=angle_deg,
            init_min_num_inliers=inliers,
            registered=self._counter(3 * count, 1, 4 * count),
        )
        return _Attempt(matched=matched, models=models)

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
        self.measure("unexplained_by_turn_share", attempt.matched.evidence.unexplained)
        self.measure("focal_length_px", float(np.median(views.intrinsics[:, 0, 0])))


def _complete(attempt: _Attempt, keyframes: Keyframes) -> bool:
    """Return whether the model holds nearly all keyframes of the shots that it covers."""
    if not attempt.models:
        return False
    rows = np.array(sorted(attempt.models[0].reg_image_ids())) - 1
    reached: Array = np.isin(keyframes.shot, np.unique(keyframes.shot[rows]))
    return len(rows) >= GOOD_SHARE * reached.sum()
