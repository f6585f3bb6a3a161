"""What several test files share: the real clips, small films, the command."""

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.contract import stage
from pipeline.telemetry import LogSettings
from tests.support.paths import DATA, ROOT
from tests.support.scenes import alone, encode

# Threads of OpenMP that wait for each other burn the cores that other tests want: of torch's small
# sums 60 ms instead of 1. It is read when torch is imported, here and in what the tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Importing torch, transformers and the tests allocates millions of objects that stay: without the
# collector it takes 11 CPU s in place of 18.
gc.disable()


LONGEST_FIRST = (
    "test_whole.py",
    "pipeline/cluster/test_runner.py",
    "pipeline/test_run.py",
    "pipeline/jobs/test_jobs.py",
    "stages/pose/test_real.py",
    "pipeline/cli/test_watch.py",
    "stages/decode/test_rtsp.py",
    "stages/segment/test_moving.py",
    "stages/pose/test_learned.py",
    "stages/depth/test_transformer.py",
    "stages/splat/test_training.py",
    "stages/action/test_motion.py",
    "stages/splat/test_edges.py",
    "stages/splat/test_session.py",
)
"""Files that begin first where several processes share the work: one that begins last is what
all others wait for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Decide the order of the files and every skip in one place.

    REEL3D_REQUIRE_DATA=1 and REEL3D_REQUIRE_CUDA=1 turn a skip into a failure: the test runs.
    """
    items.sort(key=_turn)
    needs: dict[str, tuple[Callable[[], bool], str, str]] = {
        "data": (DATA.is_dir, "REEL3D_REQUIRE_DATA", f"the real clips are not at {DATA}"),
        "gpu": (_cuda, "REEL3D_REQUIRE_CUDA", "there is no CUDA device"),
    }
    for marker, (there, required, reason) in needs.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and os.environ.get(required) != "1" and not there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Collect garbage from here on, without a look at what the imports have left."""
    gc.freeze()
    gc.enable()


def _turn(item: pytest.Item) -> int:
    name = item.path.relative_to(ROOT / "tests").as_posix()
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)


def _cuda() -> bool:
    # Only asked where a test needs it: torch takes seconds to import.
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


@pytest.fixture(scope="session")
def short_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sideways move of two seconds, 320x180, with parallax."""
    path = tmp_path_factory.mktemp("films") / "truck.mp4"
    encode(path, alone("truck-right", seed=1).images)
    return path


@pytest.fixture
def reel3d(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a person does, in an empty folder; `models` adds a folder of stages."""

    def call(
        *words: str | Path, models: Path | None = None, timeout: float = 120, **more: str
    ) -> subprocess.CompletedProcess[str]:
        paths = [str(models)] if models else []
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)]), **more}
        environment.pop("DISPLAY", None)
        return subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *map(str, words)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run the command in this process: for what a process of its own adds nothing but a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    for name, value in LogSettings().environment().items():
        monkeypatch.setenv(name, value)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(*words: str | Path, models: Path | None = None) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            if models:
                patch.syspath_prepend(models)
                for folder in (models / "stages").iterdir():
                    package = import_module(f"stages.{folder.name}")
                    patch.setattr(package, "__path__", [*package.__path__, str(folder)])
            stage.models.cache_clear()
            capfd.readouterr()
            code = main([*map(str, words)])
        stage.models.cache_clear()
        said = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)
