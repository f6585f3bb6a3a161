"""The rules of the house that a reader cannot see at a glance."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import SYSTEM_PACKAGES
from tests.support.paths import ROOT

VAGUE = re.compile(r"(^|/)(utils?|core|common|misc|base|helpers?|managers?)(\.py|/)")


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_names_say_what_a_file_is() -> None:
    assert [name for name in tracked() if VAGUE.search(name)] == []


def test_no_python_file_is_past_650_lines() -> None:
    long = [n for n in tracked() if n.endswith(".py") and len(_lines(n)) > 650]
    assert long == []


def _lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def test_nothing_committed_is_large_or_names_a_package_index() -> None:
    for name in tracked():
        path = ROOT / name
        assert path.stat().st_size < 1 << 20, f"{name} is larger than 1 MiB"
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock


def test_every_line_of_the_lock_is_exact_and_hashed() -> None:
    entries = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==[^ ]+ ", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_the_lock_holds_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # The drivers of object stores have a lock of their own, for the images.
    extras = [v for k, v in project["optional-dependencies"].items() if k not in ("s3", "gcs")]
    wanted = [*project["dependencies"], *(want for extra in extras for want in extra)]
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    assert {re.split(r"[ >=<;\[]", want)[0].lower() for want in wanted} <= locked


def test_the_debian_packages_are_listed_once_and_told_alike() -> None:
    listed = (ROOT / "docker" / "debian-packages.txt").read_text().split()
    assert SYSTEM_PACKAGES["open3d"].split() == listed


def test_the_wheel_holds_the_packages_and_the_presets(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    presets = {f"pipeline/presets/{p.name}" for p in (ROOT / "configs").glob("*.yaml")}
    assert presets <= names
    assert {"pipeline/cli/main.py", "stages/depth/multiview.py", "stages/report/html.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pipeline", "stages"}
    code = [name for name in tracked() if re.match(r"(pipeline|stages)/", name)]
    assert set(code) <= names
