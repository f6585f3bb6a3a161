"""The run folder: names, fingerprints, kept messages, the ledger."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.atomic import replacing, replacing_folder
from pipeline.contract import Actions, Loss
from pipeline.errors import OutputError
from pipeline.storage.run_folder import Entry, RunFolder, clean_name, fingerprint, free_folder
from pipeline.telemetry import Meter


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("holiday", "holiday"),
        ("my film (1)", "my_film_1"),
        ("../../etc/passwd", "etc_passwd"),
        (".hidden", "hidden"),
        ("line\nbreak\t'\"", "line_break"),
        ("übung", "übung"),
        ("🎬", "source"),
        ("", "source"),
        ("a" * 300, "a" * 80),
    ],
)
def test_names_are_cleaned(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


def test_a_free_folder_is_found(tmp_path: Path) -> None:
    assert free_folder(tmp_path, "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").symlink_to("nowhere")
    assert free_folder(tmp_path, "a") == tmp_path / "a-3"


def test_a_fingerprint_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    content = bytearray(np.random.default_rng(0).integers(0, 255, 9_000_000, np.uint8))
    one.write_bytes(content)
    two.write_bytes(content)
    assert fingerprint(one) == fingerprint(two)
    content[-1] ^= 1
    two.write_bytes(content)
    assert fingerprint(one) != fingerprint(two)
    two.write_bytes(content + b"x")
    assert fingerprint(one) != fingerprint(two)


def test_a_folders_fingerprint_follows_names_and_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    first = fingerprint(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    second = fingerprint(tmp_path)
    (tmp_path / "a").write_text("3")
    assert len({first, second, fingerprint(tmp_path)}) == 3


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "stale").touch()
    with replacing_folder(tmp_path / "f") as temporary:
        (temporary / "fresh").touch()
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["fresh"]


Opener = Callable[..., RunFolder]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Open `tmp_path/run`, as often as a test wants; each is closed before the next."""
    folders: list[RunFolder] = []

    def open_(*, resume: bool) -> RunFolder:
        for folder in folders:
            folder.close()
        folders.append(RunFolder.create(tmp_path / "run", resume=resume))
        return folders[-1]

    yield open_
    for folder in folders:
        folder.close()


def actions() -> Actions:
    return Actions(
        start_ns=np.array([1, 5], np.int64),
        end_ns=np.array([4, 9], np.int64),
        score=np.array([0.5, 1], np.float32),
        label=("pan-left", "static"),
        kind=("camera", "camera"),
        model=("action/motion",) * 2,
    )


def test_a_kept_message_comes_back_equal(opened: Opener) -> None:
    folder = opened(resume=False)
    again = folder.kept(folder.keep("action/motion", "k" * 64, actions()))
    assert isinstance(again, Actions)
    assert again.label == ("pan-left", "static")
    np.testing.assert_array_equal(again.end_ns, [4, 9])


def test_the_ledger_survives_and_a_changed_file_counts_as_undone(opened: Opener) -> None:
    folder = opened(resume=False)
    (folder.path / "a.txt").write_text("x")
    meter = Meter(items=3, losses=[Loss(what="clip", why="poison")])
    made = Entry("key", "made", meter, [], [folder.describe("a.txt", "text")])
    folder.record("export/a", made)
    again = opened(resume=True)
    entry = again.done("export/a", "key")
    assert entry == made
    assert again.done("export/a", "another key") is None
    (folder.path / "a.txt").write_text("y")
    assert again.done("export/a", "key") is None
    again.forget("export/a")
    assert not (folder.path / "a.txt").exists()


def test_a_ledger_and_manifest_of_before_the_new_spelling_are_read(
    opened: Opener, tmp_path: Path
) -> None:
    folder = opened(resume=False)
    (folder.path / "a.txt").write_text("x")
    meter = Meter(items=3, artifacts={"a.txt": "text"})
    made = Entry("key", "made", meter, [], [folder.describe("a.txt", "text")])
    folder.record("export/a", made)
    folder.write_json("manifest.json", {"artifacts": made.artifacts, "exit_code": 0})
    assert not opened(resume=True).has_old_names
    for file in (tmp_path / "run" / ".reel3d" / "ledger.json", tmp_path / "run" / "manifest.json"):
        file.write_text(file.read_text().replace('"artifacts"', '"artefacts"'))
    again = opened(resume=True)
    assert again.has_old_names
    assert again.done("export/a", "key") == made
    assert again.manifest() == {"artifacts": made.artifacts, "exit_code": 0}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', '{"x": {"meter": {"losses": 3}}}'])
def test_a_damaged_ledger_proves_nothing(opened: Opener, tmp_path: Path, text: str) -> None:
    opened(resume=False)
    (tmp_path / "run" / ".reel3d" / "ledger.json").write_text(text)
    assert opened(resume=True).entries == {}


def test_the_ledger_cannot_delete_outside_the_folder(opened: Opener, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    opened(resume=False)
    evil = {"path": "../victim", "kind": "x", "bytes": 1, "sha256": "0"}
    entry = {"key": "k", "state": "made", "meter": {"losses": []}, "kept": [], "artifacts": [evil]}
    ledger = tmp_path / "run" / ".reel3d" / "ledger.json"
    ledger.write_text(json.dumps({"export/x": entry}))
    folder = opened(resume=True)
    folder.forget("export/x")
    assert victim.read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        RunFolder.create(tmp_path / "run", resume=False)
    with pytest.raises(OutputError, match="holds no run to resume"):
        RunFolder.create(tmp_path / "run", resume=True)
