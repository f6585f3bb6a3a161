"""Costs that were measured on this machine before, or are measured now and kept."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.capacity.cost_model import Costs
from pipeline.config import RunConfig
from pipeline.errors import OutputError
from pipeline.version import version

__all__ = ["kept_costs"]

SECONDS = 8.0
"""Length of the synthetic video, and at most of one that is given."""


def kept_costs(
    config: RunConfig,
    *,
    width: int,
    height: int,
    fps: float,
    film: Path | None,
    again: bool,
    say: Callable[[str], None],
) -> tuple[Costs, str]:
    """Return the costs of a chain, and the file that holds them.

    Args:
        config: The chain; its source is a video.
        width: Of the planned streams, px.
        height: Of the planned streams, px.
        fps: Of the planned streams.
        film: Video to measure on; None for a synthetic one.
        again: Measure even where they are cached.
        say: Takes what a user should know.

    Raises:
        Reel3dError: They cannot be measured, or not be kept.
    """
    about = [
        {**config.as_tree(), "run": config.run.model_dump(mode="json")},
        (width, height, fps),
        [str(film.resolve()), film.stat().st_mtime_ns] if film else None,
        version(),
        [platform.machine(), len(os.sched_getaffinity(0))],
    ]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]
    root = os.environ.get("REEL3D_CACHE", "")
    folder = (Path(root) if root else Path.home() / ".cache" / "reel3d") / "costs"
    path = folder / f"{Path(config.preset).stem}-{width}x{height}-{fps:g}fps-{key}.json"
    if path.is_file() and not again:
        return Costs.read(path), str(path)
    what = film.name if film else f"a synthetic video of {SECONDS:g} s"
    say(f"measuring what the stages cost on this machine, with {what} ...")
    costs = _measured(config, width, height, fps, film)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(costs.as_json(), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"the costs cannot be kept in {folder} ({error.strerror}); let REEL3D_CACHE name a "
            "folder that can be written"
        ) from None
    return costs, str(path)


def _measured(config: RunConfig, width: int, height: int, fps: float, film: Path | None) -> Costs:
    from pipeline.capacity.calibration import make_film, measure

    with tempfile.TemporaryDirectory(prefix="reel3d-film-") as folder:
        if film is not None:
            return measure(_beginning(config), film, film, alone=False)
        large, small = Path(folder) / "large.mp4", Path(folder) / "small.mp4"
        # H.264 takes even sides only.
        sides = (max(16, side // 2 * 2) for side in (width, height))
        halves = (max(16, side // 4 * 2) for side in (width, height))
        for path, (wide, high) in ((large, sides), (small, halves)):
            make_film(path, width=wide, height=high, fps=fps, seconds=SECONDS)
        return measure(config, large, small, alone=False)


def _beginning(config: RunConfig) -> RunConfig:
    """Return the same chain for the first seconds of a video."""
    decode, *others = config.choices
    options = decode.options.model_copy(update={"end_s": SECONDS})
    return replace(config, choices=(replace(decode, options=options), *others))
