"""`reel3d watch`: events while it runs, the whole folder when it stops, the login nowhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.cli.main import main
from pipeline.storage import RunFolder
from tests.conftest import ROOT
from tests.support.rtsp_server import Loopback
from tests.support.scenes import alone, encode

SECRET = "hunter2secret"
UNDERSTAND = ("--preset", "understand", "export.flow_video=none", "decode.read_s=1")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera that moves to the right and back again, 320x180: what it does changes."""
    path = tmp_path_factory.mktemp("films") / "to-and-fro.mp4"
    images = alone("truck-right", seed=1).images
    encode(path, np.concatenate([images, images[::-1]]))
    return path


@contextmanager
def command(cwd: Path, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command as a person does; it is killed where the test ends before it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(happens: Callable[[], Any], process: subprocess.Popen[str], limit_s: float = 150) -> Any:
    """Wait for something while the command runs."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := happens():
            return found
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    raise AssertionError(f"it did not happen within {limit_s} s")


def command_lines() -> str:
    """What everybody on this machine can read of the processes of this user."""
    found: list[str] = []
    for folder in Path("/proc").iterdir():
        try:
            found.append((folder / "cmdline").read_text(errors="replace"))
            found.append((folder / "comm").read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def clips_in(out: Path) -> list[Any]:
    return json.loads((out / "manifest.json").read_text())["stages"]


def test_a_camera_from_start_to_end(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    logins = tmp_path / "logins"
    logins.write_text(f"machine 127.0.0.1 login adm password {SECRET}\n")
    logins.chmod(0o600)
    seen = 0
    with (
        Loopback(film, loop=True, user="adm", password=SECRET) as server,
        command(
            tmp_path, "watch", server.url(), "--for", "12", "--out", str(out), *UNDERSTAND,
            REEL3D_CREDENTIALS=str(logins),
        ) as process,
    ):  # fmt: skip
        events = out / "events.jsonl"
        until(lambda: events.is_file() and events.read_text().strip(), process)
        assert not (out / "manifest.json").exists(), "events must come while the camera runs"
        # The server's own command line has it; that of nobody else may.
        server.kill()
        assert SECRET not in command_lines()
        assert "pipeline.worker" in command_lines()
        server.start()
        stdout, stderr = process.communicate(timeout=150)
        assert process.returncode == 0, stderr
    assert stdout == f"{out}\n"
    decode = clips_in(out)[0]
    assert decode["model"] == "rtsp"
    assert decode["metrics"]["segments"] == 2
    assert decode["metrics"]["dropped_share"] < 0.2
    assert "the connection was lost at" in decode["warnings"][0]
    table = pq.read_table(out / "frames.parquet").to_pydict()
    assert table["pts_s"] == sorted(set(table["pts_s"]))
    # No clip and no shot reaches across the gap.
    gap = int(np.argmax(np.diff(table["pts_s"])))
    assert table["shot"][gap + 1] > table["shot"][gap]
    folder = RunFolder(out)
    manifest = folder.manifest()
    assert manifest is not None
    assert all(folder.describe(a["path"], a["kind"]) == a for a in manifest["artifacts"])
    assert {"events", "frame table", "report"} <= {a["kind"] for a in manifest["artifacts"]}
    for file in out.rglob("*"):
        seen += file.is_file()
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    assert seen > 8
    assert SECRET not in stdout + stderr


def test_one_signal_ends_the_camera_and_the_run_is_finished(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("run", "--out", str(out), *UNDERSTAND, "report.model=none")
    with Loopback(film, loop=True, user="u", password=SECRET) as server:
        address = server.url(f"u:{SECRET}")
        with command(tmp_path, *words, address) as process:
            until(lambda: (out / "events.jsonl").is_file(), process)
            # Also while there is no connection.
            server.kill()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert "once more to abort" in stderr
    assert SECRET not in stderr
    assert [stage["state"] for stage in clips_in(out)] == ["made"] * len(clips_in(out))
    assert not [f for f in out.rglob("*") if f.is_file() and SECRET.encode() in f.read_bytes()]


def test_the_second_signal_aborts(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        Loopback(film, loop=True) as server,
        command(tmp_path, "watch", server.url(), "--out", str(out)) as process,
    ):
        until(lambda: (out / "events.jsonl").is_file(), process)
        process.send_signal(signal.SIGTERM)
        # Reconstruction takes longer than this.
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130, stderr
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            ["film.mp4"],
            2,
            "film.mp4 is not a camera: watch takes addresses that begin with rtsp://",
        ),
        (["http://u:pw@host/x"], 2, "http://***@host/x is not a camera"),
        (["splat.model=none"], 2, "no camera given"),
        (["rtsp://a/x", "rtsp://b/x"], 2, "2 cameras at once need --runner cluster"),
        (["rtsp://a/x", "--for", "0"], 2, "must be a number of seconds above 0, got '0'"),
        (["rtsp://a/x", "--for", "soon"], 2, "above 0, got 'soon'"),
        (["rtsp://a/x", "decode.fps=3"], 2, "decode has no option 'fps'"),
        (["rtsp://u:pw@127.0.0.1:1/x"], 3, "cannot read rtsp://***@127.0.0.1:1/x: nothing listens"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *words, "--quiet"]) == code
    stderr = capsys.readouterr().err
    assert says in stderr
    assert stderr.count("\n") == 1
    assert "pw" not in stderr
    runs = tmp_path / "runs"
    assert not runs.is_dir() or not list(runs.iterdir())


def test_a_sampler_that_must_know_all_frames_is_refused(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with Loopback(film, loop=True) as server:
        words = [server.url(), "--out", str(out), "sample.model=uniform", "--quiet"]
        assert main(["watch", *words]) == 3
    assert "sample.model must be adaptive, fps or dense" in capsys.readouterr().err
    assert not out.exists()
