"""The scene as splats: a video along an orbit, and held-out views beside their images."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.report._facts import Facts
from stages.report._formatting import amount, plural
from stages.report._images import jpeg_uri
from stages.report._markup import Markup, tag
from stages.report._previews import video_figure

__all__ = ["splats"]

STRIP_WIDTH = 1080
"""Width of photograph, splats and difference together, px."""

MOST_BYTES = 32 << 20
"""Largest list or image that is read; those of reel3d are far smaller."""


@dataclass(frozen=True)
class _View:
    """A held-out view."""

    frame: int
    psnr_db: float
    ssim: float
    strip: npt.NDArray[np.uint8]
    """RGB: photograph, splats, difference."""


def splats(facts: Facts, most_bytes: int, most_views: int) -> Markup | None:
    """Return the section, or None if the run has neither video nor held-out images.

    Args:
        facts: Content of the run.
        most_bytes: A larger video is linked, not embedded.
        most_views: Maximum number of held-out views shown, evenly sampled.
    """
    video = video_figure(
        facts, "splats.mp4", "A flight round the place", _legend(), most_bytes, 0.0
    )
    listed = _listed(facts.folder / "splats")
    picked = sorted(
        {round(n) for n in np.linspace(0, len(listed) - 1, most_views)} if listed else []
    )
    views = [view for view in (_read(facts.folder, listed[n]) for n in picked) if view]
    if video is None and not views:
        return None
    return tag(
        "section",
        tag("h2", "The place as splats"),
        tag("p", _summary(facts), class_="quiet"),
        video,
        _held_out(views, len(listed)) if views else None,
        id="splats",
    )


def _legend() -> Markup:
    return tag("span", "rendered from the splats, away from the cameras", class_="legend")


def _summary(facts: Facts) -> str:
    told = []
    metrics = facts.metrics
    if "gaussians" in metrics:
        told.append(plural(round(metrics["gaussians"]), "Gaussian"))
    if "held_out_psnr_db" in metrics:
        like = f"{metrics['held_out_psnr_db']:.1f} dB"
        if "held_out_ssim" in metrics:
            like += f" and SSIM {metrics['held_out_ssim']:.3f}"
        told.append(f"{like} on views that training never saw")
    if "train_psnr_db" in metrics:
        told.append(f"{metrics['train_psnr_db']:.1f} dB on the others")
    return " · ".join(told)


def _held_out(views: list[_View], count: int) -> list[Markup]:
    figures = []
    for view in views:
        height, width = view.strip.shape[:2]
        said = f"Frame {view.frame}: {view.psnr_db:.1f} dB, SSIM {view.ssim:.3f}"
        alt = f"Photograph, splats and their difference at frame {view.frame}"
        picture = tag("img", src=jpeg_uri(view.strip, 84), alt=alt, width=width, height=height)
        figures.append(
            tag("figure", picture, tag("figcaption", said), class_="card strip-of-three")
        )
    shown = "" if len(views) == count else f"; {amount(len(views))} of {amount(count)} are shown"
    return [
        tag("h3", "Views that training never saw"),
        tag("p", f"Photograph · splats · difference, three times as strong{shown}", class_="quiet"),
        tag("div", figures, class_="strips"),
    ]


def _listed(folder: Path) -> list[dict[str, Any]]:
    path = folder / "held_out.json"
    try:
        if path.stat().st_size > MOST_BYTES:
            return []
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _read(folder: Path, row: dict[str, Any]) -> _View | None:
    """Read the image of a row; None if anything about it is invalid."""
    frame = row.get("frame")
    figures = [row.get("psnr_db"), row.get("ssim")]
    real = all(isinstance(f, int | float) and math.isfinite(f) for f in figures)
    if not real or not isinstance(frame, int) or isinstance(frame, bool) or frame < 0:
        return None
    # The path is built from the number: a name in the file could lead out of the folder.
    path = folder / "splats" / f"held_out_{frame:06d}.jpg"
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return None
    image = cv2.imread(str(path))
    if image is None:
        return None
    if image.shape[1] > STRIP_WIDTH:
        height = max(1, round(image.shape[0] * STRIP_WIDTH / image.shape[1]))
        image = cv2.resize(image, (STRIP_WIDTH, height), interpolation=cv2.INTER_AREA)
    strip: Any = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return _View(frame, float(figures[0]), float(figures[1]), strip)
