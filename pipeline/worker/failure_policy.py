"""What an exception costs: the whole run, a stage, or one clip. Both runners ask here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.contract import Loss
from pipeline.errors import NAMED, OutputError, PartNotMade, Reel3dError, SourceError, WorkerDied
from pipeline.worker.protocol import Failure

__all__ = ["Verdict", "judge_source", "judge_stage", "no_frames", "one_line"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a stage's exception costs."""

    costs: Literal["run", "stage", "clip"]
    """`run`: nothing can be written any more. `stage`: the stage makes nothing more of this stream.
    `clip`: the stage makes nothing of this clip."""
    state: Literal["failed", "not made"]
    """State of the stage, as the ledger records it."""
    why: str
    """Reason for the user, one line."""
    detail: str = ""
    """Traceback, for bugs."""

    @property
    def taints(self) -> bool:
        """Whether a resumed run must try again."""
        return self.state == "failed"


def judge_stage(failure: Failure, stage: str, *, one_clip: bool) -> Verdict:
    """Return what an exception of a stage costs.

    Args:
        failure: The exception.
        stage: Name of the stage.
        one_clip: Whether a stage without memory raised it on a single clip.
    """
    known = NAMED.get(failure.kind)
    if known is None:
        why = f"a bug in {stage}: {one_line(failure)}; errors.jsonl holds the traceback"
        costs = "clip" if one_clip else "stage"
        return Verdict(costs=costs, state="failed", why=why, detail=failure.detail)
    if issubclass(known, OutputError):
        return Verdict(costs="run", state="failed", why=failure.text)
    state = "not made" if issubclass(known, PartNotMade) else "failed"
    return Verdict(costs="stage", state=state, why=failure.text)


def judge_source(failure: Failure, shown: str, clips: int) -> Reel3dError | Loss:
    """Return what an exception of decoder or sampler costs: the run, or the rest of the video.

    Args:
        failure: The exception.
        shown: Name of the source, for the user.
        clips: Number of clips that were made before.
    """
    known = NAMED.get(failure.kind)
    text = failure.text if known else one_line(failure)
    if known is not None and issubclass(known, OutputError):
        return known(failure.text)
    if known is not None and not clips and not issubclass(known, WorkerDied):
        return known(failure.text)
    if not clips:
        return SourceError(f"{shown} cannot be decoded: {text}")
    return Loss(what="the rest of the video", why=f"the decoder failed there: {text}")


def no_frames(shown: str) -> SourceError:
    """Return the error of a source without a single clip."""
    return SourceError(f"{shown} holds no frame that can be decoded")


def one_line(failure: Failure) -> str:
    """Return kind and text of an exception on one line."""
    return f"{failure.kind}: {' '.join(failure.text.split())}"
