"""Sources that cannot be used: one clear line, exit code 3, no traceback, nothing left behind."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.cli.main import main
from tests.support.scenes import encode

Say = pytest.CaptureFixture[str]


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    rng = np.random.default_rng(width)
    return rng.integers(0, 255, (height, width, 3), np.uint8)


def missing(path: Path) -> None:
    assert not path.exists()


def empty_folder(path: Path) -> None:
    path.mkdir()


def empty_file(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("this is no video, whatever its name says\n" * 50)


def sound_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2048), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_moov(path: Path) -> None:
    encode(path, [picture() for _ in range(30)])
    whole = path.read_bytes()
    assert whole.rindex(b"moov") > len(whole) // 3, "the index must come last to be cut off"
    path.write_bytes(whole[: whole.rindex(b"moov") - 4])


def playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")


def concatenation(path: Path) -> None:
    path.write_text("ffconcat version 1.0\nfile /etc/passwd\n")


def device(path: Path) -> None:
    os.mkfifo(path)


SOURCES: list[tuple[Callable[[Path], None], str]] = [
    (missing, "no such file"),
    (empty_folder, "no image"),
    (empty_file, "empty"),
    (text, "it holds text"),
    (sound_only, "no video stream"),
    (no_moov, "moov"),
    (playlist, "playlist"),
    (concatenation, "playlist"),
    (device, "regular file"),
]


@pytest.mark.parametrize(("make", "word"), SOURCES, ids=[make.__name__ for make, _ in SOURCES])
def test_an_unusable_source_is_one_line_and_exit_code_3(
    tmp_path: Path, capfd: Say, make: Callable[[Path], None], word: str
) -> None:
    source = tmp_path / "film.mp4"
    make(source)
    code = main(["run", str(source), "--out", str(tmp_path / "out"), "--preset", "understand"])
    said = capfd.readouterr()
    assert code == 3, said.err
    (line,) = [line for line in said.err.splitlines() if "reel3d:" in line]
    assert word in line.lower(), line
    assert "film.mp4" in line
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("uri", "shown", "hidden"),
    [
        ("rtsp://user:secret@127.0.0.1:9/live", "rtsp://***@127.0.0.1:9/live", "secret"),
        ("https://127.0.0.1/film.mp4", "https://127.0.0.1/film.mp4", None),
    ],
)
def test_addresses_are_refused_without_a_connection_and_without_their_password(
    tmp_path: Path, capfd: Say, uri: str, shown: str, hidden: str | None
) -> None:
    code = main(["run", uri, "--out", str(tmp_path / "out"), "--preset", "understand"])
    said = capfd.readouterr()
    assert code == 3, said.err
    assert shown in said.err
    assert hidden is None or hidden not in said.err + said.out


def test_one_frame_gives_what_one_frame_can_give(tmp_path: Path, capfd: Say) -> None:
    source = tmp_path / "still.mp4"
    encode(source, [picture(160, 120)])
    out = tmp_path / "out"
    code = main(["run", str(source), "--out", str(out), "--quiet"])
    said = capfd.readouterr()
    assert code == 4, said.err
    (line,) = said.err.splitlines()
    assert "pose/colmap: camera poses not made: no parallax: only 1 keyframe" in line
    assert said.out == f"{out}\n"
    assert (out / "manifest.json").is_file()
    assert (out / "events.jsonl").is_file()
    assert not (out / "points.ply").exists()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 9)])
def test_tiny_pictures_do_not_crash(tmp_path: Path, capfd: Say, size: tuple[int, int]) -> None:
    source = tmp_path / "tiny.mkv"
    images = [picture(*size) for _ in range(12)]
    encode(source, images, codec="ffv1", crf=None, pix_fmt="bgr0", bframes=0)
    code = main(["run", str(source), "--out", str(tmp_path / "out")])
    said = capfd.readouterr()
    assert code in (3, 4), said.err
    assert "Traceback" not in said.err
    assert "a bug in" not in said.err
