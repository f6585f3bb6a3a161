"""Live cameras over RTSP, through PyAV (FFmpeg) and always over TCP.

Reads until it is stopped, or for `for_s`. What the chain is too slow for is dropped and counted,
the oldest first. A lost connection is made again and begins a new shot; times go on rising by
the time that passed. A user and password in the address are shown nowhere; they may also come
from a file (`pipeline.sources.urls`).
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.contract import Reader, Source, Stage
from pipeline.errors import SourceError
from pipeline.sources import CAMERAS, scheme, with_login
from stages.decode._camera.options import Config
from stages.decode._camera.reader import CameraReader
from stages.decode._error_text import named

__all__ = ["Model"]


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
