"""Monocular depth networks, in the scale of the poses.

Depth Anything, DPT (MiDaS), ZoeDepth, DepthPro, Prompt Depth Anything and GLPN, through
transformers. Each view is aligned to the sparse points that it observes, smoothly over time; by
default depth triangulated from flow is kept where it is known, and the network fills its holes.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, DepthMaps, Resources, Stage, Views
from pipeline.errors import PartNotMade, UsageError
from pipeline.weights import Checkpoint, Known, Weights, checkpoint
from stages._networks.batching import Batches
from stages._networks.checkpoints import (
    LearnedOptions,
    check_task,
    configuration,
    device_of,
    load,
    processor,
    resources_of,
)
from stages.depth._align import LEAST_POINTS, Alignment, Anchors, Kind, align, anchors_of
from stages.depth._fill import filled
from stages.depth._flow_depth import FlowDepth, FlowDepthOptions
from stages.depth._networks import network_of
from stages.depth._prompt import prompt_of

__all__ = ["Config", "Model"]

Map = npt.NDArray[np.float32]

TASK = "depth estimation"
GPU_BATCH = 8
DOUBTFUL = 0.15
"""Residual that triggers a warning; good networks match sparse points to about five percent."""
GRID = 24
"""Pixels along each side at which triangulated depth serves views with too few sparse points."""
KNOWN = (
    Known(
        name="depth-anything/Depth-Anything-V2-Small-hf",
        license="apache-2.0",
        nbytes=99_200_000,
        about="relative, 25 M parameters",
    ),
    Known(
        name="LiheYoung/depth-anything-small-hf",
        license="apache-2.0",
        nbytes=99_200_000,
        about="relative, version 1",
    ),
    Known(
        name="Intel/dpt-large",
        license="apache-2.0",
        nbytes=1_370_000_000,
        about="relative, MiDaS 3.0",
    ),
    Known(
        name="Intel/zoedepth-nyu-kitti",
        license="mit",
        nbytes=1_380_000_000,
        about="metric, indoors and out",
    ),
    Known(
        name="depth-anything/prompt-depth-anything-vits-hf",
        license="apache-2.0",
        nbytes=0,
        about="takes the sparse points as a prompt",
    ),
)
"""Checkpoints known by name, with the licenses given on their hub pages."""


class Config(LearnedOptions):
    """Options of `depth/transformer`."""

    checkpoint: str = Field(
        KNOWN[0].name,
        description="network: hub name (owner/name) or a folder written by save_pretrained",
    )
    fuse: Literal["multiview", "none"] = Field(
        "multiview",
        description="multiview: keep triangulated depth where it is known, fill the holes; "
        "none: use the network everywhere",
    )
    predicts: Literal["auto", "inverse", "metric"] = Field(
        "auto", description="what the network predicts; auto: from its configuration"
    )
    shift: bool = Field(
        False, description="also fit a shift, not only a scale, for a network that predicts depth"
    )
    drift: float = Field(
        0.01,
        ge=0,
        le=1,
        description="expected drift of the network's scale from view to view (a share): less is "
        "smoother",
    )
    mirror: bool = Field(
        False, description="ZoeDepth: average with the prediction for the mirrored image"
    )


class Model(Stage[Config]):
    """A network of transformers, aligned and fused."""

    @property
    def resources(self) -> Resources:
        """Resources of one worker."""
        return resources_of(self.config, self._checkpoint().nbytes)

    @property
    def device(self) -> str:
        """Device on which it runs."""
        return device_of(self.config.device)

    @property
    def weights(self) -> tuple[Weights, ...]:
        """Weights of the chosen checkpoint."""
        return (self._checkpoint(),)

    @classmethod
    def catalog(cls) -> tuple[Weights, ...]:
        """Return the checkpoints known by name."""
        return tuple(_named(known.name) for known in KNOWN)

    def _checkpoint(self) -> Checkpoint:
        return _named(self.config.checkpoint)

    def fetch(self) -> None:
        """Download the checkpoint and check first that it is for depth.

        Raises:
            UsageError: It is not, or it is not available.
        """
        super().fetch()
        weights = self._checkpoint()
        check_task("AutoModelForDepthEstimation", weights, TASK)
        network_of(configuration(weights), self.config.checkpoint)

    def open(self, context: Context) -> None:
        """Load the network.

        Raises:
            UsageError: The device does not exist, or the checkpoint is damaged or for another task.
        """
        super().open(context)
        cv2.setNumThreads(context.threads)
        config, weights = self.config, self._checkpoint()
        network = load("AutoModelForDepthEstimation", weights, config, step="depth", task=TASK)
        settings = configuration(weights)
        self._family = network_of(settings, config.checkpoint)
        if config.mirror and not self._family.mirrors:
            raise UsageError(
                f"depth.mirror=on is only for zoedepth, and {config.checkpoint} is a "
                f"{settings['model_type']}; leave it off"
            )
        predicts = self._family.predicts(settings) if config.predicts == "auto" else config.predicts
        if config.shift and predicts == "inverse":
            raise UsageError(
                "depth.shift=on is for networks that predict depth; the shift of inverse depth is "
                "always fitted: leave it off"
            )
        self._kind: Kind = (
            "inverse" if predicts == "inverse" else "affine" if config.shift else "scale"
        )
        from stages.depth._predict import Predictor

        self._predictor = Predictor(
            network,
            processor("AutoImageProcessor", weights),
            self._family,
            device=self.device,
            precision=config.precision,
            mirror=config.mirror,
            threads=context.threads,
            batches=Batches(
                config.batch or (GPU_BATCH if self.device == "cuda" else 1),
                "images",
                "use a smaller depth.checkpoint, or depth.precision=float16",
                self.warn,
            ),
        )

    def process(self, views: Views) -> DepthMaps:
        """Return the depth of each view, NaN where unknown.

        Raises:
            PartNotMade: The images are too small, or no view has measured points to align to.
        """
        count, rows, columns = views.images.shape[:3]
        least = self._family.least_side_px
        if min(rows, columns) < least:
            raise PartNotMade(
                f"depth needs images of at least {least} px per side, got {columns}x{rows}"
            )
        geometry = self._geometry(views) if self.config.fuse == "multiview" else None
        anchors = _measured(views, geometry)
        predicted = self._predicted(views, anchors, geometry)
        made = align(
            predicted, anchors, self._kind, drift=self.config.drift, seed=self.context.seed
        )
        self._report_alignment(made)
        for k in range(count):
            own = made.depth(k, predicted[k])
            predicted[k] = own if geometry is None else filled(geometry[k], own)
        if views.masks is not None:
            predicted[views.masks] = np.nan
        known = np.count_nonzero(np.isfinite(predicted))
        self.measure("depth_known_share", known / predicted.size)
        if geometry is not None:
            measured = np.count_nonzero(np.isfinite(geometry))
            self.measure("depth_filled_share", (known - measured) / predicted.size)
        return DepthMaps(depth=predicted)

    def _geometry(self, views: Views) -> Map | None:
        """Return depth triangulated from flow, float32 [K, H, W], or None if impossible."""
        triangulated = FlowDepth(
            FlowDepthOptions(),
            threads=self.context.threads,
            progress=lambda done, total: self.progress(done, 2 * total, "flow"),
            measure=lambda name, value: self.measure(f"multiview_{name}", value),
        )
        try:
            return triangulated.depth(views)
        except PartNotMade as reason:
            self.warn(f"depth comes from the network alone, because multiview failed: {reason}")
            return None

    def _predicted(self, views: Views, anchors: list[Anchors], geometry: Map | None) -> Map:
        """Return the network's predictions, float32 [K, H, W], NaN where they are not finite."""
        count = len(views.images)
        prompts = None
        if self._family.prompted:
            prompts = self._prompts(views, anchors, geometry)
        predicted = np.empty(views.images.shape[:3], np.float32)
        before = 0 if geometry is None else count
        spoiled = 0
        for k, said in enumerate(self._predictor.maps(views.images, prompts)):
            finite = np.isfinite(said)
            spoiled += not finite.all()
            predicted[k] = np.where(finite, said, np.float32(np.nan))
            self.progress(before + k + 1, before + count, "network")
        if spoiled:
            self.warn(
                f"{self.config.checkpoint} predicts non-finite values (NaN or infinity) in "
                f"{spoiled} of {count} views; their depth stays unknown there"
                + ("" if self.config.precision == "float32" else "; try depth.precision=float32")
            )
        return predicted

    def _prompts(self, views: Views, anchors: list[Anchors], geometry: Map | None) -> list[Map]:
        lacking = [k for k, some in enumerate(anchors) if not len(some.z)]
        every = np.concatenate([some.z for some in anchors])
        if not len(every):
            raise PartNotMade(
                f"{self.config.checkpoint} needs measured depth as a prompt, but no view has "
                "sparse points; use another depth.checkpoint"
            )
        if lacking:
            self.warn(
                f"{len(lacking)} of {len(anchors)} views have no sparse points to prompt "
                f"{self.config.checkpoint}; a wall at the median depth is used instead"
            )
        size = views.images.shape[1], views.images.shape[2]
        usual = Anchors(np.array([[size[1] / 2, size[0] / 2]]), np.median(every, keepdims=True))
        return [
            prompt_of(some if len(some.z) else usual, size, None if geometry is None else there)
            for some, there in zip(
                anchors, geometry if geometry is not None else [None] * len(anchors), strict=True
            )
        ]

    def _report_alignment(self, made: Alignment) -> None:
        borrowed = np.count_nonzero(made.borrowed)
        if borrowed:
            self.warn(
                f"{borrowed} of {len(made.borrowed)} views have fewer than {LEAST_POINTS} points "
                "suitable to scale their depth; they use the scale of their neighbors"
            )
        residual = float(np.nanmedian(made.residual))
        if residual > DOUBTFUL:
            self.warn(
                f"{self.config.checkpoint} matches the sparse points only to within "
                f"{100 * residual:.0f} % (median), so what it fills in is a guess; use another "
                "depth.checkpoint, or depth.model=multiview"
            )
        self.measure("alignment_residual_share", residual)
        self.measure("alignment_worst_residual_share", float(np.nanmax(made.residual)))


def _named(name: str) -> Checkpoint:
    return checkpoint(
        name,
        task=TASK,
        known=KNOWN,
        instead="depth.model=multiview",
        option="depth.checkpoint",
    )


def _measured(views: Views, geometry: Map | None) -> list[Anchors]:
    """Return the sparse points of each view, or triangulated depth if it has too few."""
    anchors = anchors_of(views)
    if geometry is None:
        return anchors
    rows, columns = views.images.shape[1:3]
    row = ((np.arange(GRID) + 0.5) * rows / GRID).astype(int)
    column = ((np.arange(GRID) + 0.5) * columns / GRID).astype(int)
    xy = np.stack(np.meshgrid(column + 0.5, row + 0.5), axis=-1).reshape(-1, 2)
    for k, some in enumerate(anchors):
        if len(some.z) < LEAST_POINTS:
            z = geometry[k][np.ix_(row, column)].ravel().astype(np.float64)
            known = np.isfinite(z)
            anchors[k] = Anchors(xy[known], z[known])
    return anchors
