"""Masks reach keyframes, poses, depth, surface and splats; things seen become tracks and events."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.chain import wire
from pipeline.config import load
from pipeline.contract import (
    Actions,
    Context,
    DepthMaps,
    Event,
    Frames,
    Masks,
    Points,
    Tracks,
    Views,
    Warn,
)
from pipeline.contract.stage import find, options_of
from pipeline.errors import PartNotMade
from pipeline.storage import RunFolder
from pipeline.worker.event_log import EventLog
from stages._formats.packed_masks import packed, unpacked
from stages.pose._features import Features
from stages.pose._front_end import drop_invalid
from tests.support import results
from tests.support.motions import clip_of
from tests.support.posed import posed_views
from tests.support.scenes import Segment, film


def opened(step: str, model: str, told: list[Event] | None = None, **options: Any) -> Any:
    stage = find(step, model)(options_of(step, model)(**options))
    stage.open(Context(report=(told if told is not None else list[Event]()).append))
    return stage


def masks(frames: Frames, moving: np.ndarray, *things: tuple[int, str, list[float]]) -> Masks:
    """Rows of (frame, label, box)."""
    return Masks(
        clip=frames.clip,
        moving=moving,
        frame=np.array([row[0] for row in things], np.int32),
        box=np.array([row[2] for row in things], np.float32).reshape(-1, 4),
        score=np.full(len(things), 0.5, np.float32),
        label=tuple(row[1] for row in things),
        model="segment/detection",
    )


def clip(count: int = 6, first: int = 0, shot: int = 0) -> Frames:
    rows = np.arange(first, first + count)
    images = np.random.default_rng(first).integers(0, 256, (count, 40, 60, 3), np.uint8)
    made = clip_of(images, rows * 100_000_000, shot=shot)
    return replace(made, index=rows)


def test_a_mask_comes_back_from_few_bytes() -> None:
    mask = np.zeros((37, 53), bool)
    mask[3:20, 7:30] = True
    np.testing.assert_array_equal(unpacked(packed(mask), 37, 53), mask)
    assert packed(mask).nbytes < 100


@pytest.mark.parametrize("model", ["every", "parallax"])
def test_keyframes_carry_their_masks(model: str) -> None:
    frames = clip()
    moving = np.random.default_rng(3).random((6, 40, 60)) > 0.7
    told: list[Event] = []
    stage = opened("keyframe", model, told)
    more: dict[str, Any] = {}
    if model == "parallax":
        flow = np.zeros((5, 40, 60, 2), np.float32)
        more = {"motion": results.Motion(clip=frames.clip, flow=flow, confidence=flow[..., 0] + 1)}
    stage.process(frames=frames, masks=masks(frames, moving), **more)
    keyframes = stage.finish()
    assert keyframes.masks is not None
    np.testing.assert_array_equal(keyframes.masks, moving[keyframes.index])
    assert not told or not any(isinstance(event, Warn) for event in told)


def test_a_clip_that_could_not_be_segmented_is_left_whole_and_told() -> None:
    told: list[Event] = []
    stage = opened("keyframe", "every", told)
    stage.process(frames=clip(3), masks=masks(clip(3), np.ones((3, 40, 60), bool)))
    stage.process(frames=clip(2, first=3))
    keyframes = stage.finish()
    assert keyframes.masks is not None
    assert keyframes.masks.mean(axis=(1, 2)).tolist() == [1, 1, 1, 0, 0]
    assert "2 of 5 keyframes have no mask" in next(e.text for e in told if isinstance(e, Warn))
    without = opened("keyframe", "every")
    without.process(frames=clip(3))
    assert without.finish().masks is None


def test_features_on_what_moves_are_dropped() -> None:
    xy = np.array([[0.5, 0.5], [10.5, 4.5], [59.9, 39.9], [10.4, 5.2]], np.float32)
    features = Features(xy=xy, descriptors=np.arange(4, dtype=np.float32)[:, None] * np.ones(128))
    left_out = np.zeros((2, 40, 60), bool)
    left_out[1, 4, 10] = left_out[1, 39, 59] = True
    plain = replace(results.keyframes([0, 1]), images=np.zeros((2, 40, 60, 3), np.uint8))
    whole, some = drop_invalid(replace(plain, masks=left_out), [features, features])
    np.testing.assert_array_equal(some.xy, xy[[0, 3]])
    np.testing.assert_array_equal(some.descriptors[:, 0], [0, 3])
    assert whole is features
    assert drop_invalid(plain, [features, features])[1] is features


@pytest.fixture(scope="module")
def views() -> Views:
    truth = film([Segment("truck-right", 1.2)], 1, width=160, height=90)
    return posed_views(truth, range(0, 36, 5))


def block(views: Views) -> np.ndarray:
    left_out = np.zeros(views.images.shape[:3], bool)
    left_out[:, 20:60, 50:110] = True
    return left_out


@pytest.mark.parametrize("model", ["multiview", "plane_sweep"])
def test_depth_is_unknown_where_something_moves(model: str, views: Views) -> None:
    left_out = block(views)
    whole = opened("depth", model).process(views=views).depth
    depth = opened("depth", model).process(views=replace(views, masks=left_out)).depth
    assert np.isfinite(whole[left_out]).mean() > 0.2
    assert not np.isfinite(depth[left_out]).any()
    far = ~left_out
    far[:, 10:70, 30:130] = False
    assert np.isfinite(depth[far]).mean() > 0.8 * np.isfinite(whole[far]).mean()


def test_no_surface_is_fused_from_what_moves(views: Views) -> None:
    """Whatever made the depth: the map here knows the masked pixels, which are pink."""
    truth = film([Segment("truck-right", 1.2)], 1, width=160, height=90)
    depth = np.stack([truth.depth(i) for i in views.index.tolist()])
    left_out = block(views)
    images = views.images.copy()
    images[left_out] = (255, 0, 255)
    spoiled = replace(views, images=images)
    maps = DepthMaps(depth=depth)
    fuse = opened("fuse", "tsdf", min_component=0)
    with_it: Points = fuse.process(views=spoiled, depth=maps)
    without: Points = fuse.process(views=replace(spoiled, masks=left_out), depth=maps)

    def pink(points: Points) -> float:
        return float(((points.rgb > 180) == [True, False, True]).all(axis=1).mean())

    assert pink(with_it) > 0.05
    assert pink(without) < 0.002


def test_splats_do_not_learn_what_is_masked(views: Views) -> None:
    torch = pytest.importorskip("torch")
    from stages.splat._train import _with_masked_pixels
    from stages.splat._training_views import TrainingViews

    view = TrainingViews(replace(views, masks=block(views)), 80, "cpu").get(0)
    assert view.mask is not None
    assert view.mask.shape == view.target.shape[:2]
    np.testing.assert_array_equal(view.mask.numpy(), block(views)[0, ::2, ::2])
    image = torch.rand(*view.target.shape, requires_grad=True)
    ((_with_masked_pixels(image, view) - view.target) ** 2).sum().backward()
    grad = image.grad.abs().sum(-1)
    assert (grad[view.mask] == 0).all()
    assert (grad[~view.mask] > 0).all()
    assert TrainingViews(views, 80, "cpu").get(0).mask is None


def boxes_of(t: int) -> list[tuple[str, list[float]]]:
    """A person who walks to the right, a dog at rest, and something that flickers."""
    left = 3.0 * t
    seen = [("person", [left, 5, left + 12, 30]), ("dog", [40, 28, 52, 38])]
    return seen if t != 4 else [seen[1], ("dog", [2, 2, 6, 6])]


def run_tracker(told: list[Event], **options: Any) -> list[Tracks]:
    stage = opened("track", "overlap", told, **options)
    made = []
    for first, shot in ((0, 0), (6, 0), (12, 1)):
        frames = clip(6, first, shot)
        things = [(t, *row) for t in range(6) for row in boxes_of(first + t)]
        seen = masks(frames, np.zeros((6, 40, 60), bool), *things)
        made += [tracks for tracks in (stage.process(frames=frames, masks=seen),) if tracks]
    last = stage.finish()
    return [*made, last] if last else made


def test_things_are_followed_through_clips_and_end_with_their_shot() -> None:
    told: list[Event] = []
    tracks = Tracks.concat(run_tracker(told))
    rows = zip(tracks.label, tracks.track.tolist(), tracks.start_ns, tracks.end_ns, strict=True)
    seen = {(n, label, a // 10**8, b // 10**8) for label, n, a, b in rows}
    assert seen == {
        (1, "person", 0, 11),
        (2, "dog", 0, 11),
        (3, "person", 12, 17),
        (4, "dog", 12, 17),
    }
    first = tracks.track.tolist().index(1)
    np.testing.assert_allclose(tracks.start_box[first], [0, 5, 12, 30])
    np.testing.assert_allclose(tracks.end_box[first], [33, 5, 45, 30])
    assert set(tracks.kind) == {"object"}
    assert set(tracks.model) == {"segment/detection"}


def test_masks_tell_apart_what_boxes_cannot() -> None:
    """Two things whose boxes are the same: each lies along one diagonal."""
    stage = opened("track", "overlap", min_seen=2)
    frames = clip(3)
    upper = np.triu(np.ones((40, 40), bool), 8)
    instance = np.zeros((3, 40, 60), np.uint16)
    for t in range(3):
        order = (1, 2) if t != 1 else (2, 1)
        instance[t, :, :40][upper] = order[0]
        instance[t, :, :40][upper.T] = order[1]
    things = [(t, "dog", [0.0, 0, 40, 40]) for t in range(3) for _ in range(2)]
    seen = replace(masks(frames, instance > 0, *things), instance=instance)
    seen = replace(seen, score=np.array([0.2, 0.8, 0.8, 0.2, 0.2, 0.8], np.float32))
    stage.process(frames=frames, masks=seen)
    tracks = stage.finish()
    np.testing.assert_allclose(tracks.score, [0.2, 0.8], atol=1e-6)


def test_tracks_are_events_with_a_number_and_boxes(tmp_path: Path) -> None:
    both = (
        results.actions((0, 1, "pan-left", "camera")),
        results.tracks((0.5, 2, "dog", 1), (0.5, 2, "dog", 2)),
    )
    results.export("events", tmp_path, [both[:1], both[1:], both[1:]])
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event.get("track") for event in events] == [None, 1, 2]
    assert events[1] == {
        "start_s": 0.5,
        "end_s": 2.0,
        "label": "dog",
        "kind": "object",
        "score": 0.75,
        "model": "segment/detection",
        "track": 1,
        "start_box": [1.0, 2.0, 11.0, 20.0],
        "end_box": [4.0, 5.0, 14.0, 23.0],
    }
    assert "dog" not in (tmp_path / "actions.vtt").read_text()


def test_tracks_are_kept_whole(tmp_path: Path) -> None:
    """For `--resume`, and by a worker of the cluster that starts again."""
    tracks = results.tracks((0, 1, "dog", 1), (2, 3, "cat", 2))
    folder = RunFolder.create(tmp_path / "run", resume=False)
    back = folder.kept(folder.keep("track/overlap", "k" * 64, tracks))
    folder.close()
    kept = EventLog(tmp_path / "snapshots")
    kept.add(tracks)
    kept.add(results.tracks())
    kept.add(results.tracks((4, 5, "cow", 3)))
    again = EventLog(tmp_path / "snapshots")
    again.cut(2)
    joined = again.joined()
    for found in (back, joined):
        assert type(found) is Tracks
        assert found.label == tracks.label
        for name in Tracks.SPEC:
            np.testing.assert_array_equal(getattr(found, name), getattr(tracks, name))
    events = EventLog(tmp_path / "others")
    events.add(results.actions((0, 1, "pan-left", "camera")))
    events.cut(1)
    assert type(events.joined()) is Actions


def test_masks_check_themselves() -> None:
    frames = clip(2)
    moving = np.zeros((2, 40, 60), bool)
    with pytest.raises(ValueError, match=r"as many labels \(0\) as rows \(1\)"):
        replace(masks(frames, moving, (0, "dog", [0, 0, 1, 1])), label=())
    with pytest.raises(ValueError, match=r"must never fall, got \[1, 0\]"):
        masks(frames, moving, (1, "dog", [0, 0, 1, 1]), (0, "dog", [0, 0, 1, 1]))


def test_masks_are_written_as_colmap_reads_them(tmp_path: Path) -> None:
    views = results.views(2)
    left_out = np.zeros(views.images.shape[:3], bool)
    left_out[1, 5:9, 3:30] = True
    heard = results.export("masks", tmp_path, [(replace(views, masks=left_out),)])
    assert heard.artifacts == {"masks": "masks"}
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [
        "000000.jpg.png",
        "000007.jpg.png",
    ]
    for k, name in enumerate(("000000.jpg.png", "000007.jpg.png")):
        image = cv2.imread(str(tmp_path / "masks" / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image, np.where(left_out[k], 0, 255))
    with pytest.raises(PartNotMade, match=r"nothing was masked; set segment\.model"):
        results.export("masks", tmp_path / "none", [(views,)])


def names(*overrides: str) -> list[str]:
    chain = wire(load(preset="default", overrides=overrides, uri="film.mp4").choices)
    assert chain.left_out == {}
    return [link.name for link in chain.links]


def test_tracks_go_without_saying_once_something_is_segmented() -> None:
    assert not {"track/overlap", "segment/moving"} & set(names())
    with_it = names("segment.model=moving")
    assert with_it.index("segment/moving") + 1 == with_it.index("track/overlap")
    assert "track/overlap" not in names("segment.model=moving", "track.model=none")


def test_whoever_reads_masks_waits_for_them() -> None:
    config = load(preset="default", overrides=["segment.model=moving"], uri="film.mp4")
    chain = wire(config.choices)
    keyframe = next(link for link in chain.links if link.step == "keyframe")
    assert "segment/moving" in [link.name for link in chain.feeders(keyframe)]
