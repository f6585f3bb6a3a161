"""Options of live cameras."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from stages.decode._options import PackedOptions


class Config(PackedOptions):
    """Options of `decode/rtsp`."""

    for_s: float | None = Field(
        None, gt=0, description="stop by itself so long after the first picture; unset: never"
    )
    connect_s: float = Field(
        10.0, ge=0.1, le=50, description="longest wait for the camera to answer, s"
    )
    read_s: float = Field(
        5.0, ge=0.1, le=50, description="a camera that sends nothing for so long is connected anew"
    )
    retry_first_s: float = Field(
        0.25, ge=0.01, le=3600, description="wait before the connection is made again; it doubles"
    )
    retry_longest_s: float = Field(
        2.5, ge=0.01, le=3600, description="longest such wait, s; 30 after a refused password"
    )
    give_up_s: float | None = Field(
        None, gt=0, description="end when no picture came for so long; unset: never"
    )
    buffer_frames: int = Field(
        120, ge=2, le=10_000, description="pictures that may wait for the chain; then oldest go"
    )
    buffer_mb: int = Field(256, ge=8, le=65_536, description="memory for the pictures that wait")
    max_fps: float = Field(240.0, gt=0, le=1000, description="drop what comes faster than this")

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if self.retry_longest_s < self.retry_first_s:
            raise ValueError(
                f"retry_longest_s ({self.retry_longest_s:g}) must be at least retry_first_s "
                f"({self.retry_first_s:g})"
            )
        return self
