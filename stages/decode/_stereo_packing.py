"""Frames that hold both views of a rectified stereo pair; the left or the top one is the picture.

The views are cut from the coded frame, before it is scaled: else each would bleed into the other
at the seam.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, cast

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph

from pipeline.contract import Source
from pipeline.errors import SourceError
from stages.decode._delivery import Orientation
from stages.decode._error_text import named

__all__ = ["Layout", "Packing", "split", "view_size"]

AnyImage = npt.NDArray[np.uint8]

Layout = Literal["none", "side_by_side", "top_bottom"]


COLORS = ("colorspace", "color_range", "color_trc", "color_primaries")


def view_size(width: int, height: int, layout: str) -> tuple[int, int]:
    """Return the size (width, height) of one of the two views of a frame.

    Raises:
        ValueError: The frame has no middle.
    """
    across = layout == "side_by_side"
    if (width if across else height) % 2:
        raise ValueError(
            f"it is {width}x{height}, which does not hold two views of one size: "
            f"decode.stereo={layout} needs an even {'width' if across else 'height'}"
        )
    return (width // 2, height) if across else (width, height // 2)


def split(image: AnyImage, layout: str) -> tuple[AnyImage, AnyImage]:
    """Return the left and the right view, [h, w, 3], of a frame [H, W, 3].

    Raises:
        ValueError: See `view_size`.
    """
    width, height = view_size(image.shape[1], image.shape[0], layout)
    right = image[:, width:] if layout == "side_by_side" else image[height:]
    return np.ascontiguousarray(image[:height, :width]), np.ascontiguousarray(right)


class Packing:
    """Cuts video frames in two without a copy of their pixels, with FFmpeg's crop filter."""

    def __init__(self, source: Source, layout: Layout, orientation: Orientation) -> None:
        """Settle how.

        Raises:
            SourceError: The frames are to be turned, and nobody knows which half is then left.
        """
        if layout != "none" and orientation != Orientation():
            raise SourceError(
                f"{named(source)} is to be shown turned or mirrored, which decode.stereo={layout} "
                "does not take; convert it with ffmpeg, which turns it for good"
            )
        self._source = source
        self._layout = layout
        self._graphs: tuple[Graph, ...] = ()
        self._graphs_for: Any = None

    @property
    def name(self) -> str:
        """The layout; empty where frames hold one view."""
        return "" if self._layout == "none" else self._layout

    def view_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Return the size (width, height) of a view of a frame, before it is scaled.

        Raises:
            SourceError: The frame has no middle.
        """
        if not self.name:
            return frame.width, frame.height
        try:
            return view_size(frame.width, frame.height, self.name)
        except ValueError as error:
            raise SourceError(f"{named(self._source)} cannot be used: {error}") from None

    def views(self, frame: av.VideoFrame) -> tuple[av.VideoFrame, av.VideoFrame | None]:
        """Return the left and the right view; the frame and None where it holds one.

        Raises:
            SourceError: See `view_size`.
        """
        if not self.name:
            return frame, None
        about = (frame.width, frame.height, frame.format.name)
        if self._graphs_for != about:
            width, height = self.view_size(frame)
            second = (width, 0) if self.name == "side_by_side" else (0, height)
            self._graphs = tuple(
                _cropping(frame, width, height, *corner) for corner in ((0, 0), second)
            )
            self._graphs_for = about
        left, right = (_through(graph, frame) for graph in self._graphs)
        return left, right


def _cropping(frame: av.VideoFrame, width: int, height: int, x: int, y: int) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format.name,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    # Exact: else it begins where the coarser grid of the colors does.
    crop = graph.add("crop", f"w={width}:h={height}:x={x}:y={y}:exact=1")
    source.link_to(crop)
    crop.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _through(graph: Graph, frame: av.VideoFrame) -> av.VideoFrame:
    graph.push(frame)
    view = cast("av.VideoFrame", graph.pull())
    # A graph takes what its source was told for the truth, and PyAV tells it nothing of colors.
    for name in COLORS:
        setattr(view, name, getattr(frame, name))
    return view
