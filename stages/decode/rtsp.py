"""Live cameras over RTSP, through PyAV (FFmpeg) and always over TCP.

Reads until it is stopped, or for `for_s`. What the chain is too slow for is dropped and counted,
the oldest first. A lost connection is made again and begins a new shot; times go on rising by
the time that passed. A user and password in the address are shown nowhere; they may also come
from a file (`pipeline.addresses`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from pipeline.addresses import CAMERAS, scheme, with_login
from pipeline.errors import SourceError
from pipeline.source import Reader, Source
from pipeline.stage import Stage
from stages.decode._camera_reader import CameraReader
from stages.decode._options import PackedOptions
from stages.decode._wording import named

__all__ = ["Config", "Model"]


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


class Model(Stage[Config]):
    """Reads a camera and keeps the connection up."""

    isolated = True
    deadline_s = 120.0

    def process(self, source: Source) -> Reader:
        """Connect to a camera.

        Raises:
            SourceError: It cannot be reached, refuses, or sends what is not allowed.
            UsageError: The credentials file cannot be read.
        """
        if scheme(source.uri) not in CAMERAS:
            raise SourceError(
                f"cannot read {named(source)} as a camera: its address must begin with rtsp:// or "
                "rtsps://; leave decode.model at auto"
            )
        with_its_login = replace(source, uri=with_login(source.uri))
        return CameraReader(with_its_login, self.config, self.warn, self.measure)
