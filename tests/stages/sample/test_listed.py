"""Samplers that choose from the timeline: which frames, and how they are grouped."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.contract import Frames, Probe, Source, Timeline
from pipeline.contract.stage import find, options_of
from pipeline.errors import SourceError
from tests.support.media import sample


class Fake:
    """One frame of a source that lies in no file."""

    keyframe = False
    intrinsics = None
    T_world_camera = None

    def __init__(self, index: int, pts_ns: int) -> None:
        self.index, self.pts_ns = index, pts_ns

    def luma(self, width: int) -> np.ndarray:
        return np.full((width // 2, width), self.index % 250, np.uint8)

    def depth(self) -> None:
        return None

    def right(self) -> None:
        return None

    def rgb(self) -> np.ndarray:
        return np.full((32, 64, 3), self.index % 250, np.uint8)


class FakeReader:
    """A source with the given times (s) and keyframes that counts what is asked of it."""

    metric = False
    baseline_m = None
    source = Source(uri="x", shown="x", name="clip")

    def __init__(self, times_s: Iterable[float], keys: Iterable[int] = (0,)) -> None:
        self.pts_ns = np.round(np.array(list(times_s)) * 1e9).astype(np.int64)
        self.keys = np.isin(np.arange(len(self.pts_ns)), list(keys))
        self.asked: list[int] = []
        self.probe = Probe(
            kind="video", width=64, height=32, source_width=64, source_height=32,
            duration_s=None, fps=25.0, frames=None, codec="none",
        )  # fmt: skip

    def timeline(self) -> Timeline:
        return Timeline(pts_ns=self.pts_ns, keyframe=self.keys, index=np.arange(len(self.pts_ns)))

    def frames_at(self, wanted: Iterable[int]) -> Iterator[Any]:
        for i in wanted:
            self.asked.append(i)
            yield Fake(i, int(self.pts_ns[i]))

    def scan(self) -> Iterator[Any]:
        return self.frames_at(range(len(self.pts_ns)))

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def taken(clips: list[Frames]) -> list[int]:
    return [int(i) for clip in clips for i in clip.index[clip.overlap :]]


CONSTANT = np.arange(100) / 25


def test_uniform_takes_the_middle_of_each_part() -> None:
    clips = sample(FakeReader(CONSTANT), "uniform", frames=10)
    assert taken(clips) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert taken(sample(FakeReader(CONSTANT[:7]), "uniform", frames=10)) == list(range(7))
    assert taken(sample(FakeReader([0.0]), "uniform", frames=1)) == [0]


def test_uniform_is_even_in_time_and_gives_the_number_asked_for() -> None:
    times = np.concatenate([np.arange(50) / 25, 20 + np.arange(50) / 25])
    indices = taken(sample(FakeReader(times), "uniform", frames=12))
    assert len(indices) == 12
    assert len(set(indices)) == 12


def test_fps_follows_the_clock_whatever_the_source_does() -> None:
    assert taken(sample(FakeReader(CONSTANT), "fps", fps=5)) == list(range(0, 100, 5))
    assert taken(sample(FakeReader(CONSTANT), "fps", fps=100)) == list(range(100))
    # Late frames and a gap of 2 s: the nearest to each tick, none twice.
    times = [0, 0.1, 0.22, 0.3, 0.41, 2.5, 2.6, 2.7]
    assert taken(sample(FakeReader(times), "fps", fps=5)) == [0, 2, 4, 5, 6]


def test_random_repeats_by_its_seed() -> None:
    first = taken(sample(FakeReader(CONSTANT), "random", frames=20, seed=1))
    assert first == taken(sample(FakeReader(CONSTANT), "random", frames=20, seed=1))
    assert first != taken(sample(FakeReader(CONSTANT), "random", frames=20, seed=2))
    assert first == sorted(set(first))
    assert len(first) == 20
    assert taken(sample(FakeReader(CONSTANT[:5]), "random", frames=20)) == [0, 1, 2, 3, 4]


def test_keyframes_are_the_codecs() -> None:
    reader = FakeReader(CONSTANT, keys=[0, 30, 77])
    assert taken(sample(reader, "keyframe")) == [0, 30, 77]
    assert reader.asked == [0, 30, 77]


def test_dense_windows() -> None:
    clips = sample(FakeReader(CONSTANT[:30]), "dense", frames=4, stride=3, overlap=2)
    assert [clip.index.tolist() for clip in clips] == [
        [0, 3, 6, 9],
        [6, 9, 12, 15],
        [12, 15, 18, 21],
        [18, 21, 24, 27],
    ]
    assert [clip.overlap for clip in clips] == [0, 2, 2, 2]
    apart = sample(FakeReader(CONSTANT[:10]), "dense", frames=4, stride=1, overlap=0)
    assert [clip.index.tolist() for clip in apart] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(ValidationError, match=r"overlap \(4\) must be below frames \(4\)"):
        options_of("sample", "dense")(frames=4, overlap=4)


def test_clips_share_one_frame_and_are_named_by_their_span() -> None:
    clips = sample(FakeReader(CONSTANT[:10]), "fps", fps=25, clip_frames=4)
    assert [clip.clip for clip in clips] == ["clip/0-3", "clip/3-6", "clip/6-9"]
    assert [clip.overlap for clip in clips] == [0, 1, 1]
    pairs = {(a, b) for c in clips for a, b in zip(c.index[:-1], c.index[1:], strict=True)}
    assert pairs == {(i, i + 1) for i in range(9)}
    assert clips[0].images[2, 0, 0].tolist() == [2, 2, 2]


def test_clips_come_while_frames_are_read() -> None:
    reader = FakeReader(CONSTANT)
    stage = find("sample", "fps")(options_of("sample", "fps")(fps=25, clip_frames=8))
    next(iter(stage.process(reader)))
    assert len(reader.asked) <= 9


class FakeCamera(FakeReader):
    """A camera whose connection is lost before each of the frames `breaks`."""

    def __init__(self, times_s: Iterable[float], breaks: Iterable[int] = ()) -> None:
        super().__init__(times_s)
        self.probe = replace(self.probe, kind="camera", fps=None)
        edges = [0, *breaks, len(self.pts_ns)]
        self.left = [range(a, b) for a, b in pairwise(edges)]

    def timeline(self) -> Timeline:
        raise SourceError("a camera")

    def scan(self) -> Iterator[Any]:
        return self.frames_at(self.left.pop(0) if self.left else [])


def test_a_camera_is_sampled_as_a_file_is() -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.3, 300))
    for model, options in (("fps", {"fps": 5}), ("fps", {"fps": 40}), ("dense", {"stride": 3})):
        file = sample(FakeReader(times), model, **options)
        camera = sample(FakeCamera(times), model, clip_s=1e3, **options)
        assert [clip.clip for clip in camera] == [clip.clip for clip in file]


@pytest.mark.parametrize("model", ["adaptive", "fps", "dense"])
def test_no_clip_of_a_camera_reaches_across_a_break_or_lasts_long(model: str) -> None:
    clips = sample(FakeCamera(np.arange(300) / 5, breaks=[100, 101]), model)
    assert taken(clips) == list(range(300))
    assert [clip.shot for clip in clips] == sorted(clip.shot for clip in clips)
    for first, last, shot in ((0, 99, 0), (100, 100, 1), (101, 299, 2)):
        own = [clip for clip in clips if clip.shot == shot]
        assert (own[0].index[0], own[-1].index[-1]) == (first, last)
    assert max(clip.pts_ns[-1] - clip.pts_ns[0] for clip in clips) <= 2.2e9
    whole = sample(FakeReader(np.arange(300) / 5), model, clip_s=1.0)
    assert {len(clip.index) for clip in whole} == {6, 5}


@pytest.mark.parametrize("model", ["adaptive", "fps", "dense"])
def test_a_full_clip_of_a_camera_does_not_wait_for_the_next_frame(model: str) -> None:
    reader = FakeCamera(np.arange(300) / 5)
    stage = find("sample", model)(options_of("sample", model)())
    first = next(iter(stage.process(reader)))
    # Adaptive sampling looks one frame ahead.
    assert reader.asked[-1] <= first.index[-1] + 1


@pytest.mark.parametrize("model", ["uniform", "random", "keyframe"])
def test_samplers_that_must_know_all_frames_refuse_a_camera(model: str) -> None:
    with pytest.raises(SourceError, match="a camera"):
        sample(FakeCamera(CONSTANT), model)
