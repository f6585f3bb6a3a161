"""Logs: lines that a machine reads, bound to what was worked on, without anybody's password."""

import argparse
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import _parse
from pipeline.cli.shared_options import add_log_options
from pipeline.errors import UsageError
from pipeline.sources import masked
from pipeline.telemetry.logs import LogSettings, bind, bound, configure
from tests.support.paths import ROOT

log = logging.getLogger("tests.logs")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the logging of pytest, the environment and the ids as they were."""
    for name in LogSettings().environment():
        monkeypatch.setenv(name, LogSettings().environment()[name])
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    bind(job=None, stream=None, clip=None, stage=None, node=None)


@pytest.fixture
def logged() -> Callable[..., list[dict[str, Any]]]:
    stream = io.StringIO()
    configure(LogSettings(form="json", level="info"), stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_a_line_with_its_ids(logged):
    bind(job="j7", node="n1")
    with bound(stream="gate"):
        with bound(clip="gate/12", stage="flow/dis"):
            log.warning("gray: %d of %s", 3, "8")
        log.info("next")
    log.debug("not told")
    log.error("after")
    first, second, third = logged()
    assert list(first) == [
        "time", "level", "logger", "message", "job", "stream", "clip", "stage", "node"
    ]  # fmt: skip
    assert first["time"].endswith("Z")
    del first["time"]
    assert first == {
        "level": "WARNING",
        "logger": "tests.logs",
        "message": "gray: 3 of 8",
        "job": "j7",
        "stream": "gate",
        "clip": "gate/12",
        "stage": "flow/dis",
        "node": "n1",
    }
    assert second["stream"] == "gate"
    assert "clip" not in second
    assert "stream" not in third
    assert third["job"] == "j7"


def test_threads_do_not_see_each_others_ids(logged):
    inside, written = threading.Event(), threading.Event()

    def other() -> None:
        with bound(stream="b"):
            inside.set()
            written.wait(5)
            log.warning("b")

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(5)
    with bound(stream="a"):
        log.warning("a")
    written.set()
    thread.join()
    assert {line["message"]: line["stream"] for line in logged()} == {"a": "a", "b": "b"}


def test_only_known_ids_are_bound():
    with pytest.raises(TypeError, match="bound to job, stream, clip, stage, node; got clib"):
        bind(clib="x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:hunter2@cam/1 died", "rtsp://***@cam/1 died"),
        ("rtsp://admin@cam:554/1", "rtsp://***@cam:554/1"),
        ("rtsp://u:p@ss@cam/1", "rtsp://***@cam/1"),
        ("rtsp://u:pa/ss@cam/1", "rtsp://***@cam/1"),
        ("rtsp://u:12345/x@cam/1", "rtsp://u:12345/x@cam/1"),
        ("rtsp://:secret@cam/1", "rtsp://***@cam/1"),
        ("s3://key:secret@bucket/a and ftp://c:d@e", "s3://***@bucket/a and ftp://***@e"),
        ("[tcp @ 0x5] rtsp://u:p@[::1]:554/a?b=c", "[tcp @ 0x5] rtsp://***@[::1]:554/a?b=c"),
        ("http://cam/v?user=me&password=pw&x=1", "http://cam/v?user=me&password=***&x=1"),
        ("https://b/o?X-Amz-Signature=abc", "https://b/o?X-Amz-Signature=***"),
        ("https://host:443/a@b.mp4", "https://host:443/a@b.mp4"),
        ("https://host/a@b.mp4", "https://host/a@b.mp4"),
        ("mail me@host, no address", "mail me@host, no address"),
    ],
)
def test_credentials_are_masked(text: str, shown: str):
    assert masked(text) == shown


def test_no_way_into_a_record_keeps_a_password(logged):
    url = "rtsp://admin:hunter2@cam/1"
    log.warning("lost %s", url)
    log.warning("lost %(url)s", {"url": url})
    with bound(stream=url):
        log.warning("lost")
    try:
        raise OSError(f"cannot open {url}")
    except OSError:
        log.exception("failed", stack_info=True)
    lines = logged()
    assert len(lines) == 4
    assert "hunter2" not in json.dumps(lines)
    assert "OSError: cannot open rtsp://***@cam/1" in lines[3]["exception"]
    assert "test_no_way_into_a_record" in lines[3]["stack"]


def test_text_is_one_line_and_json_survives_any_name():
    stream = io.StringIO()
    configure(LogSettings(), stream)
    with bound(stream="a"):
        log.warning("read\nFORGED: line %s", "rtsp://u:p@c")
    assert stream.getvalue() == "tests.logs: read\\nFORGED: line rtsp://***@c (stream=a)\n"
    stream = io.StringIO()
    logging.getLogger().handlers.clear()  # a report of pytest's cannot carry such a name
    configure(LogSettings(form="json"), stream)
    log.warning("bad name \udcff\n")
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    assert json.loads(line)["message"] == "bad name \udcff\n"


def test_configuring_again_replaces_only_our_own_handler(logged):
    root, other = logging.getLogger(), logging.NullHandler()
    root.addHandler(other)
    before = len(root.handlers)
    configure(LogSettings(), io.StringIO())
    assert len(root.handlers) == before
    assert other in root.handlers
    log.warning("not there any more")
    assert logged() == []


def test_the_record_of_other_handlers_is_left_as_it_was(logged, caplog):
    log.warning("to %s", "all")
    (record,) = caplog.records
    assert record.args == ("all",)


def test_the_command_has_options_and_a_process_of_it_inherits_them(tmp_path: Path):
    parser = argparse.ArgumentParser()
    add_log_options(parser)
    options = parser.parse_args(["--log-format", "json", "--log-level", "info"])
    configure(LogSettings(form=options.log_format, level=options.log_level), io.StringIO())
    program = (
        "import logging\nfrom pipeline.telemetry.logs import bind, configure\nconfigure()\n"
        "bind(stage='flow/dis')\nlogging.getLogger('w').info('from rtsp://a:b@c')\n"
        "logging.getLogger('w').debug('no')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["message"] == "from rtsp://***@c"
    assert line["stage"] == "flow/dis"


def test_unknown_settings_are_refused():
    with pytest.raises(UsageError, match="log format 'xml' is unknown; it is one of text, json"):
        LogSettings(form="xml")  # pyright: ignore
    with pytest.raises(UsageError, match="log level 'loud' is unknown; it is one of debug, info"):
        LogSettings(level="loud")


def test_run_takes_the_options_before_and_after_its_name():
    for words in (["--log-format", "json", "run", "x"], ["run", "x", "--log-format", "json"]):
        options = _parse(words)
        assert (options.log_format, options.log_level) == ("json", "warning")
