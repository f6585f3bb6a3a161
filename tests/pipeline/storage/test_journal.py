"""What a killed driver has written down, whole or torn."""

import json
from pathlib import Path

import pytest

from pipeline.contract import Loss
from pipeline.storage.journal import ClipRecord, Journal

KEY = "decode+sample"
FLOW = "key of flow"


def written(path: Path) -> Journal:
    """Write down three clips, of which flow has dealt with two and lost one of these."""
    journal = Journal(path, KEY)
    journal.begin(journal.read(), 0)
    for number in range(3):
        journal.clip(number, {"index": [number]})
    journal.processed(ClipRecord("flow/dis", FLOW, 0, 0.5))
    journal.processed(ClipRecord("flow/dis", FLOW, 1, 0.25, Loss(what="b", why="bad")))
    journal.skipped("key of segment", 2)
    journal.total(3)
    return journal


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path).close()
    standing = Journal(path, KEY).read()
    assert standing.clips == [{"index": [number]} for number in range(3)]
    assert standing.processed[FLOW][0] == ClipRecord("flow/dis", FLOW, 0, 0.5)
    lost = standing.processed[FLOW][1].lost
    assert lost is not None
    assert (lost.what, lost.why) == ("b", "bad")
    assert standing.skipped == {"key of segment": {2}}
    assert standing.total == 3


def test_the_journal_of_other_work_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path).close()
    standing = Journal(path, "another sampler").read()
    assert not standing.clips
    assert standing.total is None


def test_a_killed_driver_has_lost_nothing_that_it_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = written(path)
    # Nobody has closed it.
    assert Journal(path, KEY).read().total == 3
    journal.close()


@pytest.mark.parametrize("torn", [2, 7, 20, 45, 200])
def test_a_torn_line_and_what_comes_after_it_count_for_nothing(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "journal.jsonl"
    written(path).close()
    text = path.read_text(encoding="utf-8")
    whole = text[: len(text) - torn].count("\n")
    path.write_text(text[: len(text) - torn], encoding="utf-8")
    standing = Journal(path, KEY).read()
    rows = [json.loads(line) for line in text.splitlines()[:whole]]
    assert len(standing.clips) == sum("clip" in row for row in rows)
    assert sum(map(len, standing.processed.values())) == sum("dealt" in row for row in rows)
    assert standing.total is None


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"clip": 7, "remembered": {}}',
        '{"clip": 3, "remembered": 3}',
        '{"dealt": {"stage": "flow/dis"}}',
        '{"dealt": {"stage": 1, "key": 2, "clip": 3, "seconds": 4, "lost": {"no": 1}}}',
        '{"passed": 1}',
        '{"total": "many"}',
        "\x00",
    ],
)
def test_a_line_that_makes_no_sense_ends_what_is_believed(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    written(path).close()
    lines = path.read_text(encoding="utf-8").splitlines()
    # Behind the clips, before all else.
    path.write_text("\n".join([*lines[:4], line, *lines[4:]]), encoding="utf-8")
    standing = Journal(path, KEY).read()
    assert len(standing.clips) == 3
    assert not standing.processed
    assert standing.total is None


def test_another_driver_goes_on_from_a_clip(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path).close()
    journal = Journal(path, KEY)
    journal.begin(journal.read(), 1)
    journal.clip(1, {"index": [10]})
    journal.close()
    standing = Journal(path, KEY).read()
    assert standing.clips == [{"index": [0]}, {"index": [10]}]
    assert list(standing.processed[FLOW]) == [0]
    assert not standing.skipped
    assert standing.total is None


def test_no_journal_and_no_text_are_no_standing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert not Journal(path, KEY).read().clips
    path.write_bytes(b"\xff\xfe\x00")
    assert not Journal(path, KEY).read().clips
    Journal(path, KEY).remove()
    assert not path.exists()
