"""The words of the command: help, options, doctor, view, and what it says to a slip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.api import make_source
from pipeline.chain import ORDER
from pipeline.cli.main import main
from pipeline.contract.stage import models, options_of

Say = pytest.CaptureFixture[str]


def test_options_lists_every_option_of_every_model_in_words(capsys: Say) -> None:
    assert main(["options"]) == 0
    told = capsys.readouterr().out
    for step in ORDER:
        for model in models(step):
            prefix = f"{step}.{model}" if step == "export" else step
            for name in options_of(step, model).model_fields:
                assert f"{prefix}.{name}=" in told
    assert "Ge(" not in told
    assert "<class" not in told


def test_options_of_one_format(capsys: Say) -> None:
    assert main(["options", "export.flow_video"]) == 0
    told = capsys.readouterr().out
    assert "export.flow_video.width=640" in told
    assert "at least 64, at most 4096" in " ".join(told.split())
    assert "depth." not in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND; see 'reel3d --help'"),
        (["fly"], "invalid choice: 'fly'"),
        (["run"], "the following arguments are required: SOURCE|step.option=value"),
        (["run", "a.mp4", "flow=dis"], "flow=dis: an option is written flow.<option>=value"),
        (["run", "a.mp4", "flow.modle=dis"], "did you mean 'model'?"),
        (["run", "a.mp4", "decode.start_s=3", "decode.end_s=2"], "decode: end_s (2) must lie"),
        (["run", "flow.model=dis"], "no source given; name a video file or a folder of images"),
        (["run", "a.mp4", "--fast"], "unrecognized argument: --fast"),
        (["run", "a.mp4", "--preset", "quick"], "there is no preset 'quick'; there are default"),
        (["run", "a.mp4", "--preset", "understnd"], "did you mean 'understand'?"),
        (["run", "a.mp4", "--config", "none.yaml"], "there is no configuration file none.yaml"),
        (["run", "a.mp4", "--config", "a", "--preset", "b"], "not allowed with argument --config"),
        (["options", "dept"], "there is no step 'dept'; there are run, decode"),
        (["options", "export.gif"], "export has no model 'gif'"),
        (["view", "nowhere"], "there is no run folder nowhere; `reel3d run` prints the one"),
        (["doctor", "who"], "unrecognized argument: who"),
    ],
)
def test_a_slip_is_one_line_and_exit_code_2(capsys: Say, words: list[str], message: str) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert line.startswith("reel3d: ")
    assert message in line
    assert said.out == ""


def test_an_unfinished_run_is_not_shown(capsys: Say, tmp_path: Path) -> None:
    assert main(["view", str(tmp_path)]) == 2
    assert "holds no complete run; `reel3d run … --resume` finishes it" in capsys.readouterr().err


def test_without_a_display_view_names_the_report(
    capsys: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "report.html").write_text("")
    assert main(["view", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "report.html").as_uri()


def test_doctor_knows_this_machine(capsys: Say) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for word in ("Python", "pycolmap", "open3d", "video codecs", "models: depth"):
        assert word in told
    assert "h264" in told


@pytest.mark.parametrize(
    ("uri", "shown", "name"),
    [
        ("a b.mp4", "a b.mp4", "a_b"),
        ("x/line\nbreak.mp4", "x/line\\nbreak.mp4", "line_break"),
        ("rtsp://u:p@host:554/live?x=1", "rtsp://***@host:554/live?x=1", "host_live"),
        ("rtsp://u:p@[::1]:554/live", "rtsp://***@[::1]:554/live", "1_live"),
    ],
)
def test_a_source_is_shown_without_secrets_and_named_cleanly(
    uri: str, shown: str, name: str
) -> None:
    source = make_source(uri)
    assert (source.uri, source.shown, source.name) == (uri, shown, name)


def test_sources_of_one_name_are_told_apart() -> None:
    taken: list[str] = []
    for _ in range(3):
        taken.append(make_source("a/film.mp4", taken).name)
    assert taken == ["film", "film-2", "film-3"]


@pytest.mark.parametrize(
    "words",
    [
        ("run", "film.mp4", "--accept-licence", "mit"),
        ("run", "film.mp4", "--accept-licence=mit"),
        ("run", "film.mp4", "--unknown", "--accept-licence", "mit"),
        ("submit", "film.mp4", "--out", "s3://bucket/run", "--accept-licence", "mit"),
        ("models", "fetch", "x", "--accept-licence", "mit"),
    ],
)
def test_an_old_flag_is_refused_with_the_new_one(
    here: Callable[..., Any], words: tuple[str, ...]
) -> None:
    done = here(*words)
    assert done.returncode == 2
    assert "there is no --accept-licence: it is now --accept-license" in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recognise", "there is no step 'recognise': it is now 'recognize'"),
        ("action.recognised", "action has no model 'recognised': it is now 'recognized'"),
    ],
)
def test_options_of_an_old_name_are_refused_with_the_new_one(
    here: Callable[..., Any], name: str, said: str
) -> None:
    done = here("options", name)
    assert done.returncode == 2
    assert said in done.stderr
