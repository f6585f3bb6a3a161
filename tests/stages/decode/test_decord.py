"""decord delivers what PyAV delivers, or refuses."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SourceError
from tests.support.media import number_of, numbered, read, write_video

pytest.importorskip("decord", reason="decord is an extra: pip install 'reel3d[decord]'")

WANTED = [0, 7, 8, 30, 31, 59]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decord") / "a.mp4"
    options = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=2"}
    stored = [np.ascontiguousarray(numbered(i)[::-1, ::-1]) for i in range(60)]
    return write_video(path, stored, options=options, rotation_deg=180)


def test_the_same_frames_and_times(video: Path) -> None:
    ours, theirs = read(video), read(video, "decord")
    expected = [(p.index, p.pts_ns, p.keyframe, p.rgb()) for p in ours.frames_at(WANTED)]
    got = [(p.index, p.pts_ns, p.keyframe, p.rgb()) for p in theirs.frames_at(WANTED)]
    assert [p[:3] for p in got] == [p[:3] for p in expected]
    assert all(np.array_equal(a[3], b[3]) for a, b in zip(got, expected, strict=True))
    assert [number_of(image) for *_, image in got] == WANTED
    assert ours.probe == theirs.probe
    ours.close()
    theirs.close()


def test_smaller_pictures_agree(video: Path) -> None:
    ours, theirs = read(video, max_side=80), read(video, "decord", max_side=80)
    for a, b in zip(ours.frames_at(WANTED), theirs.frames_at(WANTED), strict=True):
        # Two releases of swscale, five years apart, and hard edges in the picture.
        assert np.abs(a.rgb().astype(int) - b.rgb()).mean() < 1
    ours.close()
    theirs.close()


def test_what_it_cannot_read_right_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "ten.mkv", [numbered(0)], codec="ffv1", pix_fmt="yuv420p10le")
    with pytest.raises(SourceError) as error:
        read(path, "decord")
    assert str(error.value) == (
        "decord cannot read ten.mkv right: its pixel format is yuv420p10le; use decode.model=pyav"
    )
    path = write_video(tmp_path / "stream.mpg", map(numbered, range(9)), codec="mpeg2video")
    with pytest.raises(SourceError, match="after a seek"):
        read(path, "decord")
