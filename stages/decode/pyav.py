"""Video files through PyAV (FFmpeg), the default.

Times count from the container's own start, as players and the ffmpeg command count them. Colors
follow the stream's matrix and range (BT.601 where it names none, as in FFmpeg); HDR is mapped to
BT.709. Pictures come out upright, with square pixels; interlaced video is not deinterlaced.
"""

from __future__ import annotations

from pipeline.contract import Reader, Source, Stage
from stages.decode._options import VideoOptions
from stages.decode._video.gap_report import Reporter
from stages.decode._video.reader import VideoReader

__all__ = ["Config", "Model"]


class Config(VideoOptions):
    """Options of `decode/pyav`."""


class Model(Stage[Config]):
    """Reads a video file; each group of pictures is decoded at most once."""

    isolated = True
    deadline_s = 120.0

    def process(self, source: Source) -> Reader:
        """Open a video file.

        Raises:
            SourceError: It is missing, no video, damaged beyond use, or beyond the limits.
        """
        return VideoReader(
            source, self.config, Reporter(self.warn, self.lost), threads=self.context.threads
        )
