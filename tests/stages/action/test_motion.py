"""Camera and object motion end to end: exact flow, DIS flow, streams cut anyhow, odd sources."""

import itertools
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.contract import Actions, Event, Frames, Motion, Warn
from pipeline.contract.stage import ports
from stages.action.motion import Model
from tests.support.motions import (
    Pair,
    clip_of,
    exact_pairs,
    found,
    opened,
    parcels,
    rows,
    texture,
    told,
)
from tests.support.scenes import Segment, Truth, film, tour, two_shots

S = 1_000_000_000


@cache
def toured(seed: int) -> tuple[Truth, list[Pair]]:
    """A tour at 10 frames a second with its exact flow."""
    truth = tour(seed, width=320, height=180, fps=10)
    return truth, exact_pairs(truth)


def watched(truth: Truth, **options: str) -> Actions:
    """What DIS and action/motion say of rendered pictures."""
    flow = opened("flow", "dis", **options)

    def stream() -> Iterator[tuple[Frames, Motion]]:
        for first in range(0, len(truth) - 1, 12):
            part = slice(first, min(first + 13, len(truth)))
            frames = clip_of(truth.images[part], truth.pts_ns[part], overlap=1 if first else 0)
            yield frames, flow.process(frames)

    return told(opened("action", "motion"), stream())


@pytest.mark.parametrize("seed", range(3))
def test_every_segment_of_a_tour_is_named_from_exact_flow(seed: int) -> None:
    truth, pairs = toured(seed)
    answer = found(told(opened("action", "motion"), parcels(pairs, truth.pts_ns)), truth)
    assert [said for _, said, _ in answer] == [label for label, _, _ in truth.segments]
    assert min(overlap for _, _, overlap in answer) > 0.6


@pytest.mark.parametrize("seed", range(2))
def test_every_other_motion_is_named_from_exact_flow(seed: int) -> None:
    labels = ("zoom-in", "pan-right", "tilt-up", "zoom-out", "roll-cw", "handheld", "tilt-down")
    plan = [Segment(label, 2.0 if label == "handheld" else 1.4) for label in labels]
    plan.append(Segment("roll-ccw", 1.4))
    truth = film(plan, seed, width=320, height=180, fps=10)
    actions = told(opened("action", "motion"), parcels(exact_pairs(truth), truth.pts_ns))
    answer = found(actions, truth)
    assert [said for _, said, _ in answer] == [segment.label for segment in plan]
    assert min(overlap for _, _, overlap in answer) > 0.5
    assert rows(actions, "object") == []


def test_a_rendered_tour_is_named_from_its_pictures() -> None:
    truth = tour(0, width=480, height=270, fps=10)
    answer = found(watched(truth), truth)
    assert [said for _, said, _ in answer] == [label for label, _, _ in truth.segments]
    assert min(overlap for _, _, overlap in answer) > 0.5


def test_an_object_before_a_turning_camera_is_found() -> None:
    plan = [Segment("pan-right", 1.4), Segment("tilt-up", 1.2)]
    truth = film(plan, 1, width=320, height=180, fps=10, moving_s=(0.4, 2.2))
    answer = found(watched(truth), truth)
    assert [said for _, said, _ in answer] == ["pan-right", "object-moving", "tilt-up"]
    assert min(overlap for _, _, overlap in answer) > 0.6


def test_how_a_stream_is_cut_changes_nothing() -> None:
    truth, pairs = toured(0)
    whole = told(opened("action", "motion"), parcels(pairs, truth.pts_ns, length=500))
    for length, overlap in ((2, 1), (9, 1), (16, 5)):
        cut = parcels(pairs, truth.pts_ns, length=length, overlap=overlap)
        said = told(opened("action", "motion"), cut)
        assert rows(said, "camera") == rows(whole, "camera")
        assert rows(said, "object") == rows(whole, "object")
        assert said.score.tolist() == whole.score.tolist()


def test_camera_segments_tile_the_shot_and_come_in_time() -> None:
    truth, pairs = toured(1)
    model = opened("action", "motion")
    parts = []
    for frames, motion in parcels(pairs, truth.pts_ns, length=2):
        said = model.process(frames, motion)
        if said is not None:
            late = int(frames.pts_ns[-1]) - said.end_ns
            assert late.max() <= 1.5 * S
            parts.append(said)
    assert len(parts) > 3
    camera = rows(Actions.concat([*parts, model.finish()]), "camera")
    assert camera[0][1] == 0
    assert camera[-1][2] == pytest.approx(truth.pts_ns[-1] / S)
    for before, after in itertools.pairwise(camera):
        assert before[2] == after[1]
        assert before[0] != after[0]
        assert before[2] - before[1] >= 0.4 - 1e-9


def test_uneven_sampling_names_the_same() -> None:
    truth = tour(0, width=320, height=180, fps=20)
    rng = np.random.default_rng(3)
    kept = np.unique(np.cumsum(rng.integers(1, 5, 120)))
    kept = kept[kept < len(truth)]
    pairs = []
    for i, j in itertools.pairwise(kept):
        flow, visible = truth.flow_and_visible(int(i), int(j))
        pairs.append((flow, visible.astype(np.float32)))
    answer = found(told(opened("action", "motion"), parcels(pairs, truth.pts_ns[kept])), truth)
    assert [said for _, said, _ in answer] == [label for label, _, _ in truth.segments]


def test_a_stage_taken_up_from_a_snapshot_goes_on_as_before() -> None:
    truth, pairs = toured(0)
    stream = list(parcels(pairs, truth.pts_ns))
    whole = told(opened("action", "motion"), iter(stream))
    first, second = opened("action", "motion"), opened("action", "motion")
    parts = [first.process(*parcel) for parcel in stream[:5]]
    second.restore(pickle.loads(pickle.dumps(first.snapshot())))
    rest = told(second, iter(stream[5:]))
    joined = Actions.concat([*(part for part in parts if part is not None), rest])
    assert rows(joined, "camera") == rows(whole, "camera")
    assert rows(joined, "object") == rows(whole, "object")


def still(count: int, size: tuple[int, int] = (36, 64)) -> list[Pair]:
    return [(np.zeros((*size, 2), np.float32), np.ones(size, np.float32))] * count


def test_memory_does_not_grow_with_the_shot() -> None:
    model = opened("action", "motion")
    sizes = []
    for k, (frames, motion) in enumerate(parcels(still(600), np.arange(601) * S // 10)):
        assert model.process(frames, motion) is None
        if k in (10, 70):
            sizes.append(len(pickle.dumps(model.snapshot())))
    assert abs(sizes[0] - sizes[1]) < 200
    said = model.finish()
    assert rows(said, "camera") == [("static", 0.0, 60.0)]
    assert said.score[said.kind.index("camera")] == 1


def test_shots_are_told_apart_and_no_pair_crosses_a_cut() -> None:
    truth = two_shots(0)
    cut = truth.path.cuts[0]
    model, flow = opened("action", "motion"), opened("flow", "dis")
    parts = []
    for shot, indices in enumerate((np.arange(0, cut, 3), np.arange(cut, len(truth), 3))):
        frames = clip_of(truth.images[indices], truth.pts_ns[indices], shot=shot)
        parts.append(model.process(frames, flow.process(frames)))
    said = Actions.concat([part for part in [*parts, model.finish()] if part is not None])
    times = truth.pts_ns / S
    assert rows(said, "shot") == [
        ("shot", 0.0, times[cut]),
        ("shot", times[cut], times[np.arange(cut, len(truth), 3)[-1]]),
    ]
    assert [label for label, _, _ in rows(said, "camera")] == ["truck-right", "dolly-in"]
    assert rows(said, "camera")[0][2] == times[cut]
    assert set(said.model) == {"action/motion"}


def test_single_frames_are_shots_without_camera_segments() -> None:
    model = opened("action", "motion")
    image = texture(36, 64)[None]
    none = Motion(
        clip="film",
        flow=np.zeros((0, 36, 64, 2), np.float32),
        confidence=np.zeros((0, 36, 64), np.float32),
    )
    assert model.process(clip_of(image, np.array([2 * S])), none) is None
    first = model.process(clip_of(image, np.array([5 * S]), shot=1), none)
    assert rows(first, "shot") == [("shot", 2.0, 5.0)]
    last = model.finish()
    assert rows(last, "shot") == [("shot", 5.0, 5.04)]
    assert rows(first, "camera") == rows(last, "camera") == []


def test_nothing_at_all_is_nothing() -> None:
    assert opened("action", "motion").finish() is None


def test_what_cannot_be_followed_is_said_with_no_score_and_a_warning() -> None:
    events: list[Event] = []
    rng = np.random.default_rng(0)
    lost = [
        (rng.normal(0, 20, (90, 160, 2)).astype(np.float32), np.zeros((90, 160), np.float32))
        for _ in range(7)
    ]
    model = opened("action", "motion", report=events.append)
    said = told(model, parcels(lost, np.arange(8) * S))
    assert rows(said, "camera") == [("handheld", 0.0, 7.0)]
    assert said.score[said.kind.index("camera")] == 0
    assert rows(said, "object") == []
    assert [e.text for e in events if isinstance(e, Warn)] == [
        "the image could be followed between only 0 of 7 pairs of sampled frames: camera labels "
        "are uncertain; sample more frames a second"
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 640), (9, 9), (20, 20), (180, 24)])
@pytest.mark.parametrize("name", ["dis", "lucas_kanade"])
def test_tiny_frames_are_watched_without_harm(name: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, *size, 3), np.uint8)
    frames = clip_of(images)
    stream = iter([(frames, opened("flow", name).process(frames))])
    said = told(opened("action", "motion"), stream)
    assert len(rows(said, "shot")) == 1
    camera = rows(said, "camera")
    assert camera[0][1] == 0
    assert camera[-1][2] == 0.5


def test_a_blank_screen_is_static() -> None:
    frames = clip_of(np.full((12, 90, 160, 3), 17, np.uint8))
    for name in ("dis", "farneback"):
        stream = iter([(frames, opened("flow", name).process(frames))])
        said = told(opened("action", "motion"), stream)
        assert rows(said, "camera") == [("static", 0.0, 1.1)]
        assert rows(said, "object") == []


def test_sparse_flow_serves_as_well() -> None:
    plane = texture(180, 420)
    images = np.stack([plane[:, 4 * i : 4 * i + 320] for i in range(16)])
    frames = clip_of(images)
    stream = iter([(frames, opened("flow", "lucas_kanade").process(frames))])
    said = told(opened("action", "motion"), stream)
    assert [label for label, _, _ in rows(said, "camera")] == ["pan-right"]


def test_it_reads_frames_and_motion_and_makes_actions() -> None:
    wired = ports(Model)
    assert wired.required == {"frames": Frames, "motion": Motion}
    assert wired.makes == (Actions,)


def clip_at_ten(path: Path, seconds: float) -> Frames:
    images, times, last = [], [], -1
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            time = float(frame.time)
            if time > seconds:
                break
            if int(time * 10 + 1e-6) != last:
                last = int(time * 10 + 1e-6)
                height = round(480 * frame.height / frame.width / 2) * 2
                images.append(frame.to_ndarray(format="rgb24", width=480, height=height))
                times.append(round(time * S))
    return clip_of(np.stack(images), np.array(times))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "camera", "moving"),
    [
        ("surveillance-opencv/768x576.avi", "static", True),
        ("action-intel-asl/eat.mkv", "static", True),
        ("action-decord/flipping_a_pancake.mkv", "static", True),
        ("sfm-clips-vggt/great_wall.mp4", "truck-right", False),
        ("action-mmaction2/demo.mp4", "handheld", True),
    ],
)
def test_real_clips_are_named_as_a_person_would(
    name: str, camera: str, moving: bool, data: Path
) -> None:
    frames = clip_at_ten(data / name, 4.0)
    stream = iter([(frames, opened("flow", "dis").process(frames))])
    said = told(opened("action", "motion"), stream)
    total = (frames.pts_ns[-1] - frames.pts_ns[0]) / S
    as_named = sum(b - a for label, a, b in rows(said, "camera") if label == camera)
    assert as_named > 0.8 * total
    moved = sum(b - a for _, a, b in rows(said, "object"))
    assert moved > 0.5 * total if moving else moved < 0.2 * total
