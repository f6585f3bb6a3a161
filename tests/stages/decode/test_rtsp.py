"""Cameras: times, loss, faults and silence, with a real server in a process of its own."""

import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.contract import Context, Metric, Source
from pipeline.errors import SourceError
from stages.decode._camera.clock import CameraClock
from stages.decode._camera.connection import Connection
from stages.decode._camera.drop_oldest import DropOldest
from stages.decode._camera.options import Config
from stages.decode._camera.reader import CameraReader
from stages.decode.rtsp import Model
from tests.support.media import Told, number_of, numbered, write_video
from tests.support.rtsp_server import Loopback

STEP = 33_333_333
QUICK = {"read_s": 2.0, "connect_s": 5.0, "retry_first_s": 0.05, "retry_longest_s": 0.2}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of numbered pictures at 30 fps, a keyframe a second, with B-frames."""
    path = tmp_path_factory.mktemp("rtsp") / "numbered.mp4"
    return write_video(path, map(numbered, range(90)), options={"g": "30", "bf": "2"})


@pytest.fixture(scope="module")
def server(film: Path) -> Iterator[Loopback]:
    with Loopback(film, loop=True) as running:
        yield running


def connect(url: str, told: Told | None = None, **options: Any) -> CameraReader:
    stage = Model(Config(**{**QUICK, **options}))
    stage.open(Context(report=(told or Told()).events.append))
    reader = stage.process(Source(uri=url, shown="rtsp://***@camera", name="cam"))
    assert isinstance(reader, CameraReader)
    return reader


def segments(reader: CameraReader) -> Iterator[list[tuple[int, int, int]]]:
    """Index, time and number of each picture, connection by connection."""
    while got := [(p.index, p.pts_ns, number_of(p.rgb())) for p in reader.scan()]:
        yield got
    reader.close()


def figures(told: Told) -> dict[str, float]:
    return {event.name: event.value for event in told.events if isinstance(event, Metric)}


# The clock


def test_the_clock_fills_in_what_the_camera_does_not_say() -> None:
    clock = CameraClock(STEP)
    says = [None, None, -STEP, 0, STEP]
    times = [clock.place(said, n * STEP) for n, said in enumerate(says)]
    assert times == [n * STEP for n in range(5)]


@pytest.mark.parametrize("jump_s", [-3600, 7200])
def test_a_clock_that_is_set_leaves_no_mark(jump_s: int) -> None:
    clock = CameraClock(STEP)
    says = [n * STEP + (jump_s * 10**9 if n > 5 else 0) for n in range(10)]
    times = [clock.place(said, n * STEP) for n, said in enumerate(says)]
    assert times == [n * STEP for n in range(10)]


def test_a_new_connection_goes_on_by_the_time_that_passed() -> None:
    clock = CameraClock(STEP)
    assert [clock.place(10**15, 0), clock.place(10**15 + STEP, STEP)] == [0, STEP]
    clock.begin()
    assert clock.place(5, 4 * 10**9) == 4 * 10**9
    assert clock.place(5 + STEP, 4 * 10**9 + 1) == 4 * 10**9 + STEP


def test_times_rise_strictly_whatever_comes() -> None:
    random = np.random.default_rng(0)
    clock, arrived, times = CameraClock(STEP), 0, list[int]()
    for _ in range(3000):
        arrived += int(random.integers(0, 10**8))
        said = int(random.normal(arrived, 10 ** random.integers(1, 13)))
        if random.random() < 0.02:
            clock.begin()
        times.append(clock.place(None if random.random() < 0.2 else said, arrived))
    assert min(b - a for a, b in pairwise(times)) > 0
    # It cannot run far ahead of the time that passed here, of 150 s.
    assert times[-1] < arrived + 30e9


# The edge


def test_the_edge_drops_the_oldest_by_count_and_by_bytes() -> None:
    edge = DropOldest[int](most=4, most_bytes=100)
    for n in range(7):
        edge.put(n, 10)
    assert (edge.taken, edge.dropped) == (7, 3)
    edge.put(7, 85)
    assert [edge.get(0), edge.get(0), edge.get(0)] == [6, 7, None]
    edge.put(8, 1000)
    edge.close()
    edge.put(9, 1)
    assert [edge.get(0), edge.get(60)] == [8, None], "the newest stays, whatever its size"
    assert (edge.taken, edge.dropped) == (9, 6)


def test_the_edge_never_makes_its_writer_wait_and_loses_nothing_uncounted() -> None:
    edge = DropOldest[int](most=8, most_bytes=10**9)
    got = list[int]()

    def read() -> None:
        while (n := edge.get(5)) is not None:
            got.append(n)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(20_000):
        edge.put(n)
    edge.close()
    reader.join()
    assert got == sorted(got)
    assert got[-1] == 19_999
    assert len(got) + edge.dropped == edge.taken == 20_000


# What comes


def test_every_picture_comes_once_in_order_and_in_time(server: Loopback) -> None:
    told = Told()
    reader = connect(server.url(), told, for_s=2.5)
    probe = reader.probe
    assert (probe.kind, probe.frames, probe.duration_s) == ("camera", None, None)
    assert (reader.probe.width, reader.probe.height, reader.probe.fps) == (160, 96, 30)
    with pytest.raises(SourceError, match=r"sample\.model must be adaptive, fps or dense"):
        reader.timeline()
    (got,) = segments(reader)
    assert [index for index, _, _ in got] == list(range(len(got)))
    assert [number for _, _, number in got] == [n % 90 for n in range(len(got))]
    assert np.abs(np.array([at for _, at, _ in got]) - np.arange(len(got)) * 1e9 / 30).max() < 1e5
    assert 2.4 < got[-1][1] / 1e9 < 5
    assert figures(told)["dropped_frames"] == 0
    assert figures(told)["received_frames"] == len(got)
    assert told.warnings == []


def test_a_slow_chain_costs_the_oldest_and_each_is_counted(server: Loopback) -> None:
    told = Told()
    reader = connect(server.url(), told, for_s=3, buffer_frames=5)
    indices = list[int]()
    for picture in reader.scan():
        indices.append(picture.index)
        assert number_of(picture.rgb()) == picture.index % 90
        time.sleep(0.15)
    reader.close()
    said = figures(told)
    assert said["received_frames"] > 75, "the camera was held up"
    assert len(indices) < 45
    assert said["dropped_frames"] == said["received_frames"] - len(indices)
    assert "frames were dropped: the chain is slower than the camera" in told.warnings[-1]
    assert said["dropped_share"] == pytest.approx(1 - len(indices) / said["received_frames"])


def test_pictures_faster_than_allowed_are_dropped_and_counted(server: Loopback) -> None:
    told = Told()
    reader = connect(server.url(), told, for_s=1, max_fps=10)
    (got,) = segments(reader)
    assert all(b[1] - a[1] >= 0.5e8 for a, b in pairwise(got))
    assert figures(told)["dropped_frames"] == figures(told)["received_frames"] - len(got) > 5


@pytest.mark.parametrize(
    ("fault", "first"),
    [({"negative": True}, 0), ({"skip": 7}, 30), ({"same_times": 4}, 0), ({"rtptime": 1}, 0)],
)
def test_odd_beginnings(film: Path, fault: dict[str, Any], first: int) -> None:
    with Loopback(film, loop=True, **fault) as server:
        (got,) = segments(connect(server.url(), for_s=1))
    assert [number for _, _, number in got] == [n % 90 for n in range(first, first + len(got))]
    assert min(b[1] - a[1] for a, b in pairwise(got)) > 0
    assert got[0][1] == 0
    assert got[-1][1] == pytest.approx(len(got) * 1e9 / 30, abs=1.5e8)


def test_damage_costs_pictures_up_to_the_next_keyframe_only(tmp_path: Path) -> None:
    told = Told()
    options = {"g": "30", "tune": "zerolatency"}
    film = write_video(tmp_path / "plain.mp4", map(numbered, range(90)), options=options)
    with Loopback(film, loop=True, damage="40") as server:
        (got,) = segments(connect(server.url(), told, for_s=1.7))
    numbers = [number for _, _, number in got]
    assert numbers[:50] == [*range(40), *range(60, 70)]
    # Time goes on under what is missing.
    assert got[40][1] - got[39][1] == pytest.approx(21e9 / 30, abs=1e6)
    assert figures(told)["damaged_frames"] == 20


# What goes wrong


def test_a_stall_and_a_closed_connection_begin_a_new_segment(film: Path) -> None:
    for fault, why in (
        ({"stall_after": 20}, "it sent nothing for 0.6 s"),
        ({"drop_after": 20}, "the camera closed the connection"),
    ):
        told = Told()
        with Loopback(film, loop=True, **fault) as server:
            first, second = segments(connect(server.url(), told, for_s=3, read_s=0.6))
        assert [first[-1][2], second[0][2]] == [17, 0]
        assert second[0][0] == first[-1][0] + 1
        assert 0.3e9 < second[0][1] - first[-1][1] < 4e9
        lost, back = told.warnings
        assert lost.endswith(f"the connection was lost at 0.6 s: {why}")
        assert "was back after" in back
        assert figures(told)["reconnects"] == 1


def test_frames_flow_again_after_the_server_was_killed(film: Path) -> None:
    told = Told()
    times = list[int]()
    with Loopback(film, loop=True) as server:
        reader = connect(server.url(), told)
        for turn in range(3):
            began = time.monotonic()
            for n, picture in enumerate(reader.scan()):
                if n == 0:
                    assert time.monotonic() - began < 5
                times.append(picture.pts_ns)
                if n == 5 and turn < 2:
                    server.kill()
                    server.start()
                if n == 5 and turn == 2:
                    reader.stop()
        reader.close()
    assert min(b - a for a, b in pairwise(times)) > 0
    assert (figures(told)["segments"], figures(told)["reconnects"]) == (3, 2)
    assert len(told.warnings) == 4


def test_another_size_after_a_reconnect_is_scaled_to_the_first(film: Path, tmp_path: Path) -> None:
    larger = (numbered(n, 320, 192) for n in range(60))
    other = write_video(tmp_path / "larger.mp4", larger, options={"g": "15"})
    told = Told()
    with Loopback(film, other, drop_after=20) as server:
        reader = connect(server.url(), told, for_s=3)
        first, second = ([p.rgb() for p in reader.scan()] for _ in range(2))
        reader.close()
    assert {image.shape for image in (*first, *second)} == {(96, 160, 3)}
    assert [number_of(image) for image in second[:5]] == list(range(5))
    assert sum("change from 160x96 to 320x192" in warning for warning in told.warnings) == 1


def test_stopping_while_it_reconnects_is_quick(film: Path) -> None:
    with Loopback(film, loop=True) as server:
        reader = connect(server.url(), retry_first_s=60, retry_longest_s=60)
        next(iter(reader.scan()))
        server.kill()
        for _ in reader.scan():
            pass
        threading.Timer(0.3, reader.stop).start()
        began = time.monotonic()
        assert list(reader.scan()) == []
        assert 0.2 < time.monotonic() - began < 10, "it would wait 60 s"
        reader.close()
        assert time.monotonic() - began < 15


def test_it_can_give_up(film: Path) -> None:
    told = Told()
    with Loopback(film, loop=True) as server:
        reader = connect(server.url(), told, give_up_s=0.8)
        next(iter(reader.scan()))
        server.kill()
        began = time.monotonic()
        list(segments(reader))
        assert time.monotonic() - began < 5
    assert "the stream ends there" in told.warnings[-1]


def test_a_connection_that_hangs_for_ever_is_left_behind(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's limits cannot be made to fail at will: here the second connection ignores them."""
    opened, release, calls = Connection._open, threading.Event(), list[int]()

    def sometimes(link: Connection) -> Any:
        calls.append(1)
        if len(calls) == 2:
            release.wait()
        return opened(link)

    monkeypatch.setattr(Connection, "_open", sometimes)
    told = Told()
    with Loopback(film, loop=True, drop_after=5) as server:
        reader = connect(server.url(), told, connect_s=0.9)
        assert len(list(reader.scan())) > 0
        after = next(iter(reader.scan()))
        assert len(calls) == 3
        # What was left behind comes back to life, and is not listened to.
        release.set()
        indices = [picture.index for picture, _ in zip(reader.scan(), range(20), strict=False)]
        assert indices == list(range(after.index + 1, after.index + 21))
        reader.close()


def message(url: str, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        connect(url, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert "hunter2" not in text + repr(caught.value.__cause__)
    assert text.startswith("cannot read rtsp://***@camera: ")
    return text


def test_why_the_first_connection_fails(film: Path) -> None:
    assert "nothing listens there" in message("rtsp://u:hunter2@127.0.0.1:1/live")
    assert "cannot be reached" in message("rtsp://u:hunter2@no.such.invalid/live")
    for auth in ("digest", "basic"):
        with Loopback(film, user="u", password="secret", auth=auth) as server:
            assert "does not accept the user and password (401)" in message(server.url("u:hunter2"))
            connect(server.url("u:secret")).close()
    with Loopback(film, missing=True) as server:
        assert "no stream of that name (404)" in message(server.url("u:hunter2"))
    with Loopback(film, silent=True) as server:
        began = time.monotonic()
        assert "does not answer within 1 s" in message(server.url("u:hunter2"), connect_s=0.8)
        assert time.monotonic() - began < 15


def test_who_does_not_speak_rtsp_is_told_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            client.recv(4096)
            client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 20)
            client.close()

        threading.Thread(target=answer, daemon=True).start()
        port = listener.getsockname()[1]
        text = message(f"rtsp://u:hunter2@127.0.0.1:{port}/live", connect_s=2)
    assert "no RTSP" in text or "cannot be reached" in text


def test_limits_hold_for_cameras_too(server: Loopback) -> None:
    with pytest.raises(SourceError, match=r"is 160x96: 15360 pixels; at most 9999 are allowed"):
        connect(server.url(), max_pixels=9999)
    with pytest.raises(SourceError, match="must begin with rtsp:// or rtsps://"):
        connect("file:///etc/passwd")
    with pytest.raises(ValueError, match="retry_longest_s"):
        Config(retry_first_s=3, retry_longest_s=1)


def test_a_camera_with_two_lenses(tmp_path: Path) -> None:
    images = [np.concatenate([numbered(n), numbered(n + 200)], axis=1) for n in range(30)]
    film = write_video(tmp_path / "pairs.mp4", images, options={"g": "10", "bf": "0"})
    with Loopback(film, loop=True) as server:
        reader = connect(server.url(), for_s=1, stereo="side_by_side")
        pairs = [(p.rgb(), p.right()) for p in reader.scan()]
        reader.close()
    assert (reader.probe.width, reader.probe.stereo) == (numbered(0).shape[1], "side_by_side")
    assert len(pairs) >= 10
    assert all(number_of(right) == number_of(left) + 200 for left, right in pairs)
