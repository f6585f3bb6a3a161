"""The cache of compiled kernels: read-only installations, changed sources, damage, two at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages._kernels import state
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

    def start(self, first: str = "", **more: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.user)}
        environment.pop("NUMBA_CACHE_DIR", None)
        return subprocess.Popen(
            [sys.executable, "-c", first + CALLED, str(self.path)],
            env={**environment, **more},
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, first: str = "", **more: str) -> tuple[int, int]:
        """Call the kernel in a new process; return hits and misses of the cache."""
        process = self.start(first, **more)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        hits, misses = said.split()
        return int(hits), int(misses)

    @property
    def entries(self) -> list[Path]:
        return sorted((self.path / "__pycache__").glob("*.nb[ic]"))


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_the_package_keeps_its_machine_code(package: Package) -> None:
    assert package.call() == (0, 1)
    assert len(package.entries) == 2
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
    assert package.call(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == (0, 1)
    assert package.call() == (1, 0)


def test_checked_code_is_not_taken_from_unchecked_entries(package: Package) -> None:
    package.call()
    assert package.call(NUMBA_BOUNDSCHECK="1") == (0, 1)
    assert package.call() == (0, 1), "the index holds one setting at a time"


def test_a_damaged_entry_is_compiled_again(package: Package) -> None:
    package.call()
    for entry in package.entries:
        entry.write_bytes(entry.read_bytes()[:40])
    assert package.call() == (0, 1)


def test_a_cache_folder_that_is_asked_for_is_written_and_the_package_read(
    package: Package, tmp_path: Path
) -> None:
    own = str(tmp_path / "own")
    assert package.call(NUMBA_CACHE_DIR=own) == (0, 1)
    assert not package.entries
    assert package.call(NUMBA_CACHE_DIR=own) == (1, 0)
    package.call()
    assert package.call(NUMBA_CACHE_DIR=str(tmp_path / "another")) == (1, 0)


READ_ONLY = """
import errno, os, sys
from numba.core import caching

# Root may write anywhere: what the system would answer to others is raised here.
package = os.path.join(sys.argv[1], "")
ensure = caching._CacheLocator.ensure_cache_path

def refuse(locator):
    if os.path.join(locator.get_cache_path(), "").startswith(package):
        raise OSError(errno.EROFS, "Read-only file system", locator.get_cache_path())
    ensure(locator)

caching._CacheLocator.ensure_cache_path = refuse
"""


def test_a_read_only_package_is_read_and_what_it_lacks_goes_to_the_user(package: Package) -> None:
    package.call()
    before = {path: path.read_bytes() for path in package.entries}
    assert package.call(first=READ_ONLY) == (1, 0)
    source = package.path / "kernels.py"
    source.write_text(source.read_text() + "# changed\n")
    assert package.call(first=READ_ONLY) == (0, 1)
    assert {path: path.read_bytes() for path in package.entries} == before
    assert list(package.user.rglob("*.nbc"))
    assert package.call(first=READ_ONLY) == (1, 0)


def test_two_that_compile_at_once_leave_a_whole_cache(package: Package) -> None:
    both = [package.start() for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said.strip() in ("0 1", "1 0")
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
