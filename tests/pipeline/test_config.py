"""Presets, files and overrides become a checked configuration, or one clear line."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.chain import wire
from pipeline.config import RunConfig, is_override, load, presets
from pipeline.errors import UsageError


def resolve(*overrides: str, preset: str = "default", uri: str = "film.mp4") -> RunConfig:
    return load(preset=preset, overrides=overrides, uri=uri)


def model_of(config: RunConfig, step: str) -> str:
    return next(choice.model for choice in config.choices if choice.step == step)


@pytest.mark.parametrize("preset", sorted(presets()))
def test_every_preset_resolves_and_wires_without_a_gap(preset: str) -> None:
    chain = wire(resolve(preset=preset).choices)
    assert chain.left_out == {}


def test_a_written_configuration_resolves_to_itself(tmp_path: Path) -> None:
    config = resolve("flow.model=farneback", "export.flo=on", "export.mesh=none", "run.seed=7")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.as_tree()))
    again = load(file=file, uri="film.mp4")
    assert again.as_tree() == config.as_tree()
    assert again.run.seed == 7
    assert "flo" in again.as_tree()["export"]
    assert "mesh" not in again.as_tree()["export"]


def test_auto_decodes_by_what_the_source_is(tmp_path: Path) -> None:
    assert model_of(resolve(uri="film.mp4"), "decode") == "pyav"
    assert model_of(resolve(uri=str(tmp_path)), "decode") == "images"
    assert model_of(resolve(uri="frames/*.png"), "decode") == "images"
    assert model_of(resolve(uri="still.JPG"), "decode") == "images"


def test_options_of_another_model_do_not_leak() -> None:
    config = resolve("sample.model=fps", "sample.fps=2.5")
    assert model_of(config, "sample") == "fps"
    assert config.as_tree()["sample"]["fps"] == 2.5


def test_leaving_out_a_step_leaves_out_what_lives_on_it() -> None:
    chain = wire(resolve("pose.model=none").choices)
    assert "depth/multiview" in chain.left_out
    assert chain.left_out["depth/multiview"] == "no stage makes camera poses"
    assert "fuse/tsdf" in chain.left_out
    assert all(link.step != "pose" for link in chain.links)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dept.neighbors=3"], "there is no step 'dept'; the steps are run, decode"),
        (["dept.neighbors=3"], "did you mean 'depth'?"),
        (["flow.model=diss"], "flow has no model 'diss'; it has dis, farneback"),
        (["flow.prest=fast"], "flow has no option 'prest'; it has model, working_side"),
        (["flow.preset=slow"], "flow.preset = 'slow' is not allowed"),
        (["run.threads=0"], "run.threads = 0 is not allowed; it should be greater than"),
        (["flow=dis"], "an option is written flow.<option>=value"),
        (["export.flo=maybe"], "a format is switched with =on or =none"),
        (["export.gif=on"], "export has no model 'gif'"),
        (["flow.preset=[1"], "the value of flow.preset is not valid YAML"),
        (["decode.model=none"], "decode cannot be left out"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        wire(resolve(*words).choices)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must map steps to options"),
        ("decode: 3\n", "decode must hold options, got 3"),
        ("flow: {preset: fast}\n", "flow has no model; set flow.model to dis"),
        ("flow: {model: dis}\nflow: {model: dis}\n", "'flow' is given twice"),
        ("extends: nothing\n", "extends must name a preset, got 'nothing'"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        ("a: &a [*a]\n", "there is no step 'a'"),
        ("[" * 5000, "is not valid YAML"),
    ],
)
def test_a_hostile_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(file=file, uri="film.mp4")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_may_build_on_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: understand\nflow: {model: farneback}\n")
    config = load(file=file, uri="film.mp4")
    assert model_of(config, "flow") == "farneback"
    assert model_of(config, "action") == "motion"


def test_words_with_an_equals_sign_are_sources_where_such_a_file_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_override("flow.model=dis")
    assert not is_override("holiday=2.mp4")
    Path("flow.model=dis").touch()
    assert not is_override("flow.model=dis")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("recognise.model=zero_shot", "there is no step 'recognise': it is now 'recognize'"),
        ("action.model=recognised", "action has no model 'recognised': it is now 'recognized'"),
        ("action.recognised_s=1", "there is no action.recognised_s: it is now"),
        ("depth.neighbours=4", "there is no depth.neighbours: it is now depth.neighbors"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(word: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(overrides=[word], uri="film.mp4")
    assert str(caught.value).startswith(said)
    step, option, value = re.split("[.=]", word)
    file = tmp_path / "old.yaml"
    base = (
        ""
        if option == "model"
        else "model: {}, ".format({"depth": "multiview"}.get(step, "motion"))
    )
    file.write_text(f"extends: default\n{step}: {{{base}{option}: {value}}}\n")
    with pytest.raises(UsageError) as caught:
        load(file=file, uri="film.mp4")
    assert str(caught.value).startswith(said)
