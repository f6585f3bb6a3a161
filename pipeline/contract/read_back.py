"""Reading back what an exporter wrote, so that a format is written and read in one place.

An exporter whose `Model` has `read(folder)` is found by the name of its format::

    splats = read_back("splats", Splats, folder)     # stages/export/splats.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, runtime_checkable

from pipeline.contract.messages import Array, Message, Spec
from pipeline.contract.stage import find, options_of

__all__ = ["PosedCameras", "ReadsBack", "read_back"]

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PosedCameras(Message):
    """The cameras of a finished run, in order of time."""

    index: Annotated[Array, Spec("int64", "K")]
    """Numbers of the frames in the source, rising."""
    T_world_camera: Annotated[Array, Spec("float64", "K 4 4")]
    """Poses, camera to world coordinates, OpenCV axes, in world units."""
    intrinsics: Annotated[Array, Spec("float64", "K 3 3")]
    """Camera matrices in px of `size`."""
    size: tuple[int, int]
    """Width and height of the images, px."""
    files: tuple[str, ...]
    """Paths of the K images, relative to the run folder."""


@runtime_checkable
class ReadsBack(Protocol):
    """An exporter that also reads its format."""

    def read(self, folder: Path) -> Message:
        """Read what was written into a run folder; its content is not trusted.

        Raises:
            UsageError: It is missing or broken.
        """
        ...


def read_back(export: str, kind: type[M], folder: Path) -> M:
    """Read a format from a run folder.

    Args:
        export: Name of the exporter, such as `splats`.
        kind: Message that it reads.
        folder: The run folder.

    Raises:
        UsageError: There is no such exporter, or what it wrote is missing or broken.
        TypeError: The exporter does not read, or reads another message.
    """
    stage = find("export", export)(options_of("export", export)())
    if not isinstance(stage, ReadsBack):
        raise TypeError(f"stages/export/{export}.py does not read what it writes")
    message = stage.read(folder)
    if not isinstance(message, kind):
        raise TypeError(f"export/{export} reads {type(message).__name__}, not {kind.__name__}")
    return message
