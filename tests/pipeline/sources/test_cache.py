"""Sources by address: whole or not at all, bounded, once, and without a secret in sight."""

import contextlib
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.api import make_source
from pipeline.cli.main import main
from pipeline.contract import Context
from pipeline.errors import OutputError, SourceError, UsageError
from pipeline.sources import cache as fetch
from pipeline.sources import remote
from pipeline.sources.urls import mask, plain_path, scrub, secret_in, with_login
from stages.decode import rtsp
from tests.support.rtsp_server import Loopback

FILM = np.random.default_rng(0).integers(0, 256, 3 << 20, dtype=np.uint8).tobytes()


class _Site(http.server.ThreadingHTTPServer):
    """Serves FILM the way the path asks for, and counts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content = FILM
        self.sent: list[tuple[str, str, str | None]] = []
        """Of every GET: path, Range, Authorization."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def gets(self, path: str) -> int:
        return sum(seen == path for seen, _, _ in self.sent)


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.sent.append((self.path, wanted, self.headers.get("Authorization")))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        site, path = self.server, self.path.partition("?")[0]
        refusals = {"/gone.mp4": 404, "/denied.mp4": 403, "/broken.mp4": 500}
        if path in refusals or (path == "/login.mp4" and "Authorization" not in self.headers):
            self.send_response(refusals.get(path, 401))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path in ("/to-file.mp4", "/away.mp4"):
            self.send_response(302)
            elsewhere = f"http://localhost:{site.server_address[1]}/film.mp4"
            self.send_header("Location", "file:///etc/passwd" if "file" in path else elsewhere)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = site.content
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == tag and path != "/no-ranges.mp4":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            whole = len(content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Connection", "close")
        if path not in ("/endless.mp4", "/unsized.mp4"):
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.close_connection = True
        if not body:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(path, content, start)

    def _send(self, path: str, content: bytes, start: int) -> None:
        if path == "/endless.mp4":
            while True:
                self.wfile.write(bytes(1 << 16))
        if path in ("/flaky.mp4", "/no-ranges.mp4") and self.server.gets(path) <= 2:
            # The line breaks after a megabyte, the first two times.
            self.wfile.write(content[start : start + (1 << 20)])
            return
        if path == "/short.mp4":
            self.wfile.write(content[start : start + 1000] if start == 0 else b"")
            return
        if path == "/changing.mp4":
            self.server.content = os.urandom(1 << 16)
        if path == "/slow.mp4":
            time.sleep(0.5)
        self.wfile.write(content[start:])


@pytest.fixture
def site() -> Iterator[_Site]:
    server = _Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REEL3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    return tmp_path / "cache" / "sources"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_film_is_copied_whole_and_once(site: _Site, cache: Path) -> None:
    source = make_source(site.url("/film.mp4"))
    heard: list[tuple[int, int | None]] = []
    copy = fetch.local(source, lambda done, whole: heard.append((done, whole)))
    assert Path(copy.uri).read_bytes() == FILM
    assert (copy.shown, copy.name, Path(copy.uri).suffix) == (source.shown, source.name, ".mp4")
    assert heard[-1] == (len(FILM), len(FILM))
    again = fetch.local(source)
    assert again == copy
    assert site.gets("/film.mp4") == 1
    assert [path.name for path in copies(cache)] == [Path(copy.uri).name]


def test_another_film_at_the_same_address_is_another_copy(site: _Site, cache: Path) -> None:
    source = make_source(site.url("/film.mp4"))
    first, before = fetch.local(source), fetch.fingerprint(source)
    assert fetch.fingerprint(source) == before
    site.content = FILM[: 1 << 20]
    assert fetch.fingerprint(source) != before
    second = fetch.local(source)
    assert Path(second.uri).read_bytes() == FILM[: 1 << 20]
    assert Path(first.uri).read_bytes() == FILM


def test_a_signature_is_no_part_of_what_a_film_is(site: _Site) -> None:
    def of(query: str) -> str:
        return fetch.fingerprint(make_source(site.url(f"/film.mp4?{query}")))

    assert of("id=1&X-Amz-Signature=a&X-Amz-Date=1") == of("id=1&X-Amz-Signature=b&X-Amz-Date=2")
    assert of("id=1") != of("id=2")


def test_a_broken_line_goes_on_where_it_broke(site: _Site) -> None:
    copy = fetch.local(make_source(site.url("/flaky.mp4")))
    assert Path(copy.uri).read_bytes() == FILM
    ranges = [int(wanted[6:-1]) if wanted else 0 for _, wanted, _ in site.sent]
    assert ranges[0] == 0
    assert ranges == sorted(set(ranges))
    assert ranges[-1] > 0


def test_a_server_without_ranges_is_read_from_the_beginning(site: _Site) -> None:
    copy = fetch.local(make_source(site.url("/no-ranges.mp4")))
    assert Path(copy.uri).read_bytes() == FILM
    assert site.gets("/no-ranges.mp4") == 3


def test_a_server_that_tells_no_size(site: _Site) -> None:
    assert Path(fetch.local(make_source(site.url("/unsized.mp4"))).uri).read_bytes() == FILM


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/gone.mp4", "there is no such file"),
        ("/denied.mp4", "access is refused"),
        ("/login.mp4", "REEL3D_CREDENTIALS"),
        ("/broken.mp4", "HTTP 500"),
        ("/short.mp4", "broke off again and again"),
        ("/to-file.mp4", "not HTTP"),
        ("/endless.mp4", "does not end"),
        ("/changing.mp4", "keeps changing"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_no_file(
    site: _Site, cache: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.setenv("REEL3D_LARGEST_SOURCE_GB", "0.005")
    source = make_source(site.url(f"{path}?token=hu5h"))
    with pytest.raises(SourceError) as caught:
        fetch.local(source)
    assert words in str(caught.value)
    assert "hu5h" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache.is_dir() or not copies(cache)


def test_what_is_too_large_is_refused_before_a_byte_is_fetched(
    site: _Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEL3D_LARGEST_SOURCE_GB", "0.001")
    with pytest.raises(SourceError, match=r"at most 0\.001 GB"):
        fetch.local(make_source(site.url("/film.mp4")))
    assert site.gets("/film.mp4") == 0
    monkeypatch.setenv("REEL3D_LARGEST_SOURCE_GB", "much")
    with pytest.raises(UsageError, match="a number of gigabytes"):
        fetch.local(make_source(site.url("/film.mp4")))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:9/film.mp4", "Cannot connect"),
        ("http://nobody.invalid/film.mp4", "no host of this name"),
        ("http:///film.mp4", "names no host"),
        ("s3://bucket/film.mp4", "pip install 'reel3d[s3]'"),
        ("gs://bucket/film.mp4", "pip install 'reel3d[gcs]'"),
    ],
)
def test_no_way_to_the_film(uri: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for driver in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises((SourceError, UsageError)) as caught:
        fetch.local(make_source(uri))
    assert words in str(caught.value)


def test_a_login_comes_from_the_credentials_file_and_leaves_no_trace(
    site: _Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins = tmp_path / "logins"
    logins.write_text("machine 127.0.0.1 login me password hush/@\n")
    monkeypatch.setenv("REEL3D_CREDENTIALS", str(logins))
    source = make_source(site.url("/login.mp4"))
    copy = fetch.local(source)
    assert Path(copy.uri).read_bytes() == FILM
    assert site.sent[-1][2] == "Basic bWU6aHVzaC9A"
    assert "hush" not in repr(copy)
    # Another host does not get it, even where this one sends us there.
    fetch.local(make_source(site.url("/away.mp4")))
    assert [login for path, _, login in site.sent if path == "/film.mp4"] == [None]

    logins.write_text("machine 127.0.0.1 login me passwort hush\n")
    with pytest.raises(UsageError, match="netrc") as caught:
        fetch.local(source)
    assert "hush" not in str(caught.value)


def test_only_one_process_fetches(site: _Site, cache: Path) -> None:
    program = (
        "import sys; from pipeline.sources import cache; from pipeline.api import make_source;"
        "print(cache.local(make_source(sys.argv[1])).uri)"
    )
    url = site.url("/slow.mp4")
    command = [sys.executable, "-c", program, url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0] for process in both}
    assert len(paths) == 1
    assert site.gets("/slow.mp4") == 1
    assert [path.read_bytes() for path in copies(cache)] == [FILM]


def test_the_oldest_copies_make_room(
    site: _Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    for name, age_s in (("old", 3 * 86400), ("older", 9 * 86400), ("used", 3600)):
        (cache / name).write_bytes(bytes(1 << 20))
        os.utime(cache / name, times=(time.time() - age_s,) * 2)
    monkeypatch.setenv("REEL3D_CACHE_GB", f"{5.3 * (1 << 20) / 1e9:.9f}")
    fetch.local(make_source(site.url("/film.mp4")))
    assert {path.name for path in copies(cache)} > {"old", "used"}
    assert not (cache / "older").exists()


def test_a_full_disk_is_told_before_the_copy(site: _Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SPARE_BYTES", 1 << 60)
    with pytest.raises(OutputError, match="REEL3D_CACHE"):
        fetch.local(make_source(site.url("/film.mp4")))
    assert site.gets("/film.mp4") == 0


def test_a_cache_that_cannot_be_made(
    site: _Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("REEL3D_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="let REEL3D_CACHE name a folder"):
        fetch.local(make_source(site.url("/film.mp4")))


def test_a_server_that_trickles_is_given_up(site: _Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PATIENCE_S", -1)
    monkeypatch.setattr(fetch, "SLOWEST_BYTES_S", 1e15)
    with pytest.raises(SourceError, match="comes too slowly"):
        fetch.local(make_source(site.url("/film.mp4")))


def test_object_stores_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1 << 20)
    fsspec.filesystem("memory").pipe("/bucket/film.mp4", FILM)
    copy = fetch.local(make_source("memory://bucket/film.mp4"))
    assert Path(copy.uri).read_bytes() == FILM
    with pytest.raises(SourceError, match="no such file"):
        fetch.local(make_source("memory://bucket/other.mp4"))
    with pytest.raises(SourceError, match="names a folder"):
        fetch.local(make_source("memory://bucket"))


def test_paths_and_cameras_are_left_alone() -> None:
    for uri in ("film.mp4", "/a/b", "rtsp://camera/live"):
        source = make_source(uri)
        assert fetch.local(source) is source or fetch.local(source) == source
    source = replace(make_source("x.mp4"), uri="zip://film.mp4::http://127.0.0.1:9/a.zip")
    assert fetch.local(source) == source


@pytest.mark.parametrize(
    ("uri", "shown", "secret"),
    [
        ("rtsp://admin:pw@cam:554/live", "rtsp://***@cam:554/live", "a login"),
        ("https://tok@host/x", "https://***@host/x", "a login"),
        ("rtsp://h/x?user=me&password=pw", "rtsp://h/x?user=me&password=***", "'password'"),
        ("https://h/x?a=1&X-Amz-Signature=f0", "https://h/x?a=1&X-Amz-Signature=***",
         "'X-Amz-Signature'"),
        ("https://h/x?id=7#t=3", "https://h/x?id=7#t=3", None),
        ("http://u:p@[bad/x", "http://***@[bad/x", "a login"),
        ("s3://bucket/a@b.mp4", "s3://bucket/a@b.mp4", None),
        ("/films/a@b.mp4", "/films/a@b.mp4", None),
    ],
)  # fmt: skip
def test_secrets_in_addresses(uri: str, shown: str, secret: str | None) -> None:
    assert mask(uri) == shown
    assert secret_in(uri) == secret
    said = scrub(f"cannot open {uri!r}: timed out")
    assert not any(word in said for word in ("pw", "f0", "tok"))


def test_file_addresses_are_paths() -> None:
    assert plain_path("file:///films/a%20b.mp4") == "/films/a b.mp4"
    assert plain_path("file://localhost/x") == "/x"
    for bad in ("file://elsewhere/x", "file:///a%00b", "file:x"):
        if bad == "file:x":
            assert plain_path(bad) == bad
            continue
        with pytest.raises(SourceError, match="not a file of this machine"):
            plain_path(bad)


def test_a_login_in_the_address_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logins").write_text("machine cam login a password b\nmachine n login c\n")
    monkeypatch.setenv("REEL3D_CREDENTIALS", str(tmp_path / "logins"))
    assert with_login("rtsp://cam:554/x") == "rtsp://a:b@cam:554/x"
    assert with_login("rtsp://x:y@cam/x") == "rtsp://x:y@cam/x"
    assert with_login("rtsp://other/x") == "rtsp://other/x"
    monkeypatch.setenv("REEL3D_CREDENTIALS", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="cannot be read"):
        with_login("rtsp://cam/x")


def test_a_camera_finds_its_login_in_the_credentials_file(
    short_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins = tmp_path / "logins"
    monkeypatch.setenv("REEL3D_CREDENTIALS", str(logins))
    with Loopback(short_film, user="me", password="hu5h") as server:
        source = make_source(server.url())
        for password, reason in (("hu5h", None), ("wrong", "(401)"), ("a b", "netrc's form")):
            logins.write_text(f"machine 127.0.0.1 login me password {password}\n")
            camera = rtsp.Model(rtsp.Config(connect_s=5))
            camera.open(Context())
            if reason is None:
                camera.process(source).close()
                continue
            with pytest.raises((SourceError, UsageError)) as caught:
                camera.process(source)
            assert reason in str(caught.value)
            assert f" {password}" not in str(caught.value)


def test_the_command_runs_on_an_address(
    site: _Site, short_film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.content = short_film.read_bytes()
    out = tmp_path / "run"
    words = [site.url("/film.mp4?token=hu5h"), "--preset", "understand", "--out", str(out)]
    assert main(["run", *words, "sample.model=fps", "sample.fps=2"]) == 0
    for path in (p for p in out.rglob("*") if p.suffix in (".json", ".yaml", ".jsonl", ".html")):
        assert "hu5h" not in path.read_text(encoding="utf-8"), path
    # The same film again: nothing is fetched, nothing is done.
    before = site.gets("/film.mp4?token=hu5h")
    assert main(["run", *words, "sample.model=fps", "sample.fps=2", "--resume"]) == 0
    assert site.gets("/film.mp4?token=hu5h") == before
    assert "nothing had to be done" in capsys.readouterr().err
