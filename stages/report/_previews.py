"""Preview videos of flow and depth, embedded in the page."""

from __future__ import annotations

import cv2
import numpy as np

from stages._rendering.colormaps import flow_colors
from stages.report._facts import Facts
from stages.report._images import jpeg_uri, video_frames, video_uri
from stages.report._markup import Markup, data_uri, tag

__all__ = ["previews", "video_figure"]

STILL_WIDTH = 560


def previews(facts: Facts, most_bytes: int) -> Markup | None:
    """Return the section; a video above `most_bytes` becomes a still that links to its file."""
    middle_s = facts.duration_s / 2
    figures = [
        video_figure(facts, "flow.mp4", "Optical flow", _wheel_legend(), most_bytes, middle_s),
        video_figure(facts, "depth.mp4", "Depth", _depth_legend(), most_bytes, middle_s),
    ]
    figures = [figure for figure in figures if figure is not None]
    if not figures:
        return None
    return tag(
        "section",
        tag("h2", "Motion and depth"),
        tag("div", figures, class_="pair"),
        id="previews",
    )


def video_figure(
    facts: Facts, name: str, title: str, legend: Markup, most_bytes: int, time_s: float
) -> Markup | None:
    """Return a video of the run folder as a figure with a still at a time, or None."""
    path = facts.folder / name
    stills = video_frames(path, [time_s], STILL_WIDTH)
    if not stills:
        return None
    image = stills[0][1]
    height, width = image.shape[:2]
    still = jpeg_uri(image)
    uri = video_uri(path, most_bytes)
    if uri is None:
        picture = tag("img", src=still, alt=f"{title}, a still", width=width, height=height)
        shown = tag("a", picture, href=name)
    else:
        shown = tag(
            "video",
            src=uri,
            poster=still,
            width=width,
            height=height,
            controls=True,
            muted=True,
            loop=True,
            playsinline=True,
            preload="auto",
            aria_label=title,
        )
    caption = tag("figcaption", tag("strong", title), legend)
    return tag("figure", shown, caption, class_="card preview")


def _wheel_legend() -> Markup:
    side = 72
    grid = np.linspace(-1.02, 1.02, side, dtype=np.float32)
    flow = np.stack(np.meshgrid(grid, grid), axis=-1)
    alpha = (np.hypot(flow[..., 0], flow[..., 1]) <= 1) * np.uint8(255)
    bgra = np.dstack([flow_colors(flow, 1.0)[..., ::-1], alpha])
    wheel = data_uri("image/png", cv2.imencode(".png", bgra)[1].tobytes())
    return tag(
        "span",
        tag("img", src=wheel, alt="Color wheel of directions", width=36, height=36),
        "color: direction · depth of color: speed",
        class_="legend",
    )


def _depth_legend() -> Markup:
    return tag("span", "near", tag("i", class_="turbo"), "far · gray: unknown", class_="legend")
