"""`storyboard.jpg` and `storyboard.vtt`: the video at a glance, and a player's scrub preview."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Context, Frames, Options, Stage
from stages.export._publish import publish
from stages.export._vtt import timestamp

__all__ = ["Config", "Model"]


class Config(Options):
    """How many pictures, and how large."""

    pictures: int = Field(24, ge=2, le=400, description="at most twice as many are kept")
    width: int = Field(240, ge=32, le=1024, description="width of one picture, px")
    quality: int = Field(82, ge=1, le=100, description="JPEG quality")


class Model(Stage[Config]):
    """Keeps pictures at even steps of time; the step doubles when there are too many."""

    scope: ClassVar[Literal["clip", "stream"]] = "stream"

    def open(self, context: Context) -> None:
        """Begin with no pictures."""
        super().open(context)
        self._pictures: list[tuple[int, npt.NDArray[np.uint8]]] = []
        self._step_ns = 0
        self._last_ns = -1

    def process(self, frames: Frames) -> None:
        """Keep the frames that begin a new step."""
        for t in np.flatnonzero(frames.pts_ns > self._last_ns):
            pts_ns = int(frames.pts_ns[t])
            self._last_ns = pts_ns
            if self._pictures and pts_ns < self._pictures[-1][0] + self._step_ns:
                continue
            self._pictures.append((pts_ns, self._small(frames.images[t])))
            if len(self._pictures) >= 2 * self.config.pictures:
                span_ns = self._pictures[-1][0] - self._pictures[0][0]
                self._step_ns = max(2 * self._step_ns, span_ns // self.config.pictures)
                self._thin()

    def _thin(self) -> None:
        kept = self._pictures[:1]
        for picture in self._pictures[1:]:
            if picture[0] >= kept[-1][0] + self._step_ns:
                kept.append(picture)
        self._pictures = kept

    def _small(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if self._pictures:
            size = self._pictures[0][1].shape[1::-1]
        else:
            size = (
                self.config.width,
                max(1, round(self.config.width * image.shape[0] / image.shape[1])),
            )
        small: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        # Snapshots hand it out.
        small.flags.writeable = False
        return small

    def snapshot(self) -> dict[str, Any]:
        """Return the pictures and their times."""
        return {
            "times_ns": [pts_ns for pts_ns, _ in self._pictures],
            "pictures": [picture for _, picture in self._pictures],
            "step_ns": self._step_ns,
            "last_ns": self._last_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._pictures = list(zip(state["times_ns"], state["pictures"], strict=True))
        self._step_ns, self._last_ns = state["step_ns"], state["last_ns"]

    def finish(self) -> None:
        """Write the sheet and where and when each picture is; without frames there is none."""
        if not self._pictures:
            return
        height, width = self._pictures[0][1].shape[:2]
        columns = math.ceil(math.sqrt(len(self._pictures)))
        rows = math.ceil(len(self._pictures) / columns)
        sheet = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
        cues = ["WEBVTT\n"]
        ends = [pts_ns for pts_ns, _ in self._pictures[1:]] + [self._last_ns]
        for n, (pts_ns, picture) in enumerate(self._pictures):
            y, x = n // columns * height, n % columns * width
            sheet[y : y + height, x : x + width] = picture
            start, end = pts_ns // 1_000_000, max(ends[n], pts_ns + 1_000_000) // 1_000_000
            cues.append(
                f"{timestamp(start)} --> {timestamp(end)}\n"
                f"storyboard.jpg#xywh={x},{y},{width},{height}\n"
            )
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.config.quality]
        encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), quality)[1]
        with publish(self, "storyboard.jpg", "storyboard") as path:
            path.write_bytes(encoded.tobytes())
        with publish(self, "storyboard.vtt", "storyboard times") as path:
            path.write_text("\n".join(cues), encoding="utf-8")
