"""Video files through decord, for those who have it: the same frames as `pyav`.

decord 0.6 (2021) carries an old FFmpeg: it knows 8-bit YUV only, and neither AV1 nor HDR. What it
cannot read right is refused. Checks, times and order come from the packets, as with `pyav`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from pipeline.contract import Context, Reader, Source, Stage
from pipeline.errors import SourceError, require
from stages.decode._error_text import named
from stages.decode._images.reader import StillImage
from stages.decode._options import VideoOptions
from stages.decode._video.gap_report import GapReport, Reporter
from stages.decode._video.reader import VideoReader

__all__ = ["Config", "Model"]

FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
STREAMS = frozenset({"mpeg", "mpegts", "mpegvideo"})
BATCH = 8
"""Frames fetched at once; decord copies them together."""


class Config(VideoOptions):
    """Options of `decode/decord`."""

    @model_validator(mode="after")
    def _one_view(self) -> Self:
        if self.stereo != "none":
            raise ValueError(
                "decord scales frames before they can be cut in two, which mixes the views at the "
                "seam; use decode.model=pyav for stereo"
            )
        return self


class Model(Stage[Config]):
    """Reads a video file through decord."""

    isolated = True
    deadline_s = 120.0

    def open(self, context: Context) -> None:
        """Load decord and silence it.

        Raises:
            UsageError: decord is not installed.
        """
        super().open(context)
        decord = require("decord", extra="decord")
        decord.logging.set_level(decord.logging.QUIET)

    def process(self, source: Source) -> Reader:
        """Open a video file.

        Raises:
            SourceError: It is missing, no video, beyond the limits, or not for decord.
        """
        return DecordReader(
            source, self.config, Reporter(self.warn, self.lost), threads=self.context.threads
        )


class DecordReader(VideoReader):
    """A video whose pictures come from decord; packets are read as by `pyav`."""

    def _prepare(self) -> None:
        super()._prepare()
        decord: Any = require("decord", extra="decord")
        self._trouble = decord.DECORDError
        best = self._container.streams.best("video")
        index = self._index
        if self.probe.pixel_format not in FORMATS:
            self._refuse(f"its pixel format is {self.probe.pixel_format}")
        if self._container.format.name in STREAMS:
            self._refuse("in MPEG streams it delivers other frames after a seek")
        if best is None or best.index != self._stream.index:
            self._refuse("decord reads the best video stream only, and decode.stream names another")
        if index is None:
            self._refuse("its frames have no clear times")
            raise AssertionError
        width, height = self.probe.width, self.probe.height
        try:
            self._decord = decord.VideoReader(
                self.source.uri,
                ctx=decord.cpu(0),
                width=width,
                height=height,
                num_threads=self._threads,
            )
        except self._trouble:
            self._refuse("decord does not open it")
        if not len(self._decord) == len(index.pts) == len(index.shown):
            # Frames that an edit list hides: decord counts them and delivers others.
            self._refuse(f"decord counts {len(self._decord)} frames, of {len(index.shown)}")

    def _refuse(self, why: str) -> None:
        raise SourceError(
            f"decord cannot read {named(self.source)} right: {why}; use decode.model=pyav"
        )

    def _deliver(self, ranks: npt.NDArray[np.int64], gaps: GapReport) -> Generator[Any]:
        try:
            for part in np.split(ranks, range(BATCH, len(ranks), BATCH)):
                for rank, image in zip(part.tolist(), self._fetch(part.tolist()), strict=False):
                    gaps.mark_decoded(rank)
                    yield StillImage(
                        image,
                        index=rank,
                        pts_ns=int(self._pts_ns[rank]),
                        keyframe=bool(self._keyframe[rank]),
                    )
                if part[-1] in gaps.missing:
                    gaps.record_failure("decord stops at damaged data")
                    return
        finally:
            gaps.report()

    def _fetch(self, ranks: list[int]) -> list[npt.NDArray[np.uint8]]:
        """Return the frames up to the first that cannot be decoded."""
        try:
            return list(self._decord.get_batch(ranks).asnumpy())
        except self._trouble:
            if len(ranks) == 1:
                return []
        images: list[npt.NDArray[np.uint8]] = []
        for rank in ranks:
            one = self._fetch([rank])
            if not one:
                break
            images += one
        return images
