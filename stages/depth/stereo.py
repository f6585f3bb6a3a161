"""Depth of rectified stereo pairs, from the disparity between left and right views.

For two calibrated and rectified cameras side by side (`decode.stereo`, or folders of left and right
images). Depth is focal length x baseline / disparity. With metric poses it is used unchanged; with
poses of arbitrary scale, one scale for all views is estimated from the sparse points. Each pair is
measured separately, so moving objects do no harm.

Disparity comes from semi-global matching, or from RAFT (`depth.method=raft`), whose horizontal flow
between the left and right views is computed and checked in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, DepthMaps, Frames, Resources, Stage, Views
from pipeline.errors import PartNotMade
from pipeline.weights import Weights
from stages.depth._align import anchors_of
from stages.depth._consistency import drop_speckles
from stages.depth._filter import LEAST_SIDE_PX, SPECKLE_SHARE, SPECKLE_STEP
from stages.depth._metric_scale import in_units_of
from stages.depth._sgbm import sgbm
from stages.depth._stereo_features import LEAST_MATCHES, matched_moves
from stages.flow import raft
from stages.flow._pairs import working_size

__all__ = ["Config", "Model"]

Map = npt.NDArray[np.float32]

LEAST_DISPARITY_PX = 0.5
"""Smaller disparities are within the error of both methods: depth is unknown there."""
TRUSTED = 0.5
"""Minimum forward-backward confidence of RAFT's flow (see `stages.flow._consistency`)."""
UNRECTIFIED_PX = 1.0
SAMPLED = 24
"""Maximum number of pairs in which features are matched."""
MARGIN = 1.5
"""Factor on the largest disparity: surfaces may be nearer than the nearest feature."""
NEAREST_PERCENT = 2
"""Percentile of a view's depths taken as the nearest, since the nearest ones may be wrong."""
LEAST_RANGE_PX = 16.0
UNKNOWN_RANGE = 0.25
"""Share of the width to search if neither features nor points give the range."""


class Config(raft.Config):
    """Options of `depth/stereo`; those of RAFT apply to `method=raft`."""

    method: Literal["sgbm", "raft"] = Field(
        "sgbm", description="semi-global matching, or the network RAFT"
    )
    baseline_m: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="distance between the two cameras, m; unset: from the source (KITTI calib.txt)",
    )
    max_disparity: int | None = Field(
        None,
        ge=1,
        le=2048,
        description="largest disparity that sgbm searches, px of the delivered images; unset: from "
        "the nearest sparse points and matched features",
    )
    max_depth_m: float | None = Field(
        None, gt=0, description="larger depths are unknown, m; unset: no limit"
    )
    working_side: int = Field(
        960,
        ge=32,
        le=4096,
        description="longest side in px at which views are matched; larger ones are downscaled",
    )


class StereoRaft(raft.Model):
    """The network of `flow/raft`, with the options of this step."""

    step = "depth"
    instead = "depth.method=sgbm"


class Model(Stage[Config]):
    """Converts the disparity of each pair to depth."""

    @property
    def resources(self) -> Resources:
        """Resources of one worker."""
        return (
            StereoRaft(self.config).resources
            if self._learned
            else Resources(memory_bytes=500_000_000)
        )

    @property
    def device(self) -> str:
        """Device on which it runs."""
        return StereoRaft(self.config).device if self._learned else "cpu"

    @property
    def weights(self) -> tuple[Weights, ...]:
        """RAFT's weights, for `method=raft`."""
        return StereoRaft(self.config).weights if self._learned else ()

    @classmethod
    def catalog(cls) -> tuple[Weights, ...]:
        """Return all files that can be downloaded."""
        return StereoRaft.catalog()

    @property
    def _learned(self) -> bool:
        return self.config.method == "raft"

    def open(self, context: Context) -> None:
        """Load the network, if any.

        Raises:
            UsageError: The device does not exist, or the weights do not match the network.
        """
        super().open(context)
        cv2.setNumThreads(context.threads)
        if self._learned:
            self._raft = StereoRaft(self.config)
            self._raft.open(context)

    def process(self, views: Views) -> DepthMaps:
        """Return the depth of each left view in the units of the views, NaN where unknown.

        Raises:
            PartNotMade: There are no right views, the baseline is unknown, nothing was matched, or
                the scale cannot be estimated.
        """
        right, baseline_m = self._pairs(views)
        disparity = np.zeros(views.images.shape[:3], np.float32)
        found = self._by_flow(views, right) if self._learned else self._by_sgbm(views, right)
        least = round(SPECKLE_SHARE * disparity[0].size)
        for k, one in enumerate(found):
            with np.errstate(invalid="ignore"):
                sound = one >= LEAST_DISPARITY_PX
            disparity[k] = drop_speckles(np.where(sound, one, np.float32(0)), least, SPECKLE_STEP)
            self.progress(k + 1, len(disparity))
        depth = np.full(disparity.shape, np.nan, np.float32)
        product = (views.intrinsics[:, 0, 0] * baseline_m).astype(np.float32)[:, None, None]
        np.divide(product, disparity, out=depth, where=disparity > 0)
        if self.config.max_depth_m is not None:
            with np.errstate(invalid="ignore"):
                depth[depth > self.config.max_depth_m] = np.nan
        known = np.count_nonzero(np.isfinite(depth))
        self.measure("depth_known_share", known / depth.size)
        if not known:
            raise PartNotMade(
                f"nothing in the left views was matched in the right ones, in any of "
                f"{len(depth)} pairs; check that they are rectified, and decode.stereo"
            )
        see = "depth.baseline_m, and whether the pairs are rectified"
        return DepthMaps(depth=in_units_of(views, depth, self, what="the stereo rig", see=see))

    def _pairs(self, views: Views) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the right views and the baseline, or raise with what is missing."""
        if views.right is None:
            raise PartNotMade(
                "no right views came with the source; depth/stereo takes rectified pairs: frames "
                "that hold both (decode.stereo=side_by_side or top_bottom), or folders of images "
                "with the same names (left and right, image_2 and image_3); use depth/multiview "
                "for one camera"
            )
        rows, columns = views.images.shape[1:3]
        if min(rows, columns) < LEAST_SIDE_PX:
            raise PartNotMade(
                f"depth needs images of at least {LEAST_SIDE_PX} px per side, got {columns}x{rows}"
            )
        baseline_m = self.config.baseline_m or views.baseline_m
        if baseline_m is None:
            raise PartNotMade(
                "the distance between the two cameras is unknown: set depth.baseline_m in meters "
                "(or put KITTI's calib.txt beside the images)"
            )
        return views.right, baseline_m

    # Semi-global matching

    def _by_sgbm(self, views: Views, right: npt.NDArray[np.uint8]) -> Iterator[Map]:
        rows, columns = views.images.shape[1:3]
        size = working_size(columns, rows, self.config.working_side)
        share = size[0] / columns
        most_px = self._range_px(views, self._look(views, right))
        self.measure("max_disparity_px", most_px)
        for pair in zip(views.images, right, strict=True):
            if not pair[1].any():
                yield np.zeros((rows, columns), np.float32)
                continue
            found = sgbm(*(_reduced(view, size) for view in pair), int(np.ceil(most_px * share)))
            if share < 1:
                found = cv2.resize(found, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
            yield found / np.float32(share)

    def _look(self, views: Views, right: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float64]]:
        """Match features in some pairs; check that rows agree and views are not swapped."""
        count = min(SAMPLED, len(right))
        rows = np.unique(np.linspace(0, len(right) - 1, count).round().astype(int))
        moves = [matched_moves(views.images[k], right[k]) for k in rows]
        every = np.concatenate(moves)
        if len(every) >= LEAST_MATCHES:
            self._judge(float(np.median(np.abs(every[:, 1]))), float(-np.median(every[:, 0])))
        return [move for move in moves if len(move) >= LEAST_MATCHES]

    def _range_px(self, views: Views, moves: list[npt.NDArray[np.float64]]) -> float:
        """Return the largest disparity to search."""
        columns = views.images.shape[2]
        if self.config.max_disparity is not None:
            return min(self.config.max_disparity, columns)
        said = [np.percentile(-move[:, 0], 100 - NEAREST_PERCENT) for move in moves]
        if views.scale == "metric":
            baseline_m = self.config.baseline_m or views.baseline_m or 0.0
            for K, anchors in zip(views.intrinsics, anchors_of(views), strict=True):
                if len(anchors.z) >= LEAST_MATCHES:
                    nearest_m = np.percentile(anchors.z, NEAREST_PERCENT)
                    said.append(K[0, 0] * baseline_m / nearest_m)
        most = MARGIN * float(max(said)) if said else UNKNOWN_RANGE * columns
        return min(max(most, LEAST_RANGE_PX), columns)

    # RAFT

    def _by_flow(self, views: Views, right: npt.NDArray[np.uint8]) -> Iterator[Map]:
        vertical: list[float] = []
        sideways: list[float] = []
        for k, pair in enumerate(zip(views.images, right, strict=True)):
            flow, trust = self._flow(np.stack(pair), f"pair/{k}")
            with np.errstate(invalid="ignore"):
                trusted = (trust >= TRUSTED) & np.isfinite(flow).all(axis=2)
            if pair[1].any() and trusted.any():
                vertical.append(float(np.median(np.abs(flow[trusted, 1]))))
                sideways.append(float(-np.median(flow[trusted, 0])))
            else:
                trusted[:] = False
            yield np.where(trusted, -flow[..., 0], np.float32(0))
        if vertical:
            self._judge(float(np.median(vertical)), float(np.median(sideways)))

    def _flow(self, pair: npt.NDArray[np.uint8], name: str) -> tuple[Map, Map]:
        """Return flow [H, W, 2] from left to right, and its confidence [H, W]."""
        frames = Frames(
            clip=name,
            images=pair,
            pts_ns=np.arange(2),
            index=np.arange(2),
            sharpness=np.ones(2, np.float32),
        )
        motion = self._raft.process(frames)
        return motion.flow[0], motion.confidence[0]

    def _judge(self, vertical_px: float, sideways_px: float) -> None:
        """Warn about pairs that are not rectified; reject pairs with swapped views."""
        self.measure("vertical_residual_px", vertical_px)
        if sideways_px < -UNRECTIFIED_PX:
            raise PartNotMade(
                f"the left and right views are swapped: points are {-sideways_px:.1f} px farther "
                "right in the right view (median); swap them, or rectify the pairs again"
            )
        if vertical_px > UNRECTIFIED_PX:
            self.warn(
                f"the stereo pairs are not rectified: points are {vertical_px:.1f} px higher or "
                "lower in the right view (median), and should be in the same row; rectify them "
                "first, for example with cv2.stereoRectify"
            )


def _reduced(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if image.shape[1::-1] == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
