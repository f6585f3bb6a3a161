"""The cache of compiled kernels: read-only installations, changed sources, damage, two at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest
from numba import config
from numba.core import caching

from stages._kernels import compiling, state
from tests.support.paths import ROOT

MODULE = """
from pathlib import Path
from stages._kernels.compiling import kernel_decorator

kernel = kernel_decorator([Path(__file__).with_name("inlined.py")])

@kernel()
def double(x):
    return 2 * x
"""
CALLED = """
import sys
sys.path.insert(0, sys.argv[1])
import kernels
assert kernels.double(21) == 42
stats = kernels.double.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


class Package:
    """A package with one kernel, and a user's cache folder."""

    def __init__(self, folder: Path) -> None:
        self.path, self.user = folder / "package", folder / "user"
        self.path.mkdir()
        (self.path / "kernels.py").write_text(MODULE)
        (self.path / "inlined.py").write_text("TWO = 2\n")

    def call(self) -> tuple[int, int]:
        """Load the module again and call its kernel; return hits and misses of the cache."""
        compiling._stamp.cache_clear()
        sys.modules.pop("kernels", None)
        invalidate_caches()
        module = import_module("kernels")
        assert module.double(21) == 42
        stats = module.double.stats
        return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())

    def start(self, **more: str) -> subprocess.Popen[str]:
        """Call the kernel in a new process, which prints hits and misses."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
        return subprocess.Popen(
            [sys.executable, "-c", CALLED, str(self.path)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def entries(self) -> list[Path]:
        return sorted((self.path / "__pycache__").glob("*.nb[ic]"))


def said(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    made = Package(tmp_path)
    monkeypatch.syspath_prepend(made.path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.user))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    yield made
    sys.modules.pop("kernels", None)


def test_a_package_keeps_its_machine_code_for_other_processes(package: Package) -> None:
    assert said(package.start()) == "0 1"
    assert len(package.entries) == 2
    assert said(package.start()) == "1 0"
    assert package.call() == (1, 0)
    assert not list(package.user.rglob("*.nbc"))


def test_copied_files_are_the_same_files(package: Package) -> None:
    package.call()
    os.utime(package.path / "kernels.py", (1, 1))
    assert package.call() == (1, 0)


@pytest.mark.parametrize("file", ["kernels.py", "inlined.py"])
def test_a_changed_source_is_compiled_again(package: Package, file: str) -> None:
    package.call()
    source = package.path / file
    source.write_text(source.read_text() + "# changed\n")
    assert package.call() == (0, 1)


def test_another_cpu_has_entries_of_its_own(package: Package) -> None:
    package.call()
    assert said(package.start(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")) == "0 1"
    assert package.call() == (1, 0)


def test_checked_code_is_not_taken_from_unchecked_entries(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.call()
    with monkeypatch.context() as patch:
        patch.setattr(config, "BOUNDSCHECK", 1)
        assert package.call() == (0, 1)
    assert package.call() == (0, 1), "the index holds one setting at a time"


def test_a_damaged_entry_is_compiled_again(package: Package) -> None:
    package.call()
    for entry in package.entries:
        entry.write_bytes(entry.read_bytes()[:40])
    assert package.call() == (0, 1)


def test_a_cache_folder_that_is_asked_for_is_written_and_the_package_read(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "own"))
    assert package.call() == (0, 1)
    assert not package.entries
    assert package.call() == (1, 0)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    package.call()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "another"))
    assert package.call() == (1, 0)


def test_a_read_only_package_is_read_and_what_it_lacks_goes_to_the_user(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.call()
    before = {path: path.read_bytes() for path in package.entries}
    ensure: Any = caching._CacheLocator.ensure_cache_path

    def refuse(locator: Any) -> None:
        # Root may write anywhere: what the system would answer to others is raised here.
        folder = Path(locator.get_cache_path())
        if folder.is_relative_to(package.path):
            raise OSError(errno.EROFS, "Read-only file system", str(folder))
        ensure(locator)

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    assert package.call() == (1, 0)
    source = package.path / "kernels.py"
    source.write_text(source.read_text() + "# changed\n")
    assert package.call() == (0, 1)
    assert {path: path.read_bytes() for path in package.entries} == before
    assert list(package.user.rglob("*.nbc"))
    assert package.call() == (1, 0)


def test_two_that_compile_at_once_leave_a_whole_cache(package: Package) -> None:
    for process in [package.start() for _ in range(2)]:
        assert said(process) in ("0 1", "1 0")
    assert package.call() == (1, 0)
    assert not list((package.path / "__pycache__").glob("*.tmp.*"))


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "__pycache__" / "compiled.json"
    monkeypatch.setattr(state, "RECORD", path)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return path


def test_what_was_never_compiled_is_cold(recorded: Path) -> None:
    assert state.examine() == ("cold", "they were never compiled")


def test_what_a_user_compiles_for_a_read_only_package_is_warm(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.parent.write_text("no folder: nothing can be written here")
    assert state.record() == state.user_record()
    assert state.examine()[0] == "warm"


def test_what_was_recorded_here_is_warm(recorded: Path) -> None:
    assert state.record() == recorded
    assert state.examine()[0] == "warm"


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("cpu", "another CPU: other, and this is"),
        ("numba", "by numba other, and this is"),
        ("python", "for Python other, and this is"),
        ("sources", "reel3d has changed since"),
    ],
)
def test_another_machine_or_version_is_cold(
    recorded: Path, field: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = state._here()
    monkeypatch.setattr(state, "_here", lambda: {**here, field: "other"})
    state.record()
    monkeypatch.setattr(state, "_here", lambda: here)
    kind, why = state.examine()
    assert kind == "cold"
    assert said in why


def test_a_damaged_record_is_cold(recorded: Path) -> None:
    recorded.parent.mkdir()
    recorded.write_text("{")
    assert state.examine()[0] == "cold"
