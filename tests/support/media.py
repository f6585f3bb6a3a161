"""Small videos made on the spot, whose every frame carries its number as a bar code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from pipeline.contract import Context, Event, Loss, Reader, Source, Warn
from pipeline.contract.stage import find, options_of

Image = npt.NDArray[np.uint8]
BITS = 10
WIDTH, HEIGHT = 160, 96


def numbered(n: int, width: int = WIDTH, height: int = HEIGHT) -> Image:
    """A textured picture with `n` in `BITS` black or white bars along the top."""
    y, x = np.mgrid[:height, :width]
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = (x * 2 + 3 * n) % 200 + 20
    image[..., 1] = (y * 2 + n) % 200 + 20
    image[..., 2] = (x + y + 2 * n) % 200 + 20
    for bit in range(BITS):
        columns = slice(bit * width // BITS, (bit + 1) * width // BITS)
        image[: height // 3, columns] = 235 if n >> bit & 1 else 16
    return image


def number_of(image: Image) -> int:
    """Read the bar code of a delivered image of any size."""
    height, width = image.shape[:2]
    row = image[height // 6]
    centers = [round((bit + 0.5) * width / BITS) for bit in range(BITS)]
    return sum(int(row[c].mean() > 128) << bit for bit, c in enumerate(centers))


def write_video(
    path: Path,
    images: Iterable[Image | av.VideoFrame],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 30,
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation_deg: float = 0,
    flip: bool = False,
    aspect: Fraction | None = None,
    tags: dict[str, int] | None = None,
) -> Path:
    """Encode; `ticks` are presentation times in 1/1000 s, else one frame follows another."""
    base = Fraction(1, 1000) if ticks is not None else Fraction(1, rate)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = None
        for i, image in enumerate(images):
            frame = (
                image
                if isinstance(image, av.VideoFrame)
                else av.VideoFrame.from_ndarray(image, format="rgb24")
            )
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=options or {})
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                stream.codec_context.time_base = base
                stream.codec_context.thread_count = 1
                for name, value in (tags or {}).items():
                    setattr(stream.codec_context, name, value)
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                if rotation_deg or flip:
                    stream.set_display_rotation(rotation_deg, hflip=flip)
            frame.pts = ticks[i] if ticks is not None else i
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def full_decode(path: Path) -> list[av.VideoFrame]:
    """Every frame of the best video stream in presentation order: the reference."""
    with av.open(str(path)) as container:
        return list(container.decode(container.streams.best("video")))


class Told:
    """What a stage reported."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Warn)]

    @property
    def losses(self) -> list[tuple[str, str]]:
        return [(event.what, event.why) for event in self.events if isinstance(event, Loss)]


def read(path: Path | str, model: str = "pyav", told: Told | None = None, **options: Any) -> Reader:
    """Open a source with a reader."""
    stage = find("decode", model)(options_of("decode", model)(**options))
    stage.open(Context(report=(told or Told()).events.append))
    return stage.process(Source(uri=str(path), shown=Path(path).name, name="clip"))


def sample(reader: Reader, model: str, *, seed: int = 0, **options: Any) -> list[Any]:
    """Take all clips of a reader."""
    stage = find("sample", model)(options_of("sample", model)(**options))
    stage.open(Context(seed=seed))
    return list(stage.process(reader))
