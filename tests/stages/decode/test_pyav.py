"""Reading videos: the right frames at the right times, however they are asked for."""

import gc
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages.decode._video.packet_index import PacketIndex, rising, to_ns
from tests.support.media import Told, full_decode, number_of, numbered, read, write_video

COUNT = 60


def gop(size: int, *, b_frames: int = 2, open_gop: bool = False) -> dict[str, str]:
    extra = ":open-gop=1" if open_gop else ""
    return {
        "preset": "veryfast",
        "x264-params": f"keyint={size}:min-keyint={size}:scenecut=0:bframes={b_frames}"
        f":b-pyramid=normal:b-adapt=0{extra}",
    }


MAKES = {
    "h264-closed.mp4": {"options": gop(12)},
    "h264-open.mkv": {"options": gop(12, open_gop=True)},
    "h264-pyramid.mp4": {"options": gop(30, b_frames=7)},
    "h264-one-gop.mp4": {"options": gop(250)},
    "h264.ts": {"options": gop(12)},
    "h264.avi": {"options": gop(12)},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "10", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "9", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "15", "deadline": "realtime"}},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=12:bframes=3:log-level=none", "preset": "ultrafast"},
    },
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.fixture(scope="module", params=sorted(MAKES))
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / request.param
    return write_video(path, map(numbered, range(COUNT)), **MAKES[request.param])


def test_every_frame_comes_once_in_order(video: Path) -> None:
    reader = read(video)
    truth = full_decode(video)
    pictures = [(p.index, p.pts_ns, number_of(p.rgb())) for p in reader.scan()]
    reader.close()
    assert [index for index, _, _ in pictures] == list(range(COUNT))
    assert [number for _, _, number in pictures] == list(range(COUNT))
    times = [frame.time - truth[0].time for frame in truth]
    if video.suffix == ".avi":
        # AVI has no presentation times, and PyAV gives the times of decoding.
        times = sorted(times)
    assert np.allclose([t / 1e9 for _, t, _ in pictures], times, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_chosen_frames_equal_a_full_decode(video: Path, seed: int) -> None:
    truth = full_decode(video)
    generator = np.random.default_rng(seed)
    wanted = sorted(generator.choice(COUNT, size=(3, 9, 25)[seed], replace=False).tolist())
    reader = read(video)
    got = {p.index: p.rgb() for p in reader.frames_at(wanted)}
    # A second round on the same reader begins anew.
    again = {p.index: p.rgb() for p in reader.frames_at(wanted[1:])}
    reader.close()
    assert list(got) == wanted
    for index in wanted:
        expected = truth[index].to_ndarray(format="rgb24")
        assert np.array_equal(got[index], expected), index
        assert index == wanted[0] or np.array_equal(again[index], expected)


def test_leaving_early_and_closing_gives_files_back(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", map(numbered, range(20)), options=gop(10))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        reader = read(path)
        next(iter(reader.scan()))
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_variable_rate_keeps_the_containers_times(tmp_path: Path) -> None:
    ticks = np.cumsum([0, 8, 120, 33, 3000, 9, 40, 41, 17, 500, 33]).tolist()
    path = write_video(
        tmp_path / "vfr.mkv", map(numbered, range(len(ticks))), ticks=ticks, options=gop(5)
    )
    reader = read(path)
    assert reader.timeline().pts_ns.tolist() == [t * 1_000_000 for t in ticks]
    assert [p.pts_ns for p in reader.frames_at([4, 5])] == [3_161_000_000, 3_170_000_000]
    reader.close()


def test_time_counts_from_the_containers_start(tmp_path: Path) -> None:
    ticks = [8300 + 40 * i for i in range(10)]
    path = write_video(tmp_path / "late.mkv", map(numbered, range(10)), ticks=ticks)
    reader = read(path)
    assert reader.timeline().pts_ns.tolist() == [40_000_000 * i for i in range(10)]
    assert reader.probe.start_s == pytest.approx(8.3)
    reader.close()


def test_a_trim_leaves_numbers_and_times_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", map(numbered, range(COUNT)), options=gop(12))
    reader = read(path, start_s=0.5, end_s=1.0)
    assert reader.timeline().index.tolist() == list(range(15, 30))
    pictures = [(p.index, number_of(p.rgb())) for p in reader.scan()]
    assert pictures == [(i, i) for i in range(15, 30)]
    reader.close()


@pytest.mark.parametrize(("turn", "flip"), [(0, True), (90, False), (180, False), (-90, False)])
def test_pictures_come_out_upright(tmp_path: Path, turn: int, flip: bool) -> None:
    upright = numbered(421)
    # The container says how to turn the stored picture counter-clockwise for display.
    stored = np.rot90(upright, -turn // 90)
    if flip:
        stored = stored[:, ::-1]
    path = write_video(
        tmp_path / "turned.mp4",
        [np.ascontiguousarray(stored)] * 3,
        rotation_deg=turn,
        flip=flip,
        options={"crf": "4"},
    )
    reader = read(path)
    picture = next(iter(reader.scan()))
    image, luma = picture.rgb(), picture.luma(80)
    reader.close()
    assert (reader.probe.width, reader.probe.height) == (160, 96)
    assert number_of(image) == 421
    assert np.abs(image.astype(int) - upright).mean() < 4
    gray = upright @ np.array([0.299, 0.587, 0.114])
    small = gray.reshape(48, 2, 80, 2).mean((1, 3)) * 219 / 255 + 16
    assert luma.shape == (48, 80)
    assert np.abs(luma - small).mean() < 3


def test_wide_pixels_become_square_and_large_pictures_small(tmp_path: Path) -> None:
    path = write_video(tmp_path / "sar.mp4", [numbered(77)] * 2, aspect=Fraction(4, 3))
    reader = read(path)
    assert next(iter(reader.scan())).rgb().shape == (96, 213, 3)
    assert reader.probe.sample_aspect_ratio == "4:3"
    reader.close()
    reader = read(path, max_side=100)
    image = next(iter(reader.scan())).rgb()
    assert image.shape == (45, 100, 3)
    assert number_of(image) == 77
    reader.close()


def test_odd_sizes_are_kept(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "odd.mp4", [numbered(5, 161, 97)] * 2, pix_fmt="yuv444p", options={"crf": "4"}
    )
    reader = read(path)
    image = next(iter(reader.scan())).rgb()
    reader.close()
    assert image.shape == (97, 161, 3)
    assert np.abs(image.astype(int) - numbered(5, 161, 97)).mean() < 4


def test_frames_without_times_follow_one_another(tmp_path: Path) -> None:
    path = write_video(tmp_path / "raw.h264", map(numbered, range(25)), options=gop(10))
    told = Told()
    reader = read(path, told=told)
    assert [number_of(p.rgb()) for p in reader.scan()] == list(range(25))
    assert [number_of(p.rgb()) for p in reader.frames_at([3, 17])] == [3, 17]
    assert np.all(np.diff(reader.timeline().pts_ns) > 0)
    reader.close()


def test_opening_says_what_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", map(numbered, range(30)), options=gop(10))
    reader = read(path)
    probe = reader.probe
    assert (probe.kind, probe.codec, probe.pixel_format) == ("video", "h264", "yuv420p")
    assert (probe.frames, probe.fps, probe.duration_s) == (30, 30.0, 1.0)
    assert np.flatnonzero(reader.timeline().keyframe).tolist() == [0, 10, 20]
    with pytest.raises(ValueError, match=r"indices must rise within 0\.\.29"):
        reader.frames_at([3, 2])
    reader.close()


def test_the_terminal_stays_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(tmp_path / "a.mp4", map(numbered, range(30)), options=gop(10))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 500] = os.urandom(500)
    path.write_bytes(data)
    reader = read(path)
    for picture in reader.scan():
        picture.rgb()
    reader.close()
    assert capfd.readouterr() == ("", "")


# The plan, without any file


def index_of(pts: list[int], keys: list[int]) -> PacketIndex:
    keyframe = np.isin(np.arange(len(pts)), keys)
    return PacketIndex.of(
        np.array(pts), list(range(len(pts))), keyframe, np.zeros(len(pts), dtype=bool)
    )


def test_a_group_is_decoded_only_as_far_as_needed() -> None:
    index = index_of(list(range(30)), [0, 10, 20])
    runs = index.plan(np.array([2, 5, 23]))
    assert [(r.first, r.last, r.ranks.tolist()) for r in runs] == [(0, 5, [2, 5]), (20, 23, [23])]


def test_groups_that_follow_at_once_share_a_run() -> None:
    index = index_of(list(range(30)), [0, 10, 20])
    assert [(r.first, r.last) for r in index.plan(np.arange(30))] == [(0, 29)]
    assert [(r.first, r.last) for r in index.plan(np.array([9, 10]))] == [(0, 10)]


def test_pictures_that_lead_an_open_group_need_the_group_before() -> None:
    # Decoding order: I0 P3 B1 B2 I6 B4 B5; B4 and B5 need P3.
    index = index_of([0, 3, 1, 2, 6, 4, 5], [0, 4])
    assert index.governor.tolist() == [0, 0, 0, 0, 0, 0, 4]
    assert [(r.first, r.last) for r in index.plan(np.array([4]))] == [(0, 5)]
    assert [(r.first, r.last) for r in index.plan(np.array([6]))] == [(4, 4)]


def test_times_are_made_to_rise() -> None:
    assert rising([0, 40, 40, 80], 40)[0].tolist() == [0, 40, 41, 80]
    assert rising([None, 40, None, None, 160], 40) == (pytest.approx([0, 40, 80, 120, 160]), 3)
    # A clock that is set back goes on where it was.
    assert rising([0, 40, 80, 120, 160, 200, 240, 280, 320, 360, 400, 0, 40], 40)[0].tolist() == [
        *range(0, 401, 40),
        440,
        480,
    ]


def test_nanoseconds_are_exact_for_large_ticks() -> None:
    base = Fraction(1, 90_000)
    ticks = [0, 1, 3003, 2**40]
    assert to_ns(ticks, base).tolist() == [round(Fraction(t) * base * 10**9) for t in ticks]
