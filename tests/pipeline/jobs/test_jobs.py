"""Jobs on a real Ray head with its token on, and every way there that fails."""

import contextlib
import http.server
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.cli import jobs
from pipeline.cli.main import main
from pipeline.errors import SourceError, UsageError
from pipeline.jobs import client as job_server
from pipeline.jobs import preflight, submission
from pipeline.jobs.status import exit_code, reason
from pipeline.jobs.submission import Order, absolute, pack
from tests.support.paths import ROOT

Say = pytest.CaptureFixture[str]
Command = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Head:
    address: str
    token: str


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray head of two cores with its dashboard, for all tests of this file."""
    token, dashboard = secrets.token_hex(16), _port()
    temporary = Path(tempfile.mkdtemp(prefix="rj", dir="/tmp"))
    program = Path(sys.executable).parent
    command = f"{program}/ray start --head --block --disable-usage-stats --num-cpus 2"
    command += f" --node-ip-address 127.0.0.1 --port {_port()} --ray-client-server-port {_port()}"
    command += f" --dashboard-host 127.0.0.1 --dashboard-port {dashboard}"
    # Jobs go through the agent, whose port is a fixed one: another Ray on this machine has it.
    command += f" --dashboard-agent-listen-port {_port()}"
    command += f" --object-store-memory 80000000 --temp-dir {temporary}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{program}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # Jobs must find what they bring along, not the folder that Ray was started from.
        "REEL3D_CACHE": str(temporary / "cache"),
    }
    with (temporary / "log").open("w") as log:
        ray = subprocess.Popen(
            command.split(),
            env=environment,
            cwd=temporary,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # As a script that starts Ray in the background does; a job must end in order even so.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
    try:
        _await(lambda: _listens(dashboard), 180, (temporary / "log").read_text)
        yield Head(f"http://127.0.0.1:{dashboard}", token)
    finally:
        family = [psutil.Process(ray.pid), *psutil.Process(ray.pid).children(recursive=True)]
        ray.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            ray.wait(10)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        ray.wait()
        # Who still writes would make the folder again while it is removed.
        psutil.wait_procs(family, 20)
        shutil.rmtree(temporary, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _await(
    happens: Callable[[], Any], seconds: float, why: Callable[[], object] | None = None
) -> Any:
    until = time.monotonic() + seconds
    while not (result := happens()):
        assert time.monotonic() < until, why() if why else "it did not happen"
        time.sleep(0.1)
    return result


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token and no address of this machine's user comes in."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(head: Head, monkeypatch: pytest.MonkeyPatch, capfd: Say) -> Command:
    """Run a command against the head, with its token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)

    def call(*words: str | Path) -> tuple[int, str, str]:
        code = main([*map(str, words), "--address", head.address])
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def local_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs use one process of the head: quicker, where the runner is not what matters."""
    monkeypatch.setattr(jobs, "CLUSTER", ())


UNDERSTAND = ("--preset", "understand", "sample.model=fps", "sample.fps=2")


def test_a_job_from_submission_to_its_end(
    command: Command, head: Head, short_film: Path, tmp_path: Path
) -> None:
    film = tmp_path / "it's $(touch here) `a` film.mp4"
    shutil.copy(short_film, film)
    words = ("--wait", "--priority", "2", "--share", "0.9", *UNDERSTAND, "run.seed=3")
    code, out, err = command("submit", film.name, *words)
    assert code == 0, err
    job = out.strip()
    assert re.fullmatch(r"reel3d-\w{8}", job)
    folder = tmp_path / "runs" / job
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["run"]["seed"] == 3
    assert manifest["source"]["shown"] == str(film)
    assert f"{job} done: {folder}" in err
    assert not list(tmp_path.rglob("here"))

    code, out, _ = command("status", job, "--json")
    told = json.loads(out)
    assert (code, told["state"], told["exit_code"], told["reason"]) == (0, "done", 0, "")
    assert (told["sources"], told["out"]) == ([str(film)], str(folder))
    assert (told["priority"], told["share"]) == ("2", "0.9")
    code, out, _ = command("status")
    assert re.search(rf"{job} +done +\d+ s ago", out)
    code, out, _ = command("logs", job)
    assert str(folder) in out.splitlines()
    assert command("logs", job, "--follow")[0] == 0
    code, _, err = command("cancel", job)
    assert code == 2
    assert f"{job} had already ended" in err

    # The code came along: the head was started elsewhere.
    server = job_server.connect(head.address)
    assert server.info(job).runtime_env["working_dir"].startswith("gcs://_ray_pkg_")


@pytest.mark.usefixtures("local_runner")
def test_a_job_ends_as_its_run_does(command: Command, tmp_path: Path) -> None:
    words = ("--remote-paths", "--out", tmp_path / "out", *UNDERSTAND)
    code, out, err = command("submit", "/none/film.mp4", *words, "--wait")
    assert code == 3
    assert f"{out.strip()} no usable source: cannot read /none/film.mp4" in err
    code, out, _ = command("status", out.strip(), "--json")
    told = json.loads(out)
    assert (told["state"], told["exit_code"]) == ("no usable source", 3)
    assert told["reason"].startswith("cannot read /none/film.mp4")


@pytest.mark.usefixtures("local_runner")
def test_a_running_job_is_canceled(command: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        film = f"http://127.0.0.1:{silent.getsockname()[1]}/film.mp4"
        code, out, err = command("submit", film, *UNDERSTAND)
        assert code == 0, err
        job = out.strip()
        _await(lambda: "reel3d 0" in command("logs", job)[1], 150)
        assert command("status", job, "--json")[1].count('"state": "running"') == 1
        began = time.monotonic()
        code, _, err = command("cancel", job)
    assert code == 0, err
    assert f"{job} canceled" in err
    assert time.monotonic() - began < submission.STOP_WAIT_S / 2
    assert "--resume" in err
    # As by Ctrl-C, not by a kill: the run had the time to end in order.
    assert "interrupted" in command("logs", job)[1]
    assert command("logs", job, "--follow")[0] == 130


def test_the_cluster_must_have_the_same_reel3d(
    command: Command, short_film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.version.version", lambda: "9.9")
    code, _, err = command("submit", short_film, "--installed", "--wait")
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert "the cluster is not fit for this job: the job was submitted by reel3d 9.9" in last


def test_jobs_of_others_are_left_alone(command: Command, head: Head) -> None:
    server = job_server.connect(head.address)
    other = server.submit(entrypoint="true", submission_id="theirs")
    for words in (("status",), ("logs",), ("cancel",)):
        code, _, err = command(*words, other)
        assert (code, "theirs is not a job of reel3d" in err) == (2, True)
    assert "theirs" not in command("status")[1]


@pytest.mark.parametrize(
    ("job", "words"),
    [("nobody", "there is no job nobody at http://"), ("a/../b", "is not the name of a job")],
)
def test_unknown_jobs(command: Command, job: str, words: str) -> None:
    for name in ("status", "logs", "cancel"):
        code, out, err = command(name, job)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.splitlines()) == 1


def test_tokens(head: Head, tmp_path: Path, capfd: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"

    def status(*words: str) -> tuple[int, str]:
        began = time.monotonic()
        code = main(["status", "--address", head.address, *words])
        assert time.monotonic() - began < 10
        err = capfd.readouterr().err
        assert head.token not in err
        return code, err

    code, err = status()
    assert (code, len(err.splitlines())) == (2, 1)
    assert "wants a token" in err
    assert "RAY_AUTH_TOKEN_PATH" in err
    file.write_text("0123456789\n")
    code, err = status("--token-file", str(file))
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"refuses the token of --token-file {file}" in err
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    assert "refuses the token of RAY_AUTH_TOKEN;" in status()[1]
    file.write_text("two words")
    assert "holds no token" in status("--token-file", str(file))[1]
    assert "cannot be read: No such file" in status("--token-file", "none")[1]
    # Each place in its order; Ray's own variables change nothing in where we go.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    file.write_text(f"{head.token}\n")
    assert status("--token-file", str(file))[0] == 0
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert status()[0] == 0
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    (tmp_path / ".ray").mkdir()
    shutil.copy(file, tmp_path / ".ray" / "auth_token")
    assert status()[0] == 0


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    """Something that answers at the address and is no fitting cluster."""

    answer = (404, b"nothing here")
    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        status, body = self.answer
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, type[_Elsewhere]]]:
    kind = type("Once", (_Elsewhere,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kind
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b"nothing here"), "it is not a Ray cluster (HTTP 404)"),
        ((302, b""), "it is not a Ray cluster (HTTP 302)"),
        ((200, b"<html>" * 20_000), "it is not a Ray cluster (HTTP 200)"),
        ((200, b'{"ray_version": 3}'), "it is not a Ray cluster"),
        ((200, b'{"ray_version": "2.40.0"}'), "runs Ray 2.40.0; reel3d needs 2.52 or newer"),
    ],
)
def test_something_else_answers(
    elsewhere: tuple[str, type[_Elsewhere]],
    answer: tuple[int, bytes],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    address, server = elsewhere
    server.answer = answer
    with pytest.raises(UsageError) as caught:
        job_server.connect(address)
    assert words in str(caught.value)
    # Who does not ask for the token does not get it.
    assert server.asked == [None]


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "ANSWER_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ways = {
            f"127.0.0.1:{_port()}": "connection refused",
            "http://nobody.invalid:8265": "there is no host 'nobody.invalid'",
            f"127.0.0.1:{silent.getsockname()[1]}": "does not answer",
            "ray://head:10001": "is not the address of a cluster's dashboard",
            "http://me:secret@head:8265": "holds more than a host and a port",
            "auto": "names no host",
            "http://head:8265000": "is not the address",
        }
        for address, words in ways.items():
            with pytest.raises(UsageError) as caught:
                job_server.connect(address)
            assert words in str(caught.value), address
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)


def test_an_open_network_is_told(
    elsewhere: tuple[str, type[_Elsewhere]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, server = elsewhere
    server.answer = (200, b'{"ray_version": "2.99.1", "version": "4"}')
    assert len(job_server.connect(address).warnings) == 1
    monkeypatch.setattr(job_server, "_is_loopback", lambda url: False)
    newer, open_ = job_server.connect(address).warnings
    assert "the cluster runs Ray 2.99.1 and this machine" in newer
    assert "anybody there can run code" in open_


def an_order(**more: Any) -> Order:
    plain: dict[str, Any] = {
        "job": "reel3d-x",
        "sources": ("/a.mp4",),
        "out": "/out",
        "version": "1.0",
        "installed": False,
        "runner": submission.CLUSTER,
    }
    return Order(**{**plain, **more})


def test_the_command_line_survives_the_shell() -> None:
    nasty = ("/a b.mp4", "/$(id)", "/`id`", "/'\"", "/\n;x", "/*", "/\\")
    order = an_order(sources=nasty, overrides=("a.b=$HOME",))
    words = shlex.split(order.line)[1:]
    seen = subprocess.run(
        ["/bin/sh", "-c", order.line.replace("python -m", "printf '%s\\0' -m", 1)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")[:-1]
    assert seen == words[1:]
    assert tuple(words[4 : 4 + len(nasty)]) == nasty
    plain = "exec python -m pipeline.cli.job_entrypoint run /a.mp4 --out /out --runner cluster"
    plain += " --address auto"
    assert an_order().line == f"{plain} --preset default"
    full = an_order(installed=True, config=Path("x"), priority=-2, share=0.25, resume=True).line
    assert full.startswith("exec python -m pipeline.cli.job_entrypoint --expect 1.0 run ")
    assert full.endswith("--config submitted.yaml --priority -2 --share 0.25 --resume")
    with pytest.raises(UsageError, match="submit them as several jobs"):
        _ = an_order(sources=("/" + "a" * 100,) * 2000).line


def test_what_the_dashboard_shows_holds_no_secret(capfd: Say) -> None:
    for source in ("rtsp://me:hush@cam/1", "https://host/a.mp4?X-Amz-Signature=hush"):
        with pytest.raises(SourceError, match="REEL3D_CREDENTIALS") as caught:
            absolute(source, remote=False)
        assert "hush" not in str(caught.value)
        assert main(["submit", source]) == 3
        said = capfd.readouterr()
        assert "hush" not in said.err + said.out
    assert absolute("rtsp://cam/1", remote=False) == "rtsp://cam/1"


def test_paths_of_here_and_of_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert absolute("a.png", remote=False) == str(tmp_path / "a.png")
    assert absolute("*.png", remote=False) == str(tmp_path / "*.png")
    assert absolute("/not/here.mp4", remote=True) == "/not/here.mp4"
    for missing in ("b.png", "*.jpg"):
        with pytest.raises(SourceError, match="--remote-paths"):
            absolute(missing, remote=False)
    with pytest.raises(UsageError, match="is not a path of the cluster"):
        absolute("a.png", remote=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.mp4", "depth.neighbor=4"], "did you mean 'neighbors'"),
        (["a.mp4", "--share", "0"], "above 0 and at most 1"),
        (["a.mp4", "--priority", "high"], "a whole number"),
        (["ftp://host/a.mp4"], "cannot be read; allowed are files"),
        (["/a.mp4", "--remote-paths"], "--out names a folder of the cluster"),
        (["depth.neighbors=4"], "no source given"),
        (["a.mp4", "--wiat"], "unrecognized argument: --wiat"),
    ],
)
def test_slips_are_told_before_anybody_is_asked(words: list[str], told: str, capfd: Say) -> None:
    Path("a.mp4").touch()
    assert main(["submit", *words, "--address", "127.0.0.1:1"]) in (2, 3)
    err = capfd.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_the_upload_holds_the_code_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("extends: understand\n")
    package = tmp_path / "package"
    package.mkdir()
    assert pack(package, root=ROOT, config=config) == package
    assert {path.name for path in package.iterdir()} == {
        *("pipeline", "stages", "configs", "pyproject.toml", "submitted.yaml")
    }
    for folder in ("pipeline", "stages"):
        brought = {p.relative_to(package) for p in (package / folder).rglob("*.py")}
        assert brought == {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*.py")}
    assert not list(package.rglob("*.pyc"))
    # It runs from there, wherever the code that packed it lies.
    environment = {**os.environ, "PYTHONPATH": ""}
    program = "import pipeline, sys; print(pipeline.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(package / "pipeline" / "__init__.py")

    monkeypatch.setattr(submission, "LARGEST_UPLOAD_BYTES", 10_000)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UsageError, match="the largest file is "):
        pack(other, root=ROOT, config=None)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert pack(empty, root=None, config=None) is None


def test_what_the_cluster_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[ >=<;\[]", want)[0] for want in project["dependencies"]}
    assert set(preflight.MODULES.values()) == wanted
    low, high = preflight.PYTHONS
    stated = f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
    assert project["requires-python"] == stated
    assert preflight.unfit(None) is None
    monkeypatch.setitem(preflight.MODULES, "no_such_module", "no-such")
    assert "lacks no-such;" in (preflight.unfit(None) or "")
    monkeypatch.setattr(sys, "version_info", (3, 10, 1, "final", 0))
    assert "needs Python 3.11 to 3.13" in (preflight.unfit(None) or "")


@dataclass
class _Failed:
    driver_exit_code: int | None
    message: str
    status: str = "FAILED"


@pytest.mark.parametrize(
    ("code", "message", "told", "ours"),
    [
        (3, "logs:\nreel3d: no video\nsome echo", "no video", 3),
        (1, "x\npython: No module named pipeline.cli.job_entrypoint", "it has no reel3d", 1),
        (
            1,
            "Traceback\n  x\nKeyError: 3\n\nreel3d 1.0: this is a bug; please report the above",
            "KeyError: 3",
            1,
        ),
        (127, "sh: exec: python: not found", "no `python`", 4),
        (-9, "gone", "signal 9 (often for want of memory)", 4),
        (137, "gone", "signal 9", 4),
        (None, "Runtime env setup failed\nfor s3://u:pw@x", "for s3://***@x", 4),
        (None, "", "it gave no reason", 4),
    ],
)
def test_why_a_job_failed(code: int | None, message: str, told: str, ours: int) -> None:
    job = _Failed(code, message)
    assert told in reason(job)
    assert exit_code(job) == ours
