"""SAM 2 masks what transformers' own documented usage gives; each thing keeps its number."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.contract import Context, Event, Frames, Loss, Masks, Motion, Tracks, Warn
from pipeline.contract.stage import find, options_of
from pipeline.errors import UsageError
from tests.support.motions import clip_of, texture

torch = pytest.importorskip("torch")
tf = pytest.importorskip("transformers")
checkpoints = pytest.importorskip("tests.support.segment_checkpoints")

HEIGHT, WIDTH, COUNT = 72, 120, 5
ROUNDING = 1e-4
"""Of a logit: nearer to a decision than this, either is right."""
SIDE, STEP = 16, 3
STARTS = ((10, 20), (44, 70))
"""Top and left of two squares that go to the right, each in its own rows."""
LATE = ((10, 20), (44, -18))
"""The second comes into view in frame 1, and is seen whole from frame 6 on."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.save_sam2(folder / "sam2")
    checkpoints.save(folder / "rt_detr", "rt_detr")
    return folder


def squares(t: int, starts: Any = STARTS) -> list[Any]:
    """Return the rows and columns of each square in a frame, empty out of view."""
    span = [(top, max(left + STEP * t, 0), max(left + STEP * t + SIDE, 0)) for top, left in starts]
    return [np.s_[top : top + SIDE, left:right] for top, left, right in span]


def moving_clip(count: int = COUNT, starts: Any = STARTS) -> tuple[Frames, Motion]:
    """Squares before a wall at rest, and their exact flow."""
    wall, square = texture(HEIGHT, WIDTH), texture(SIDE, SIDE, 1)[:, :, ::-1] // 2
    images = np.repeat(wall[None], count, axis=0)
    flow = np.zeros((count - 1, HEIGHT, WIDTH, 2), np.float32)
    for t in range(count):
        for place in squares(t, starts):
            images[t][place] = square[:, SIDE - images[t][place].shape[1] :]
            if t < count - 1:
                flow[t][place] = [STEP, 0]
    frames = clip_of(images)
    motion = Motion(clip=frames.clip, flow=flow, confidence=np.ones(flow.shape[:3], np.float32))
    return frames, motion


def opened(
    model: str, told: list[Event] | None = None, step: str = "segment", **options: Any
) -> Any:
    stage = find(step, model)(options_of(step, model)(**options))
    stage.open(Context(report=(told if told is not None else list[Event]()).append))
    return stage


def documented(folder: Path, frames: Frames, at: int, boxes: np.ndarray) -> Any:
    """Return mask logits [T, N, H, W] and object scores [T, N] as the documentation makes them."""
    network = tf.Sam2VideoModel.from_pretrained(folder).eval()
    processor = tf.Sam2VideoProcessor.from_pretrained(folder)
    session = processor.init_video_session(
        video=np.array(frames.images), inference_device="cpu", dtype=torch.float32
    )
    processor.add_inputs_to_inference_session(
        inference_session=session,
        frame_idx=at,
        obj_ids=list(range(1, len(boxes) + 1)),
        input_boxes=[boxes.tolist()],
    )
    network(inference_session=session, frame_idx=at)
    logits, scores = dict[int, Any](), dict[int, Any]()
    for reverse in (False, True):
        for out in network.propagate_in_video_iterator(
            session, start_frame_idx=at, reverse=reverse
        ):
            video = processor.post_process_masks(
                [out.pred_masks],
                original_sizes=[[session.video_height, session.video_width]],
                binarize=False,
            )[0]
            logits[out.frame_idx] = video[:, 0].numpy()
            scores[out.frame_idx] = out.object_score_logits[:, 0].sigmoid().numpy()
    order = range(len(frames.images))
    return np.stack([logits[t] for t in order]), np.stack([scores[t] for t in order])


def same_as(masks: Masks, logits: np.ndarray, scores: np.ndarray) -> None:
    """See that masks without margin are those of logits above 0, the highest where several are.

    Pixels that rounding decides are left out.
    """
    assert masks.instance is not None
    assert masks.thing is not None
    unsure = (np.abs(logits) < ROUNDING).any(axis=1)
    for a, b in itertools.combinations(range(logits.shape[1]), 2):
        seen = np.maximum(logits[:, a], logits[:, b]) > 0
        unsure |= seen & (np.abs(logits[:, a] - logits[:, b]) < ROUNDING)
    assert unsure.mean() < 0.02
    sure = ~unsure
    np.testing.assert_array_equal(masks.moving[sure], (logits > 0).any(axis=1)[sure])
    owner = np.where((logits > 0).any(axis=1), logits.argmax(axis=1) + 1, 0)
    assert len(np.unique(owner)) > 2
    for t in range(len(logits)):
        at = np.flatnonzero(masks.frame == t)
        assert masks.thing[at].tolist() == [n for n in np.unique(owner[t]) if n]
        for row, n in enumerate(masks.thing[at].tolist(), 1):
            mask = owner[t] == n
            np.testing.assert_array_equal((masks.instance[t] == row)[sure[t]], mask[sure[t]])
            v, u = np.nonzero(mask)
            box = [u.min(), v.min(), u.max() + 1, v.max() + 1]
            off_px = 1 if unsure[t].any() else 0
            np.testing.assert_allclose(masks.box[at][row - 1], box, atol=off_px)
            np.testing.assert_allclose(masks.score[at][row - 1], scores[t, n - 1], atol=1e-5)


def test_what_moves_is_masked_as_documented(saved: Path) -> None:
    frames, motion = moving_clip()
    found = opened("moving").process(frames, motion)
    # As far as the flow of the first pair shows it: that is exact here.
    boxes = np.array([[left, top, left + SIDE, top + SIDE] for top, left in STARTS], np.float32)
    boxes = boxes[np.argsort(-found.score[found.frame == 0], kind="stable")]
    options = {"checkpoint": str(saved / "sam2"), "every": 100, "margin": 0}
    masks = opened("sam2", **options).process(frames, motion)
    same_as(masks, *documented(saved / "sam2", frames, 0, boxes))
    assert set(masks.label) == {"moving"}
    assert masks.model == "segment/sam2"
    grown = opened("sam2", **{**options, "margin": 0.05}).process(frames, motion)
    assert (grown.moving >= masks.moving).all()
    np.testing.assert_array_equal(grown.instance, masks.instance)


def test_what_a_detector_finds_is_masked_as_documented(saved: Path) -> None:
    frames, _ = moving_clip()
    options = {"threshold": 0.344, "labels": "dog, person"}
    found = opened("detection", checkpoint=str(saved / "rt_detr"), **options).process(frames)
    first = np.flatnonzero(found.frame == 0)
    assert 1 < len(first) < 10
    order = first[np.argsort(-found.score[first], kind="stable")]
    stage = opened(
        "sam2",
        checkpoint=str(saved / "sam2"),
        detector=str(saved / "rt_detr"),
        every=100,
        margin=0,
        **options,
    )
    masks = stage.process(frames)
    same_as(masks, *documented(saved / "sam2", frames, 0, found.box[order]))
    for n, label in zip(masks.thing.tolist(), masks.label, strict=True):
        assert label == found.label[order[n - 1]]


def test_logits_are_those_documented_backwards_too(saved: Path) -> None:
    frames, _ = moving_clip()
    boxes = np.array([[20, 10, 36, 26], [70.5, 44.25, 86, 60]], np.float32)
    logits, scores = documented(saved / "sam2", frames, 2, boxes)
    stage = opened("sam2", checkpoint=str(saved / "sam2"))
    from stages.segment._propagation import Propagation

    clip = Propagation(stage._network, stage._processor, frames.images)
    clip.follow(0, [boxes[1]])  # What went before leaves no trace.
    for n, thing in enumerate(clip.follow(2, list(boxes))):
        np.testing.assert_allclose(thing.score, scores[:, n], atol=1e-5)
        for t in range(COUNT):
            if (logits[t, n] > 0).any():
                np.testing.assert_allclose(clip.enlarged(thing, t), logits[t, n], atol=1e-5)
    assert thing.lost == 0


class Perfect:
    """What a network without fault would mask: the square whose box it is given, in all frames."""

    def __init__(self) -> None:
        self.given: list[tuple[int, list[float]]] = []
        self.size = (HEIGHT, WIDTH)

    def follow(self, frame: int, boxes: Any) -> list[Any]:
        from stages.segment._propagation import Followed

        things = []
        for box in boxes:
            self.given.append((frame, box.tolist()))
            logits = np.full((12, HEIGHT, WIDTH), -5.0, np.float32)
            for t in range(12):
                logits[t][squares(t, LATE)[int(box[1] > 30)]] = 5
            things.append(Followed(logits, np.ones(12, np.float32), 0))
        return things

    def enlarged(self, thing: Any, frame: int) -> Any:
        return thing.logits[frame]


def test_what_comes_into_view_is_taken_up_once(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, motion = moving_clip(12, LATE)
    perfect = Perfect()
    monkeypatch.setattr("stages.segment.sam2.Propagation", lambda *_: perfect)
    masks = opened("sam2", checkpoint=str(saved / "sam2"), every=4).process(frames, motion)
    assert perfect.given == [(0, [20, 10, 36, 26]), (4, [0, 44, 10, 60])]
    assert masks.thing.tolist() == [1] + [1, 2] * 11
    assert masks.frame.tolist() == [0] + [t for t in range(1, 12) for _ in range(2)]
    for n, place in enumerate(squares(6, LATE), 1):
        assert (masks.instance[6][place] == n).all()


def test_boxes_of_what_moves_are_tight_enough_to_prompt() -> None:
    """Measured: the ball in 7 of 8 looks, IoU .80 in the mean (whole patches .73), and no more."""
    from stages._geometry.boxes import box_of, overlap_of
    from tests.stages.segment.test_moving import balloon, clips

    truth, overlap = balloon(), []
    for frames, motion in clips(truth):
        stage = find("segment", "sam2")(options_of("segment", "sam2")(every=4))
        for t, seen in stage._detections(frames, motion):
            assert len(seen) <= 1
            ball = box_of(truth.ball(int(frames.index[t])))
            overlap += [overlap_of(one.box, ball) for one in seen]
    assert len(overlap) >= 7
    assert np.mean(overlap) > 0.75
    assert min(overlap) > 0.5


def test_numbers_of_a_clip_are_followed_where_overlap_is_none() -> None:
    """Two of a kind that change places between two frames, which only their numbers tell."""
    here, there = [0.0, 0, 10, 10], [50.0, 0, 60, 10]
    frames = clip_of(np.zeros((4, 20, 60, 3), np.uint8))
    rows = [(t, box) for t in range(4) for box in (here, there)]
    masks = Masks(
        clip=frames.clip,
        moving=np.zeros((4, 20, 60), np.bool_),
        frame=np.array([t for t, _ in rows], np.int32),
        box=np.array([box for _, box in rows], np.float32),
        score=np.ones(8, np.float32),
        label=("moving",) * 8,
        model="segment/sam2",
        thing=np.array([1, 2, 1, 2, 2, 1, 2, 1], np.int32),
    )
    ends = {}
    for name, seen in (("numbers", masks), ("overlap", replace(masks, thing=None))):
        stage = opened("overlap", step="track")
        assert stage.process(frames=frames, masks=seen) is None
        tracks: Tracks = stage.finish()
        assert len(tracks.track) == 2
        ends[name] = [a[0] != b[0] for a, b in zip(tracks.start_box, tracks.end_box, strict=True)]
    assert ends == {"numbers": [True, True], "overlap": [False, False]}


def test_where_nothing_moves_no_network_is_asked(saved: Path) -> None:
    stage = opened("sam2", checkpoint=str(saved / "sam2"))
    stage._network = None
    frames, motion = moving_clip()
    at_rest = replace(motion, flow=np.zeros_like(motion.flow))
    still = replace(frames, images=np.repeat(frames.images[:1], len(frames.images), axis=0))
    one = moving_clip(1)
    for clip, flow in ((still, at_rest), one, (one[0], None)):
        masks = stage.process(clip, flow)
        assert len(masks.label) == 0
        assert not masks.moving.any()
        assert not masks.instance.any()


def test_without_flow_a_clip_is_told_as_lost(saved: Path) -> None:
    told: list[Event] = []
    stage = opened("sam2", told, checkpoint=str(saved / "sam2"))
    assert stage.process(moving_clip()[0]) is None
    (loss,) = [event for event in told if isinstance(event, Loss)]
    assert "set flow.model, or segment.detector" in loss.why


@pytest.mark.parametrize(("height", "width"), [(8, 8), (3, 200), (1, 8), (2160, 3840)])
def test_any_size_of_frame_will_do(height: int, width: int, saved: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, height, width, 1), np.uint8)
    frames = clip_of(np.repeat(images, 3, axis=-1))
    stage = opened(
        "sam2",
        checkpoint=str(saved / "sam2"),
        detector=str(saved / "rt_detr"),
        labels="all",
        threshold=0.3,
        most_things=3,
    )
    masks = stage.process(frames)
    assert masks.moving.shape == (1, height, width)
    assert masks.moving.any()
    assert (masks.box[:, 2:] <= [width, height]).all()
    assert (masks.box[:, :2] < masks.box[:, 2:]).all()


def test_masks_that_are_no_numbers_are_told(saved: Path, tmp_path: Path) -> None:
    network = checkpoints.save_sam2(tmp_path / "nan")
    with torch.no_grad():
        for parameter in network.memory_attention.parameters():
            parameter.fill_(float("nan"))
    network.save_pretrained(tmp_path / "nan")
    told: list[Event] = []
    frames, motion = moving_clip()
    masks = opened("sam2", told, checkpoint=str(tmp_path / "nan"), every=100).process(
        frames, motion
    )
    # The frame of the prompt needs no memory.
    assert set(masks.frame.tolist()) == {0}
    assert not masks.moving[1:].any()
    (warning,) = [event.text for event in told if isinstance(event, Warn)]
    assert "8 of 10 masks" in warning


def test_more_things_than_allowed_are_told(saved: Path) -> None:
    told: list[Event] = []
    frames, motion = moving_clip()
    options = {"checkpoint": str(saved / "sam2"), "every": 100, "most_things": 1}
    masks = opened("sam2", told, **options).process(frames, motion)
    assert set(masks.thing.tolist()) == {1}
    (warning,) = [event.text for event in told if isinstance(event, Warn)]
    assert "1 things found" in warning
    assert "segment.most_things=1" in warning


def test_fewer_things_at_a_time_where_a_gpu_runs_out_of_memory(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.segment import _propagation

    frames, motion = moving_clip()
    options = {"checkpoint": str(saved / "sam2"), "every": 100}
    whole = opened("sam2", **options).process(frames, motion)
    told: list[Event] = []
    stage = opened("sam2", told, batch=2, **options)
    follow, sizes = _propagation.Propagation.follow, list[int]()

    def full(self: Any, frame: int, boxes: Any) -> Any:
        sizes.append(len(boxes))
        if len(boxes) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return follow(self, frame, boxes)

    monkeypatch.setattr(_propagation.Propagation, "follow", full)
    masks = stage.process(frames, motion)
    assert sizes == [2, 1, 1]
    np.testing.assert_array_equal(masks.instance, whole.instance)
    np.testing.assert_array_equal(masks.thing, whole.thing)
    assert "from here on 1 things at a time" in [e.text for e in told if isinstance(e, Warn)][-1]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("sam2", {"checkpoint": "rt_detr"}, "is a rt_detr, which is not for masks followed"),
        ("sam2", {"checkpoint": "nowhere"}, "segment.checkpoint = "),
        ("sam2", {"checkpoint": "sam2", "detector": "nowhere"}, "segment.detector = "),
        ("sam2", {"checkpoint": "sam2", "detector": "sam2"}, "is not for object detection"),
        (
            "sam2",
            {"checkpoint": "sam2", "detector": "rt_detr", "labels": "dgo"},
            "did you mean 'dog'",
        ),
        ("sam2", {"checkpoint": "sam2", "detector": "rt_detr", "text": " , "}, "segment.text ="),
        ("detection", {"checkpoint": "sam2"}, "sam2_video, which is not for object detection"),
        ("detection", {"checkpoint": "rt_detr", "labels": "dgo"}, "did you mean 'dog'"),
        ("detection", {"checkpoint": "rt_detr", "text": "a dog"}, "object detection by text"),
        ("panoptic", {"checkpoint": "rt_detr"}, "which is not for instance segmentation"),
    ],
)
def test_what_will_not_do_is_refused_before_a_run_begins(
    model: str, options: dict[str, str], message: str, saved: Path
) -> None:
    folders = ("checkpoint", "detector")
    own = {n: str(saved / v) if n in folders else v for n, v in options.items()}
    with pytest.raises(UsageError) as caught:
        find("segment", model)(options_of("segment", model)(**own)).fetch()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_will_do_is_fetched(saved: Path) -> None:
    options = {"checkpoint": str(saved / "sam2"), "detector": str(saved / "rt_detr")}
    stage = find("segment", "sam2")(options_of("segment", "sam2")(**options))
    stage.fetch()
    assert [weights.id for weights in stage.weights] == list(options.values())


def test_a_checkpoint_without_its_processor_is_one_line(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "sam2", tmp_path / "bare")
    (tmp_path / "bare" / "processor_config.json").unlink()
    with pytest.raises(UsageError, match="does not say how its input is prepared"):
        opened("sam2", checkpoint=str(tmp_path / "bare"))
