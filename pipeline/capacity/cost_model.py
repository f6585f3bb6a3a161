"""What the stages of a chain cost, as plain data that can be carried from machine to machine.

A file of costs is what `reel3d plan --measure` writes; every figure may be edited, and those of a
GPU stage are written by hand::

    {"reel3d_costs": 1, "made_on": "...", "film": {...}, "runtime": {...},
     "stages": {"flow/dis": {"clip": {"per_frame_s": 0.001, "per_megapixel_s": 0.06}, ...}}}

CPU seconds are of one core of the machine that was measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipeline.contract import Options
from pipeline.errors import UsageError, did_you_mean

__all__ = ["Costs", "FilmCosts", "LinearCost", "OutputSize", "RuntimeCosts", "StageCosts"]

LARGEST_FILE_BYTES = 1 << 20
FORMAT = 1


class LinearCost(Options):
    """Seconds of one call, as a function of its frames and their size."""

    per_call_s: float = Field(default=0.0, ge=0, description="whatever the call holds")
    per_frame_s: float = Field(default=0.0, ge=0, description="for every frame")
    per_megapixel_s: float = Field(default=0.0, ge=0, description="for every million pixels")

    def seconds(self, frames: float, megapixels: float) -> float:
        """Return the seconds for so many frames of a size (megapixels of one frame)."""
        each_s = self.per_frame_s + megapixels * self.per_megapixel_s
        return self.per_call_s + frames * each_s

    def times(self, share: float) -> LinearCost:
        """Return the law with what a call holds anyway shrunk."""
        return self.model_copy(update={"per_call_s": self.per_call_s * share})


class OutputSize(Options):
    """Messages of one type that a call makes."""

    share: float = Field(default=1.0, ge=0, le=1, description="calls that make one")
    per_pixel_bytes: float = Field(
        default=0.0, ge=0, description="bytes for every pixel of every frame"
    )
    per_call_bytes: float = Field(default=0.0, ge=0, description="bytes, whatever the size")

    def nbytes(self, frames: float, megapixels: float) -> int:
        """Return the bytes of one message."""
        return int(self.per_call_bytes + self.per_pixel_bytes * frames * megapixels * 1e6)


class StageCosts(Options):
    """What one stage costs."""

    clip: LinearCost = Field(default=LinearCost(), description="CPU seconds of a clip")
    gpu: LinearCost = Field(
        default=LinearCost(), description="GPU seconds of a clip, after those of CPU"
    )
    end: LinearCost = Field(
        default=LinearCost(),
        description="CPU seconds once a stream (finish, poses, splats); frames are those of all",
    )
    end_gpu: LinearCost = Field(default=LinearCost(), description="GPU seconds once a stream")
    start_s: float = Field(default=1.0, ge=0, description="CPU seconds until a worker is up")
    width: float = Field(default=1.0, gt=0, le=1024, description="cores that a call keeps busy")
    makes: dict[str, OutputSize] = Field(default={}, description="of a clip, by message")
    ends: dict[str, OutputSize] = Field(default={}, description="at the end, by message")


class FilmCosts(Options):
    """What the sampler selects of a video; it depends on the content of the video."""

    width: int = Field(ge=16, le=16384, description="of the measured video, px")
    height: int = Field(ge=16, le=16384, description="of the measured video, px")
    fps: float = Field(gt=0, le=1000, description="of the measured video")
    clip_s: float = Field(gt=0, le=3600, description="seconds of video in a clip")
    clip_frames: float = Field(ge=1, le=1024, description="sampled frames in a clip")
    max_side: int = Field(
        default=960, ge=16, description="longest side of the delivered frames, px"
    )


class RuntimeCosts(Options):
    """What Ray and the driver add; the defaults were measured (`benchmarks/plan.py`)."""

    driver_call_s: float = Field(
        default=0.0015, ge=0, description="the driver's own time for one call: half on sending"
    )
    worker_call_s: float = Field(
        default=0.004, ge=0, description="CPU seconds beside the stage's own"
    )
    per_byte_s: float = Field(
        default=1.0e-9, ge=0, description="CPU seconds for a byte that is stored"
    )
    start_s: float = Field(
        default=1.2, ge=0, description="CPU seconds of Ray's own until a worker is up"
    )
    start_wait_s: float = Field(default=0.3, ge=0, description="seconds until it is asked to be")
    driver_stream_s: float = Field(
        default=0.05, ge=0, description="the driver's own time for the end of a stream"
    )
    contention: float = Field(
        default=1.0,
        ge=1,
        le=8,
        description="how much longer a task takes where all cores are busy",
    )


class Costs(Options):
    """All of it."""

    reel3d_costs: int = Field(
        default=FORMAT, ge=FORMAT, le=FORMAT, description="format of this file"
    )
    made_on: str = Field(default="", max_length=300, description="machine, for people")
    film: FilmCosts
    runtime: RuntimeCosts = RuntimeCosts()
    stages: dict[str, StageCosts] = Field(description="by name, `decode/pyav` within the sampler's")

    def of(self, name: str) -> StageCosts:
        """Return the costs of a stage.

        Raises:
            UsageError: They are not known.
        """
        if name not in self.stages:
            raise UsageError(
                f"there are no costs of {name}; there are those of "
                f"{', '.join(sorted(self.stages)) or 'no stage'}{did_you_mean(name, self.stages)}; "
                "measure them with --measure on a machine that runs it, or add them to the file"
            )
        return self.stages[name]

    def shortened(self, share: float) -> Costs:
        """Return the costs of streams of which only a part is simulated.

        What a stream costs once shrinks alike, so that clips and streams keep their proportion.
        """
        stages = {
            name: stage.model_copy(
                update={
                    "start_s": stage.start_s * share,
                    "end": stage.end.times(share),
                    "end_gpu": stage.end_gpu.times(share),
                }
            )
            for name, stage in self.stages.items()
        }
        once = {
            "start_s": self.runtime.start_s * share,
            "start_wait_s": self.runtime.start_wait_s * share,
            "driver_stream_s": self.runtime.driver_stream_s * share,
        }
        runtime = self.runtime.model_copy(update=once)
        return self.model_copy(update={"stages": stages, "runtime": runtime})

    def as_json(self) -> str:
        """Return the content of a file of costs, for people too."""
        tree: Any = self.model_dump(mode="json")
        return json.dumps(_rounded(tree), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Costs:
        """Read a file of costs.

        Raises:
            UsageError: There is none, or it is not allowed.
        """
        try:
            if path.stat().st_size > LARGEST_FILE_BYTES:
                raise UsageError(f"{path} is larger than 1 MiB: no file of costs")
            tree = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"there is no file of costs {path}; `reel3d plan --measure` prints where it leaves "
                "the one that it writes"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} cannot be read as costs (JSON): {error}") from None
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise UsageError(
                f"{path}: {where} is not allowed: {first['msg']}; `reel3d plan --measure` writes "
                "an example"
            ) from None


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}  # pyright: ignore[reportUnknownVariableType]
    return float(f"{tree:.4g}") if isinstance(tree, float) else tree
