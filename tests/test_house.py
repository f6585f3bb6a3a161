"""The rules of the house that a reader cannot see at a glance."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.doctor import DEBIAN_PACKAGES

ROOT = Path(__file__).parent.parent
VAGUE = re.compile(r"(^|/)(utils?|core|common|misc|base|helpers?|managers?)(\.py|/)")


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_stages_never_import_a_runner_or_ray() -> None:
    forbidden = ("ray", "pipeline.local", "pipeline.run", "pipeline.worker", "pipeline.cli")
    for path in (ROOT / "stages").rglob("*.py"):
        wrong = {name for name in imports(path) if name.startswith(forbidden)}
        assert not wrong, f"{path} imports {wrong}"


def test_the_pipeline_never_imports_a_model() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        wrong = {name for name in imports(path) if name.split(".")[0] in ("stages", "tests")}
        assert not wrong, f"{path} imports {wrong}"


def test_a_step_imports_no_other_step_but_what_it_shares_on_purpose() -> None:
    """The report draws with the viewer's renderer; the exporters' formats stay their own."""
    shared = {("report", "view"), ("report", "export"), ("view", "export")}
    # Everything that draws splats draws them as they were trained.
    shared |= {("view", "splat"), ("report", "splat"), ("export", "splat")}
    # Disparity is flow between two views: the same network, weights, tiles and way back.
    shared.add(("depth", "flow"))
    for path in (ROOT / "stages").rglob("*.py"):
        step = path.parent.name
        named = {n.split(".")[1] for n in imports(path) if n.startswith("stages.")} - {step}
        # Files of `stages/` itself that begin with an underscore are there for all steps.
        others = {name for name in named if not name.startswith("_")}
        assert all((step, other) in shared for other in others), f"{path} imports {others}"


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
    assert DEBIAN_PACKAGES.split() == listed


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
    assert {"pipeline/cli.py", "stages/depth/multiview.py", "stages/report/html.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pipeline", "stages"}
    code = [name for name in tracked() if re.match(r"(pipeline|stages)/", name)]
    assert set(code) <= names
