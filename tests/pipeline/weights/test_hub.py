"""Checkpoints of a hub: fetched whole, held to their hashes, used only under a license."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.errors import UsageError
from pipeline.weights import licenses
from pipeline.weights.files import UNKNOWN, bring, fault_of, identity_of, sha256_of
from pipeline.weights.hub import Checkpoint, Known, checkpoint, hub_cache
from tests.support.checkpoints import save_video
from tests.support.hub_server import COMMIT, Hub, serving
from tests.support.scenes import alone, encode

NAME = "someone/tiny-videomae"
Serve = Callable[..., Hub]


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cached, nothing agreed to, nobody forbids anything."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("REEL3D_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(**options: Any) -> Hub:
            folder = tmp_path / "repository"
            if not folder.exists():
                save_video(folder, "videomae")
                (folder / "evil.py").write_text("raise SystemExit('code was run')")
                card = options.pop("card", "---\nlicense: mit\n---\n# A card\n")
                (folder / "README.md").write_text(card)
            hub = stack.enter_context(serving(Hub(folder, NAME, **options)))
            monkeypatch.setenv("HF_ENDPOINT", hub.address)
            return hub

        yield start


def wanted(name: str = NAME, known: tuple[Known, ...] = ()) -> Checkpoint:
    return checkpoint(
        name, task="action recognition", known=known, instead="x.model=y", option="x.checkpoint"
    )


def test_a_checkpoint_is_fetched_once_without_its_code(serve: Serve) -> None:
    hub = serve()
    assert not wanted().is_here
    bring(wanted(), "recognize/video_transformer")
    here = wanted()
    assert here.is_here
    assert here.path == hub_cache() / "models--someone--tiny-videomae" / "snapshots" / COMMIT
    assert sorted(p.name for p in here.path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "video_preprocessor_config.json",
    ]
    assert here.license == "mit"
    assert sha256_of(here) == hub.sha256(hub.folder / "model.safetensors")
    hub.asked.clear()
    bring(wanted(), "recognize/video_transformer")
    assert hub.asked == []


def test_a_revision_is_another_checkpoint(serve: Serve) -> None:
    serve()
    bring(wanted(f"{NAME}@refs/pr/1"), "recognize/video_transformer")
    assert wanted(f"{NAME}@refs/pr/1").is_here
    assert not wanted().is_here
    assert wanted(f"{NAME}@{COMMIT}").is_here


def test_what_was_damaged_here_is_told(serve: Serve) -> None:
    serve()
    bring(wanted(), "recognize/video_transformer")
    file = (wanted().path / "model.safetensors").resolve()
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UsageError, match=r"are damaged \(sha256 .*remove the file, then: reel3d"):
        bring(wanted(), "recognize/video_transformer")


def test_what_is_not_what_the_hub_published_is_told(serve: Serve) -> None:
    serve(lies=True)
    with pytest.raises(UsageError, match="are damaged"):
        bring(wanted(), "recognize/video_transformer")
    assert fault_of(wanted()) is not None


def test_other_settings_are_other_work(serve: Serve) -> None:
    serve()
    bring(wanted(), "recognize/video_transformer")
    before = identity_of(wanted())
    config = (wanted().path / "config.json").resolve()
    config.write_text(config.read_text() + " ")
    assert identity_of(wanted()) != before
    assert identity_of(wanted())[0] == before[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nobody/nothing", "cannot be fetched: "),
        ("no-owner", "there is no such folder, and a name on the hub is written owner/name"),
        ("../../etc/passwd", "there is no such folder"),
        ("a/b/c", "there is no such folder"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(name: str, told: str, serve: Serve) -> None:
    serve()
    with pytest.raises(UsageError) as caught:
        bring(wanted(name), "recognize/video_transformer")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gated_one_is_told(serve: Serve) -> None:
    serve(gated=True)
    with pytest.raises(UsageError, match="cannot be fetched: ") as caught:
        bring(wanted(), "recognize/video_transformer")
    assert "HF_TOKEN" in str(caught.value)


def test_one_without_weights_is_told(serve: Serve) -> None:
    hub = serve()
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        bring(wanted(), "recognize/video_transformer")


def test_parts_are_fetched_and_all_must_be_there(serve: Serve) -> None:
    hub = serve()
    whole = hub.folder / "model.safetensors"
    whole.rename(hub.folder / "model-00001-of-00002.safetensors")
    (hub.folder / "model-00002-of-00002.safetensors").write_bytes(b"more")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = hub.folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    bring(wanted(), "recognize/video_transformer")
    assert len(wanted().files) == 2
    (wanted().path / names["b"]).unlink()
    assert not wanted().is_here


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_one_line(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UsageError) as caught:
        bring(wanted(), "recognize/video_transformer")
    line = str(caught.value)
    assert "\n" not in line
    for part in (NAME, variable, f"reel3d models fetch {NAME}", "x.model=y"):
        assert part in line


def test_no_network_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"cannot be fetched: .*or take x\.model=y") as caught:
        bring(wanted(), "recognize/video_transformer")
    assert "\n" not in str(caught.value)


# Licenses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("license", "free"),
    [
        ("mit", True),
        ("MIT", True),
        ("BSD-3-Clause", True),
        ("apache-2.0", True),
        ("cc-by-4.0", True),
        ("cc-by-nc-4.0", False),
        ("other", False),
        ("openrail", False),
        (UNKNOWN, False),
        ("", False),
    ],
)
def test_which_licenses_are_free(license: str, free: bool) -> None:
    assert licenses.is_free(license) is free


def test_one_that_is_not_free_must_be_accepted_once(serve: Serve) -> None:
    serve(license="cc-by-nc-4.0", card="---\nlicense: cc-by-nc-4.0\n---\n")
    message = "under the license 'cc-by-nc-4.0', .* add --accept-license cc-by-nc-4.0 once"
    with pytest.raises(UsageError, match=message):
        licenses.check(wanted(), "recognize/video_transformer")
    licenses.accept("CC-BY-NC-4.0")
    licenses.check(wanted(), "recognize/video_transformer")
    bring(wanted(), "recognize/video_transformer")
    told = licenses.describe(wanted())
    assert told["license"] == "cc-by-nc-4.0"
    assert told["accepted"] == licenses.accepted()["cc-by-nc-4.0"]


def test_a_card_without_a_license_is_not_free(serve: Serve) -> None:
    serve(license=None, card="# no words about it\n")
    with pytest.raises(UsageError, match="license 'unknown'"):
        licenses.check(wanted(), "recognize/video_transformer")
    licenses.accept(UNKNOWN)
    bring(wanted(), "recognize/video_transformer")
    assert wanted().license == UNKNOWN


def test_what_a_stage_knows_goes_before_the_card() -> None:
    known = (Known(name=NAME, license="cc-by-nc-4.0", nbytes=1),)
    with pytest.raises(UsageError, match=r"cc-by-nc-4\.0"):
        licenses.check(wanted(known=known), "recognize/video_transformer")


@pytest.mark.parametrize(
    ("card", "license"),
    [
        (None, UNKNOWN),
        ("---\nlicense: other\nlicense_name: apple-amlr\n---\n", "apple-amlr"),
        ("---\n: [\n---\n", UNKNOWN),
        ("---\nlicense: MIT\n---\n", "mit"),
    ],
)
def test_a_folder_of_ones_own_speaks_by_its_card(
    card: str | None, license: str, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    save_video(folder, "videomae")
    if card is not None:
        (folder / "README.md").write_text(card)
    own = wanted(str(folder))
    assert own.is_own
    assert own.license == license
    if license in (UNKNOWN, "mit"):
        licenses.check(own, "recognize/video_transformer")
    else:
        with pytest.raises(UsageError, match="apple-amlr"):
            licenses.check(own, "recognize/video_transformer")


@pytest.mark.parametrize("license", ["", "a b", "../x", "-x"])
def test_a_license_that_is_no_name_is_told(license: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a license"):
        licenses.accept(license)


def test_a_spoiled_memory_of_licenses_is_told(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "licenses.json").write_text("{")
    with pytest.raises(UsageError, match="remove it and agree again"):
        licenses.accepted()


def test_a_run_says_what_it_rests_on(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: asked, refused, accepted, fetched, run, and written down."""
    hub = serve(license="cc-by-nc-4.0", card="---\nlicense: cc-by-nc-4.0\n---\n")
    film = tmp_path / "film.mp4"
    encode(film, alone("truck-right", seed=1).images[:20])
    out = tmp_path / "out"
    words = ["run", str(film), "--out", str(out), "--preset", "understand", "--quiet"]
    words += ["recognize.model=video_transformer", f"recognize.checkpoint={NAME}"]
    words += ["action.recognized_from=0.01", "action.recognized_while=0.01", "action.top_k=4"]
    words += ["action.recognized_s=0", "sample.model=fps", "sample.fps=15"]
    assert main(words) == 2
    assert "--accept-license cc-by-nc-4.0 once" in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()
    assert not any("safetensors" in path for path in hub.asked)
    assert main([*words, "--accept-license", "cc-by-nc-4.0"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    stage = next(s for s in manifest["stages"] if s["step"] == "recognize")
    assert stage["weights"] == [
        {
            "id": NAME,
            "sha256": sha256_of(wanted()),
            "license": "cc-by-nc-4.0",
            "accepted": licenses.accepted()["cc-by-nc-4.0"],
        }
    ]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    seen = [event for event in events if event["kind"] == "action"]
    assert {event["label"] for event in seen} == {"walking", "running", "waving", "sitting"}
    assert {event["model"] for event in seen} == {NAME}
    assert {event["model"] for event in events if event["kind"] == "camera"} == {"action/motion"}
    assert "cc-by-nc-4.0" in (out / "report.html").read_text()


def test_any_checkpoint_can_be_fetched(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve()
    assert main(["models", "fetch", NAME]) == 0
    assert f"{NAME}: fetched, {wanted().path}" in capsys.readouterr().out
    assert wanted().is_here
    assert main(["models", "fetch", "flow/rafft"]) == 2
    assert "did you mean 'flow/raft'?" in capsys.readouterr().err


def test_models_list_says_what_must_be_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "cc-by-nc-4.0 (must be accepted)" in listed
    licenses.accept("cc-by-nc-4.0")
    assert main(["models"]) == 0
    assert "cc-by-nc-4.0 (accepted)" in " ".join(capsys.readouterr().out.split())
