"""One contract for every file of `stages/*/`."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.chain import ORDER, REPORT
from pipeline.contract.messages import DepthMaps, Frames, Message, Motion, Points, RunSummary, Views
from pipeline.contract.source import Reader, Source
from pipeline.contract.stage import Options, Stage, find, models, options_of, ports
from pipeline.contract.viewer import VIEW, Viewer, find_viewer
from pipeline.errors import UsageError

MODELS = [(step, model) for step in ORDER for model in models(step)]


@pytest.mark.parametrize(("step", "model"), MODELS)
def test_every_model_keeps_the_contract(step: str, model: str) -> None:
    config, stage = options_of(step, model), find(step, model)
    assert issubclass(config, Options)
    assert issubclass(stage, Stage)
    assert (importlib.import_module(stage.__module__).__doc__ or "").strip()
    for name, field in config.model_fields.items():
        assert field.description, f"{step}/{model}: option '{name}' has no description"
        assert not field.is_required(), f"{step}/{model}: option '{name}' has no default"
    wires = ports(stage)
    assert wires.reads, f"{step}/{model} reads nothing"
    assert all(
        t in (Source, Reader) or issubclass(t, Message) for t in (*wires.reads, *wires.makes)
    )
    if wires.optional or wires.required:
        assert stage.process.__doc__ or stage.__doc__
    instance = stage(config())
    assert instance.resources.cpus > 0
    assert instance.device in ("cpu", "cuda")
    assert all(weights.task and weights.license for weights in stage.catalog())
    assert set(instance.weights) <= set(stage.catalog())
    # Close must be safe before, and after a failed, open.
    instance.close()


@pytest.mark.parametrize("name", models(VIEW))
def test_every_viewer_keeps_the_contract(name: str, tmp_path: Path) -> None:
    config, viewer = options_of(VIEW, name), find_viewer(name)
    assert issubclass(config, Options)
    assert issubclass(viewer, Viewer)
    assert (importlib.import_module(viewer.__module__).__doc__ or "").strip()
    assert viewer.show.__doc__
    for option, field in config.model_fields.items():
        assert field.description, f"view/{name}: option '{option}' has no description"
        assert not field.is_required(), f"view/{name}: option '{option}' has no default"
    assert ".png" in viewer.writes
    with pytest.raises(UsageError):
        viewer(config()).show(tmp_path / "none", tmp_path / "a.png")
    with pytest.raises(UsageError):
        viewer(config()).show(tmp_path, tmp_path / "a.odd")
    assert list(tmp_path.iterdir()) == []


def test_a_stage_is_no_viewer_and_a_viewer_no_stage() -> None:
    with pytest.raises(TypeError, match=r"stages.view.open3d.Model must be a Stage, got .*Viewer"):
        find(VIEW, "open3d")
    with pytest.raises(UsageError, match=r"view has no model 'opend3d'; .* did you mean 'open3d'"):
        find_viewer("opend3d")


@pytest.mark.parametrize(("step", "model"), MODELS)
def test_a_model_makes_what_its_step_is_for(step: str, model: str) -> None:
    expected = {
        "decode": Reader,
        "sample": Frames,
        "flow": Motion,
        "depth": DepthMaps,
        "pose": Views,
        "fuse": Points,
    }.get(step)
    made = ports(find(step, model)).makes
    if expected is not None:
        assert made == (expected,)
    if step in ("export", REPORT):
        assert made == ()


def test_finding_reads_no_heavy_library_of_another_model() -> None:
    """Listing and finding the default models must not import Open3D, pycolmap or decord."""
    code = (
        "import sys; from pipeline.contract.stage import models, find\n"
        "from pipeline.chain import ORDER\n"
        "for step in ORDER:\n"
        "    for model in models(step): find(step, model)\n"
        "heavy = {'open3d', 'pycolmap._core', 'decord', 'torch', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_model_or_step_is_named() -> None:
    with pytest.raises(UsageError, match=r"there is no step 'dept'; the steps are action"):
        find("dept", "x")
    with pytest.raises(UsageError, match=r"did you mean 'farneback'\?"):
        find("flow", "farnebak")


def test_a_parcel_is_taken_only_with_all_that_is_required() -> None:
    wires = ports(find("fuse", "tsdf"))
    assert set(wires.required.values()) == {Views, DepthMaps}
    assert wires.take({Views: 1}) is None
    assert wires.take({Views: 1, DepthMaps: 2, Frames: 3}) == {"views": 1, "depth": 2}


def test_the_report_reads_the_run() -> None:
    assert ports(find(REPORT, "html")).required == {"run": RunSummary}
