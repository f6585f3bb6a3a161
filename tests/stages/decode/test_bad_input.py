"""Whatever is given as a video: one clear line, no traceback, no noise."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import SourceError
from tests.support.media import Told, number_of, numbered, read, write_video


def refusal(path: Path | str, **options: object) -> str:
    with pytest.raises(SourceError) as error:
        read(path, **options)
    text = str(error.value)
    assert "\n" not in text
    return text


def fast_start(path: Path, count: int = 60, size: int = 20) -> Path:
    return write_video(
        path,
        map(numbered, range(count)),
        options={
            "preset": "veryfast",
            "x264-params": f"keyint={size}:min-keyint={size}:scenecut=0:bframes=2",
        },
        container_options={"movflags": "faststart"},
    )


def _sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _no_moov(path: Path) -> None:
    fast_start(path)
    data = path.read_bytes()
    start = data.index(b"moov") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[start + length :])


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.mp4": (
        lambda path: None,
        "cannot read missing.mp4: there is no such file; give a video file, a folder of images or "
        "a glob such as 'frames/*.png'",
    ),
    "folder": (
        lambda path: path.mkdir(),
        "cannot read folder as a video: it is a folder; a folder of images is read with "
        "decode.model=images",
    ),
    "empty.mp4": (
        lambda path: path.touch(),
        "cannot read empty.mp4: it is empty (0 bytes); copy or record it again",
    ),
    "text.mp4": (
        lambda path: path.write_text("hello, this is text"),
        "cannot read text.mp4: it holds text (19 bytes), not video; give a video file",
    ),
    "list.mp4": (
        lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
        "cannot read list.mp4: it is a playlist, which may name other files and is not followed; "
        "give the video file itself",
    ),
    "join.mp4": (
        lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"),
        "cannot read join.mp4: it is a playlist, which may name other files and is not followed; "
        "give the video file itself",
    ),
    "picture.mp4": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
        "cannot read picture.mp4: it is a PNG picture; pictures are read with decode.model=images",
    ),
    "sound.mp4": (
        _sound,
        "sound.mp4 has no video stream: only audio; give a video file",
    ),
    "cut.mp4": (
        _no_moov,
        "cannot read cut.mp4: its index (the moov atom) is missing, as when a recording or a copy "
        "was cut off; copy it again, or repair it with a tool such as untrunc",
    ),
    "pipe.mp4": (
        os.mkfifo,
        "cannot read pipe.mp4: it is a named pipe; give a regular file, so that it can be read "
        "twice",
    ),
    "tiny.mp4": (
        lambda path: write_video(path, [numbered(0, 12, 12)]),
        "tiny.mp4 is 12x12; pictures need at least 16x16 pixels",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_why(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, expected = CASES[name]
    make(tmp_path / name)
    capfd.readouterr()
    assert refusal(tmp_path / name) == expected
    assert capfd.readouterr() == ("", "")


def test_garbage_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "noise.mkv"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert refusal(path).startswith(
        "cannot read noise.mkv: no video format that is allowed fits it (Invalid data"
    )


def test_devices_are_refused() -> None:
    assert "it is a device or socket" in refusal("/dev/zero")


def test_beyond_the_limits(tmp_path: Path) -> None:
    path = fast_start(tmp_path / "a.mp4")
    assert refusal(path, max_pixels=160 * 96 - 1) == (
        "a.mp4 is 160x96: 15360 pixels; at most 15359 are allowed (decode.max_pixels)"
    )
    assert refusal(path, max_duration_s=1.5) == (
        "a.mp4 lasts 2 s; at most 1.5 are read (decode.max_duration_s); take a part with "
        "decode.start_s and decode.end_s"
    )
    assert refusal(path, max_fps=25) == (
        "a.mp4 says 30 frames a second; at most 25 are allowed (decode.max_fps); its header may be "
        "damaged"
    )
    assert refusal(path, stream=4) == (
        "a.mp4 has no video stream number 4; its video streams are 0 (decode.stream)"
    )
    assert refusal(path, start_s=5) == (
        "a.mp4 has no frame between decode.start_s = 5 and decode.end_s = its end; its frames lie "
        "between 0.000 and 1.967 s"
    )


def test_more_than_8k_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8208, 4336, "yuvj420p"
        frame = av.VideoFrame(8208, 4336, "yuvj420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert refusal(path) == (
        "huge.mkv is 8208x4336: 35589888 pixels; at most 35389440 (8192x4320) are read; scale it "
        "down, or raise decode.max_pixels"
    )


@pytest.mark.parametrize(
    "name",
    [
        "a b.mp4",
        'it\'s "q".mp4',
        "two\nlines.mp4",
        "mañana – 日本.mp4",
        "concat:x|y.mp4",
        "%03d.mp4",
    ],
)
def test_any_name_will_do(name: str, tmp_path: Path) -> None:
    path = fast_start(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
    reader = read(path)
    assert [number_of(p.rgb()) for p in reader.scan()] == list(range(5))
    reader.close()
    path.write_bytes(b"nothing")
    assert refusal(path).startswith("cannot read " + name.replace("\n", "\\n") + ": ")


def test_a_cut_file_gives_what_is_there(tmp_path: Path) -> None:
    path = fast_start(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    told = Told()
    reader = read(path, told=told)
    numbers = [number_of(p.rgb()) for p in reader.scan()]
    reader.close()
    count = len(numbers)
    assert numbers == list(range(count))
    assert 20 < count < 50
    ((what, why),) = told.losses
    assert what == f"frames {count}-59"
    assert why.startswith(
        f"decoded {count} of 60 frames, up to {round((count - 1) / 30, 2):.2f} s; then: "
    )


def test_after_damage_it_goes_on_at_the_next_keyframe(tmp_path: Path) -> None:
    path = fast_start(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        spot = next(p for p in packets if p.pts == packets[25].pts)
        at, size = spot.pos, spot.size
    data = bytearray(path.read_bytes())
    # A NAL unit that claims to be longer than its packet cannot be decoded.
    data[at : at + 4] = (size * 4).to_bytes(4, "big")
    path.write_bytes(data)
    told = Told()
    reader = read(path, told=told)
    numbers = [number_of(p.rgb()) for p in reader.scan()]
    reader.close()
    assert set(range(20)) <= set(numbers)
    assert numbers[-20:] == list(range(40, 60))
    assert 40 < len(numbers) < 60
    ((_, why),) = told.losses
    assert why.startswith(f"decoded {len(numbers)} of 60 frames, up to 1.97 s; then: Invalid data")
    # Asking only for frames from before and after the damage tells of none.
    told.events.clear()
    reader = read(path, told=told)
    assert [p.index for p in reader.frames_at([3, 45])] == [3, 45]
    reader.close()
    assert told.losses == []
