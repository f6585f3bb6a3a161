"""Keyframe choice on exact flow: how many, which, and that memory stays bounded."""

import numpy as np
import pytest

from pipeline.contract import Context, Frames, Keyframes, Metric, Motion
from pipeline.errors import PartNotMade
from stages.keyframe import every, parallax
from stages.keyframe._tracks import PointTracks, parallax_between

H, W = 90, 160


def clips(
    step_px: float | list[float],
    count: int,
    *,
    size: int = 16,
    confidence: float = 1.0,
    sharpness: np.ndarray | None = None,
    shot_of: np.ndarray | None = None,
    overlap: int = 1,
):
    """A picture that slides to the right by `step_px` a frame, cut into overlapping clips."""
    steps = np.broadcast_to(np.asarray(step_px, np.float32), count - 1)
    images = np.zeros((count, H, W, 3), np.uint8)
    images += np.arange(count, dtype=np.uint8)[:, None, None, None]
    sharp = np.ones(count, np.float32) if sharpness is None else sharpness.astype(np.float32)
    shots = np.zeros(count, int) if shot_of is None else shot_of
    for shot in np.unique(shots):
        rows = np.flatnonzero(shots == shot)
        start = 0
        while True:
            part = rows[start : start + size]
            flow = np.zeros((len(part) - 1, H, W, 2), np.float32)
            flow[..., 0] = steps[part[:-1], None, None]
            name = f"slide/{part[0]}-{part[-1]}"
            yield (
                Frames(
                    clip=name,
                    images=images[part],
                    pts_ns=part * 40_000_000,
                    index=part.astype(np.int64),
                    sharpness=sharp[part],
                    shot=int(shot),
                    overlap=overlap if start else 0,
                ),
                Motion(
                    clip=name,
                    flow=flow,
                    confidence=np.full(flow.shape[:3], confidence, np.float32),
                ),
            )
            if part[-1] == rows[-1]:
                break
            start += size - overlap


def chosen(parts, context: Context | None = None, **options) -> Keyframes:
    stage = parallax.Model(parallax.Config(**options))
    stage.open(context or Context())
    for frames, motion in parts:
        stage.process(frames, motion)
    return stage.finish()


def test_a_steady_slide_gives_keyframes_a_step_apart():
    # 6 % of 160 px are 9.6 px: 10 frames at 1 px each.
    keyframes = chosen(clips(1.0, 400), step=0.06, min_keyframes=2)
    gaps = np.diff(keyframes.index)
    assert keyframes.index[0] == 0
    assert np.all((gaps >= 7) & (gaps <= 14)), gaps
    assert 30 <= len(gaps) <= 50


@pytest.mark.parametrize("overlap", [1, 4])
def test_the_clip_borders_leave_no_trace(overlap):
    whole = chosen(clips(1.0, 120, size=200), min_keyframes=2)
    parts = chosen(clips(1.0, 120, size=16, overlap=overlap), min_keyframes=2)
    np.testing.assert_array_equal(whole.index, parts.index)


def test_the_sharpest_of_the_neighborhood_is_taken():
    sharpness = np.ones(300)
    sharpness[::3] = 5
    keyframes = chosen(clips(1.0, 300, sharpness=sharpness), min_keyframes=2)
    assert np.all(keyframes.index % 3 == 0)


def test_a_still_camera_gives_one_keyframe():
    assert chosen(clips(0.0, 300)).index.tolist() == [0]


def test_a_shaking_camera_gives_one_keyframe():
    steps = np.where(np.arange(299) % 2, -2.0, 2.0)
    assert chosen(clips(steps, 300)).index.tolist() == [0]


def test_frames_between_which_flow_breaks_are_all_kept():
    keyframes = chosen(clips(3.0, 60, confidence=0.0))
    assert keyframes.index.tolist() == list(range(60))
    assert np.isnan(keyframes.parallax_px).all()


def test_a_short_source_is_taken_whole():
    assert chosen(clips(0.0, 24)).index.tolist() == list(range(24))


def test_every_shot_begins_with_a_keyframe():
    shot_of = np.repeat([0, 1, 2], 40)
    keyframes = chosen(clips(0.0, 120, shot_of=shot_of))
    assert keyframes.index.tolist() == [0, 40, 80]
    assert keyframes.shot.tolist() == [0, 1, 2]


def test_a_long_video_is_thinned_evenly_and_not_cut_off():
    keyframes = chosen(clips(4.0, 2000), max_keyframes=40)
    assert 20 <= len(keyframes.index) <= 40
    gaps = np.diff(keyframes.index)
    assert gaps.max() <= 2.5 * np.median(gaps)
    assert keyframes.index[-1] > 1900


def test_more_shots_than_keyframes_are_thinned_too():
    keyframes = chosen(clips(0.0, 300, shot_of=np.arange(300) // 3), max_keyframes=10)
    assert len(keyframes.index) <= 10


def test_people_before_a_fixed_camera_do_not_make_keyframes():
    """Flow is lost in half of the picture for good, but the rest stays where it is."""
    parts = []
    for frames, motion in clips(0.0, 200):
        confidence = motion.confidence.copy()
        confidence[:, :, : W // 2] = 0
        parts.append((frames, Motion(clip=motion.clip, flow=motion.flow, confidence=confidence)))
    assert chosen(parts).index.tolist() == [0]


def test_it_says_how_many():
    events = []
    chosen(clips(1.0, 100), Context(report=events.append))
    assert any(isinstance(e, Metric) and e.name == "keyframes_count" for e in events)


def test_tracks_follow_the_flow_and_die_outside():
    tracks = PointTracks(H, W)
    flow = np.zeros((H, W, 2), np.float32)
    flow[..., 0] = W / 4
    for _ in range(2):
        tracks.follow(flow, np.ones((H, W), np.float32))
    assert tracks.displacement_px == pytest.approx(W / 2)
    assert tracks.share == pytest.approx(3 / 4, abs=0.06)


def test_parallax_between_tells_a_turn_from_a_step(textured):
    """A shift by a turn leaves nothing over; half of the picture shifted twice as far does."""
    a = textured(200, 320)
    turn = np.roll(a, 6, axis=1)
    step = turn.copy()
    step[100:] = np.roll(a, 14, axis=1)[100:]
    assert parallax_between(a, turn) < 0.3
    assert parallax_between(a, step) > 1.5
    assert np.isnan(parallax_between(a, np.zeros_like(a)))
    assert np.isnan(parallax_between(a[:20, :20], a[:20, :20]))


@pytest.fixture(scope="session")
def textured():
    def make(height: int, width: int) -> np.ndarray:
        import cv2

        noise = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
        return np.clip(128 + 250 * smooth, 0, 255).astype(np.uint8)

    return make


def taken(n: int, count: int, **options) -> Keyframes:
    stage = every.Model(every.Config(n=n, **options))
    stage.open(Context())
    for frames, _ in clips(1.0, count):
        stage.process(frames)
    return stage.finish()


def test_every_nth_frame_counts_overlapping_frames_once():
    assert taken(5, 60).index.tolist() == list(range(0, 60, 5))


def test_every_frame_refuses_too_many():
    with pytest.raises(PartNotMade, match=r"gives more than 10 keyframes: raise keyframe\.n"):
        taken(1, 60, max_keyframes=10)
