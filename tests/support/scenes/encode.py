"""Write pictures as a video file with exact timestamps, or as a folder of images."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def encode(
    path: str | Path,
    images: Iterable[np.ndarray],
    pts_ns: np.ndarray | None = None,
    *,
    fps: float | Fraction = 30,
    codec: str = "libx264",
    crf: int | None = 18,
    gop: int = 30,
    bframes: int = 2,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    sar: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> np.ndarray:
    """Encode RGB ``uint8 [H, W, 3]`` images; the suffix chooses the container.

    Args:
        path: File to write; its suffix names the container (.mp4, .mkv, .avi, .ts ...).
        images: One after the other, all of one shape; H and W even for yuv420p.
        pts_ns: Increasing times, any spacing; None means a constant ``fps``.
        fps: Rate where ``pts_ns`` is None, and the rate the stream declares.
        codec: Encoder of FFmpeg's, e.g. "libx264", "libx265", "mpeg4", "ffv1".
        crf: Quality, or None where the encoder has none.
        gop: Frames from one keyframe to the next.
        bframes: Most B-frames in a row.
        pix_fmt: What is stored.
        rotation: Degrees clockwise by which a player turns the picture (.mp4 and .mov only).
        sar: Width by height of a pixel; None is square.
        options: More of the encoder's own options.

    Returns:
        ``int64 [T]`` ns: the times as the container keeps them. Matroska keeps milliseconds;
        times at a constant ``fps`` are exact in .mp4, others are kept to a microsecond.
    """
    path = Path(path)
    rate = Fraction(fps).limit_denominator(100_000)
    tick = Fraction(1, 1_000_000) if pts_ns is not None else 1 / (rate * 512)
    if path.suffix in (".mkv", ".webm"):
        tick = Fraction(1, 1000)
    settings = {"bf": str(bframes), **({} if crf is None else {"crf": str(crf)})}
    ticks = []
    with av.open(str(path), "w", options=_muxer(path, tick)) as container:
        stream = container.add_stream(codec, rate=rate, options=settings | (options or {}))
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        stream.time_base = context.time_base = tick
        context.gop_size = gop
        if sar is not None:
            context.sample_aspect_ratio = sar
        for i, image in enumerate(images):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            seconds = i / rate if pts_ns is None else Fraction(int(pts_ns[i]), 10**9)
            ticks.append(round(seconds / tick))
            frame.pts, frame.time_base = ticks[-1], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotation:
        _turn(path, rotation)
    return np.array([round(n * tick * 10**9) for n in ticks], np.int64)


def save_images(
    folder: str | Path, images: Iterable[np.ndarray], suffix: str = ".png"
) -> list[Path]:
    """Write RGB images as 000000.png, 000001.png, ... and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, image in enumerate(images):
        paths.append(folder / f"{i:06d}{suffix}")
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return paths


def _muxer(path: Path, tick: Fraction) -> dict[str, str]:
    if path.suffix in (".mp4", ".mov") and tick.numerator == 1:
        # The edit list counts the first frame's delay in ticks of the movie: 1/1000 by default.
        return dict.fromkeys(("video_track_timescale", "movie_timescale"), str(tick.denominator))
    return {}


def _turn(path: Path, degrees: int) -> None:
    """Write the display matrix of the first track (ISO 14496-12, 8.3.2), as a phone does."""
    quarter = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    if degrees % 360 not in quarter or path.suffix not in (".mp4", ".mov"):
        raise ValueError(f"{degrees = } in {path.suffix}: 90, 180 or 270 in .mp4 or .mov only")
    a, b, c, d = (n << 16 for n in quarter[degrees % 360])
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    at = header + (52 if data[header] == 1 else 40)
    data[at : at + 36] = matrix
    path.write_bytes(data)
