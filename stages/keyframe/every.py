"""Every n-th frame is a keyframe: for photos, and where the sampling has chosen already."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pydantic import Field

from pipeline.contract import Array, Context, Frames, Keyframes, Masks, Options, Stage
from pipeline.errors import PartNotMade
from stages.keyframe._masks import row_of, stacked_masks
from stages.keyframe._tracks import parallax_between

__all__ = ["Config", "Model"]

DTYPES = {"shot": np.int32, "sharpness": np.float32}


class Config(Options):
    """Which frames are keyframes."""

    n: int = Field(1, ge=1, le=100_000, description="every n-th sampled frame is a keyframe")
    max_keyframes: int = Field(
        400, ge=2, le=10_000, description="more keyframes than this are refused"
    )


class Model(Stage[Config]):
    """Take every n-th frame."""

    scope = "stream"

    def open(self, context: Context) -> None:
        """Start with an empty stream."""
        super().open(context)
        cv2.setNumThreads(context.threads)
        self._keyframes: list[dict[str, Any]] = []
        self._seen = 0
        self._last_index = -1
        self._metric = False
        self._baseline_m: float | None = None

    def process(self, frames: Frames, masks: Masks | None = None) -> None:
        """Keep the clip's share."""
        self._metric, self._baseline_m = frames.metric, frames.baseline_m
        for t in range(len(frames.images)):
            if frames.index[t] <= self._last_index:
                continue
            self._last_index = int(frames.index[t])
            self._seen += 1
            if (self._seen - 1) % self.config.n:
                continue
            if len(self._keyframes) == self.config.max_keyframes:
                raise PartNotMade(
                    f"every {self.config.n}. frame gives more than {self.config.max_keyframes} "
                    "keyframes: raise keyframe.n or keyframe.max_keyframes"
                )
            row: dict[str, Any] = {"shot": frames.shot}
            for name in ("pts_ns", "index", "sharpness"):
                row[name] = getattr(frames, name)[t].item()
            for name in ("images", "intrinsics", "T_world_camera", "depth", "right"):
                array = getattr(frames, name)
                if array is not None:
                    row[name] = array[t].copy()
                    row[name].flags.writeable = False
            mask = row_of(masks, frames, t)
            if mask is not None:
                row["mask"] = mask
            self._keyframes.append(row)

    def snapshot(self) -> dict[str, Any]:
        """Return what was kept and where the stream stands."""
        return {
            "kept": list(self._keyframes),
            "seen": self._seen,
            "last_index": self._last_index,
            "metric": self._metric,
            "baseline_m": self._baseline_m,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._keyframes = list(state["kept"])
        self._seen, self._last_index = state["seen"], state["last_index"]
        self._metric, self._baseline_m = state["metric"], state["baseline_m"]

    def finish(self) -> Keyframes:
        """Stack what was kept."""

        def stacked(name: str) -> Array | None:
            known = [row[name] for row in self._keyframes if name in row]
            return np.array(known, DTYPES.get(name)) if len(known) == len(self._keyframes) else None

        kept = self._keyframes
        gray = [cv2.cvtColor(row["images"], cv2.COLOR_RGB2GRAY) for row in kept]
        parallax = np.full(len(kept), np.nan, np.float32)
        for i in range(1, len(kept)):
            if kept[i]["shot"] == kept[i - 1]["shot"]:
                parallax[i] = parallax_between(gray[i - 1], gray[i])
            self.progress(i, len(kept))
        self.measure("keyframes_count", len(kept))
        fields: dict[str, Any] = {name: stacked(name) for name in kept[0] if name != "mask"}
        return Keyframes(
            **fields,
            parallax_px=parallax,
            metric=self._metric,
            baseline_m=self._baseline_m,
            masks=stacked_masks([row.get("mask") for row in kept], *gray[0].shape, self.warn),
        )
