"""What a simulated call takes and makes, by the laws of `pipeline.capacity.cost_model`."""

from __future__ import annotations

import math
from typing import Any

from pipeline.capacity.cost_model import Costs, LinearCost, OutputSize, StageCosts
from pipeline.capacity.machines import Stored
from pipeline.capacity.workload import Workload
from pipeline.contract import Frames
from pipeline.scheduling import FINISH, Outputs, Task, WorkItem
from pipeline.worker import INLINE_BYTES, MessageRef

__all__ = ["TaskCosts"]


class TaskCosts:
    """The laws at the size of one load's frames."""

    def __init__(self, load: Workload, costs: Costs) -> None:
        """Reckon with what the sampler takes of these streams."""
        film = costs.film
        self._load = load
        self.clip_s = min(film.clip_s, load.seconds or math.inf)
        """Seconds of video in a clip."""
        self._frames = film.clip_frames * self.clip_s / film.clip_s
        self._megapixels = load.delivered_megapixels(film.max_side)
        self.clips = None if load.seconds is None else math.ceil(load.seconds / self.clip_s - 1e-9)
        """How many clips a file has; None of a camera."""

    def next(self, number: int, stage: StageCosts, place: int) -> tuple[float, Outputs]:
        """Return the CPU seconds of decoding and sampling a clip, and the clip.

        Args:
            number: Of the clip.
            stage: Costs of the sampler with its decoder.
            place: The machine.
        """
        share = self._fullness(number)
        seconds = stage.clip.seconds(self._load.fps * self.clip_s * share, self._load.megapixels)
        made = stage.makes.get("Frames", OutputSize())
        nbytes = made.nbytes(self._frames * share, self._megapixels)
        return seconds, {Frames: _packed(Frames, nbytes, place)}

    def spent(self, task: Task, stage: StageCosts, clips: int) -> tuple[float, float]:
        """Return the CPU and GPU seconds of any other task; `clips`: of its stream so far."""
        law, gpu, frames = self._law(task, stage, clips)
        return law.seconds(frames, self._megapixels), gpu.seconds(frames, self._megapixels)

    def made(self, task: Task, stage: StageCosts, place: int, clips: int) -> Outputs:
        """Return what it makes on a machine: every so-many-th call, where not each does."""
        if task.kind not in ("process", "finish"):
            return {}
        end = task.kind == "finish" or task.stage.kind == "whole_stream"
        made = stage.ends if end else stage.makes
        outputs: Outputs = {}
        for kind in task.stage.planned.link.ports.makes:
            told = made.get(kind.__name__)
            number = task.item.number if task.item is not None else 0
            if told is None or (not end and not _due(told.share, number)):
                continue
            frames = self._frames * (clips if end else 1)
            outputs[kind] = _packed(kind, told.nbytes(frames, self._megapixels), place)
        return outputs

    def _law(
        self, task: Task, stage: StageCosts, clips: int
    ) -> tuple[LinearCost, LinearCost, float]:
        item: WorkItem | None = task.item
        if task.kind == "process" and item is not None and item.number < FINISH:
            return stage.clip, stage.gpu, self._frames * self._fullness(item.number)
        whole = task.stage.kind == "whole_stream" and task.kind == "process"
        if whole or task.kind in ("finish", "report"):
            return stage.end, stage.end_gpu, self._frames * clips
        # Writing down and exporting what the end made: counted with the exporter's `finish`.
        return LinearCost(), LinearCost(), 0.0

    def _fullness(self, number: int) -> float:
        """Return how full a clip is: the last one of a file may be shorter."""
        if self.clips is None or number < self.clips - 1:
            return 1.0
        assert self._load.seconds is not None
        return self._load.seconds / self.clip_s - (self.clips - 1)


def _packed(kind: type[Any], nbytes: int, place: int) -> MessageRef:
    if nbytes < INLINE_BYTES:
        return MessageRef(kind, b"", (), (), ())
    return MessageRef(kind, b"", ("array",), (Stored(nbytes, {place}),), (nbytes,))


def _due(share: float, number: int) -> bool:
    """Spread a share of all calls evenly: 0.5 is every second one."""
    return math.floor((number + 1) * share + 1e-9) > math.floor(number * share + 1e-9)
