"""Depth by triangulating optical flow between a view and its neighbors.

Two views are matched in both directions with DIS flow (Kroeger et al. 2016) after one was warped
to the other through a rough depth, so that the remaining motion is small. Matches that pass the
forward-backward and epipolar checks are triangulated; the pairs of a view vote on each pixel;
depth that neighboring maps do not confirm is dropped. Nothing is invented: moving objects, pixels
visible in only one view and pixels with too little parallax stay unknown.
"""

from __future__ import annotations

import cv2

from pipeline.contract import Context, DepthMaps, Stage, Views
from stages._kernels.textured_plane import textured_plane
from stages.depth._flow_depth import FlowDepth, FlowDepthOptions

__all__ = ["Config", "Model"]


class Config(FlowDepthOptions):
    """Options of `depth/multiview`."""


class Model(Stage[Config]):
    """Triangulates flow to neighboring views."""

    @classmethod
    def compile_kernels(cls) -> None:
        """Compile the kernels on a small scene."""
        model = cls(Config())
        model.open(Context())
        model.process(textured_plane()[0])

    def open(self, context: Context) -> None:
        """Set the number of threads."""
        super().open(context)
        cv2.setNumThreads(context.threads)

    def process(self, views: Views) -> DepthMaps:
        """Return the depth of each view, NaN where unknown.

        Raises:
            PartNotMade: There are fewer than two views, they are too small, or none has parallax.
        """
        triangulated = FlowDepth(
            self.config,
            threads=self.context.threads,
            progress=self.progress,
            measure=self.measure,
        )
        return DepthMaps(depth=triangulated.depth(views))
