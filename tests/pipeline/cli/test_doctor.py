"""What the doctor says of libraries that do not load."""

import py_compile
import sys
from pathlib import Path

import pytest

from pipeline.cli import doctor


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in {
        "sound": "",
        "raising": "raise ImportError('libGL.so.1: cannot\\nopen')",
        "crashing": "import os; os.abort()",
        "talking": "print('sound'); print('hello')",
        "last": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("libraries")
def test_one_that_crashes_is_told_from_the_others() -> None:
    names = ("sound", "raising", "crashing", "talking", "last")
    told = doctor._imported(names)
    assert set(told) == set(names)
    assert [name for name in names if told[name]] == ["raising", "crashing"]
    assert "libGL.so.1" in told["raising"]
    assert "\n" not in told["raising"]


def test_machine_code_that_does_not_load_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is no library, one that is missing, and those of this installation."""
    for name in ("spoiled", "empty"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "spoiled" / "libspoiled.so").write_bytes(b"\x7fELF" + bytes(60))
    monkeypatch.syspath_prepend(tmp_path)
    spoiled = {"spoiled": "libspoiled.so", "empty": "libempty.so"}
    monkeypatch.setattr(doctor, "NATIVE", {**doctor.NATIVE, **spoiled})
    faults = doctor._loaded(("numpy", "spoiled", "open3d", "empty"))
    assert "libspoiled.so" in faults["spoiled"]
    assert "libempty.so is missing" in faults["empty"]
    assert faults["numpy"] == faults["open3d"] == ""


def test_every_native_library_of_the_list_is_here() -> None:
    assert set(doctor._loaded(tuple(doctor.NATIVE)).values()) == {""}


def test_torchvision_beside_another_torch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor._mismatched() == {}
    said = {"torch": "cuda: Optional[str] = None", "torchvision": "__version__ = '0.29.2+cu132'"}
    for name, text in said.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "version.py").write_text(f"{text}\n")
    monkeypatch.setattr(doctor, "_origin", lambda name: tmp_path / name / "__init__.py")
    assert doctor._mismatched() == {"torchvision": "it is built for cu132, and torch for cpu"}
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '13.2'\n")
    assert doctor._mismatched() == {}


def test_what_is_not_installed_and_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "decord" else "1.0")
    assert doctor._library("decord", "").advice == "pip install 'reel3d[decord]'"
    assert doctor._library("open3d", "libEGL").state == "broken"
    assert "apt-get install libusb" in doctor._library("open3d", "libEGL").advice
    assert doctor._library("transformers", "x").state == "missing"
    assert doctor._library("av", "").told == "1.0"


def test_packages_that_every_process_compiles_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "heavy"
    package.mkdir(parents=True)
    source = package / "__init__.py"
    source.write_text("")
    monkeypatch.setattr(doctor, "_origin", lambda name: source)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert doctor._bytecode().state == "ok"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = doctor._bytecode()
    assert found.state == "missing"
    assert found.advice == f"python -m compileall -q {package.parent}"
    py_compile.compile(str(source))
    assert doctor._bytecode().state == "ok"
