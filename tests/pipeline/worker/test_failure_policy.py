"""What an exception costs, the same in both runners."""

from __future__ import annotations

import pytest

from pipeline.contract import Loss
from pipeline.errors import OutputError, SourceError, UsageError
from pipeline.worker.failure_policy import Verdict, judge_source, judge_stage, no_frames
from pipeline.worker.protocol import Failure


def failure(kind: str, text: str = "it says why") -> Failure:
    return Failure(kind=kind, text=text, detail="Traceback ...")


def test_a_bug_on_one_clip_costs_the_clip() -> None:
    verdict = judge_stage(failure("ValueError", "two\nlines"), "flow/dis", one_clip=True)
    assert verdict == Verdict(
        costs="clip",
        state="failed",
        why="a bug in flow/dis: ValueError: two lines; errors.jsonl holds the traceback",
        detail="Traceback ...",
    )
    assert verdict.taints


def test_a_bug_elsewhere_costs_the_stage() -> None:
    assert judge_stage(failure("ValueError"), "pose/colmap", one_clip=False).costs == "stage"


def test_a_part_that_cannot_be_made_is_no_failure() -> None:
    verdict = judge_stage(failure("PartNotMade"), "pose/colmap", one_clip=False)
    assert (verdict.costs, verdict.state, verdict.why) == ("stage", "not made", "it says why")
    assert not verdict.taints
    assert verdict.detail == ""


@pytest.mark.parametrize("kind", ["WorkerDied", "UsageError", "SourceError"])
def test_an_error_with_a_message_costs_the_stage(kind: str) -> None:
    verdict = judge_stage(failure(kind), "pose/colmap", one_clip=True)
    assert (verdict.costs, verdict.state, verdict.why) == ("stage", "failed", "it says why")


def test_a_full_disk_ends_the_run() -> None:
    assert judge_stage(failure("OutputError"), "export/points", one_clip=True).costs == "run"


@pytest.mark.parametrize("kind", ["SourceError", "UsageError"])
def test_a_source_that_cannot_be_opened_keeps_its_message(kind: str) -> None:
    error = judge_source(failure(kind), "film.mp4", 0)
    assert type(error) is {"SourceError": SourceError, "UsageError": UsageError}[kind]
    assert str(error) == "it says why"


@pytest.mark.parametrize(
    ("kind", "text"), [("WorkerDied", "it says why"), ("ValueError", "ValueError: it says why")]
)
def test_a_decoder_that_dies_at_once_is_an_unusable_source(kind: str, text: str) -> None:
    error = judge_source(failure(kind), "film.mp4", 0)
    assert isinstance(error, SourceError)
    assert str(error) == f"film.mp4 cannot be decoded: {text}"


@pytest.mark.parametrize("kind", ["SourceError", "WorkerDied", "ValueError"])
def test_a_decoder_that_fails_later_costs_the_rest(kind: str) -> None:
    loss = judge_source(failure(kind), "film.mp4", 3)
    assert isinstance(loss, Loss)
    assert loss.what == "the rest of the video"
    assert loss.why.startswith("the decoder failed there: ")


def test_a_full_disk_ends_the_run_at_any_clip() -> None:
    assert isinstance(judge_source(failure("OutputError"), "film.mp4", 3), OutputError)


def test_a_source_without_frames_is_named() -> None:
    assert str(no_frames("film.mp4")) == "film.mp4 holds no frame that can be decoded"
