"""Images for the page, from the storyboard and the preview videos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from stages.report._markup import data_uri

__all__ = ["jpeg_uri", "nearest", "storyboard", "video_frames", "video_uri"]

SEEK_AFTER_S = 10.0
"""Gap above which frames are reached by seeking, not decoding: previews have few keyframes."""

TimedImage = tuple[float, npt.NDArray[np.uint8]]
"""A time in s and an RGB image."""

CUE = re.compile(r"(\d+):(\d\d):(\d\d\.\d{3}) --> .*\nstoryboard\.jpg#xywh=(\d+),(\d+),(\d+),(\d+)")


def jpeg_uri(image: npt.NDArray[np.uint8], quality: int = 78) -> str:
    """Return an RGB image as a data URI."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return data_uri("image/jpeg", data.tobytes())


def storyboard(folder: Path) -> list[TimedImage]:
    """Return the storyboard's images in temporal order; none if it is missing or broken."""
    sheet = (
        cv2.imread(str(folder / "storyboard.jpg")) if _is_file(folder, "storyboard.jpg") else None
    )
    if sheet is None or not _is_file(folder, "storyboard.vtt"):
        return []
    rgb: Any = cv2.cvtColor(sheet, cv2.COLOR_BGR2RGB)
    pictures: list[TimedImage] = []
    text = (folder / "storyboard.vtt").read_text(encoding="utf-8", errors="replace")
    for hours, minutes, seconds, *box in CUE.findall(text):
        x, y, w, h = (int(number) for number in box)
        picture = rgb[y : y + h, x : x + w]
        if picture.size:
            time_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            pictures.append((time_s, np.ascontiguousarray(picture)))
    return pictures


def _is_file(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def nearest(pictures: list[TimedImage], time_s: float) -> npt.NDArray[np.uint8] | None:
    """Return the image shown at this time: the last one that starts by then."""
    begun = [image for start_s, image in pictures if start_s <= time_s + 1e-3]
    return begun[-1] if begun else (pictures[0][1] if pictures else None)


def video_frames(path: Path, times_s: list[float], width: int) -> list[TimedImage]:
    """Return the frames of a preview video that are shown at these ascending times.

    Distant frames are reached by seeking, since an hour of preview takes a minute to decode.
    """
    if not path.is_file():
        return []
    try:
        return list(_pick(path, times_s, width))
    except FFmpegError:
        return []


def _pick(path: Path, times_s: list[float], width: int) -> Iterator[TimedImage]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = container.decode(stream)
        held: Any = None
        ahead: Any = None
        for target in times_s:
            if target - (0.0 if held is None else held.time) > SEEK_AFTER_S:
                place = int(target / float(stream.time_base or 1))
                container.seek(place, stream=stream, backward=True)
                frames, held, ahead = container.decode(stream), None, None
            while ahead is None or ahead.time <= target + 1e-3:
                held = held if ahead is None else ahead
                ahead = next(frames, None)
                if ahead is None:
                    break
            shown = ahead if held is None else held
            if shown is not None:
                yield target, _small(shown, width)


def _small(frame: Any, width: int) -> npt.NDArray[np.uint8]:
    height = max(2, round(width * frame.height / frame.width))
    return frame.reformat(width=width, height=height, format="rgb24").to_ndarray()


def video_uri(path: Path, most_bytes: int) -> str | None:
    """Return a video as a data URI, or None if it is missing or too large."""
    if not path.is_file() or not 0 < path.stat().st_size <= most_bytes:
        return None
    return data_uri("video/mp4", path.read_bytes())
