"""What every reader can be told: the delivered size, a span of time, and limits on the input."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline.contract import Options
from stages.decode._stereo_packing import Layout

__all__ = ["DecodeOptions", "PackedOptions", "VideoOptions"]


class DecodeOptions(Options):
    """Options of all readers."""

    max_side: int = Field(
        960, ge=32, le=8192, description="longest side of the delivered images, px; never upscales"
    )
    max_pixels: int = Field(
        8192 * 4320, ge=256, description="refuse pictures of more pixels than this (8K)"
    )


class PackedOptions(DecodeOptions):
    """Options of the readers of frames that may hold two views."""

    stereo: Layout = Field(
        "none",
        description="frames hold both views of a rectified stereo pair, each at its full size (not "
        "squeezed to a half): the left or the top one is the picture, the other goes with it for "
        "depth/stereo",
    )


class VideoOptions(PackedOptions):
    """Options of the readers of video files."""

    start_s: float = Field(0.0, ge=0, description="skip what comes before this time")
    end_s: float | None = Field(None, gt=0, description="skip what comes from this time on")
    stream: int | None = Field(
        None, ge=0, description="number of the stream in the file; the best video stream if unset"
    )
    max_duration_s: float = Field(6 * 3600.0, gt=0, description="refuse longer videos")
    max_fps: float = Field(1000.0, gt=0, description="refuse higher frame rates")
    max_streams: int = Field(64, ge=1, description="refuse files with more streams")

    @model_validator(mode="after")
    def _span(self) -> Self:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s ({self.end_s:g}) must lie after start_s ({self.start_s:g})")
        return self
