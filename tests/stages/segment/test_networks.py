"""What networks see is what transformers' own documented usage gives; what is wrong is one line."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.contract import Context, Event, Frames, Masks, Stage, Warn
from pipeline.contract.stage import find, options_of
from pipeline.errors import UsageError
from tests.support.motions import clip_of

torch = pytest.importorskip("torch")
tf = pytest.importorskip("transformers")
checkpoints = pytest.importorskip("tests.support.segment_checkpoints")

THRESHOLD = {"rt_detr": 0.1, "rt_detr_v2": 0.3, "d_fine": 0.1, "mask2former": 0.05, "eomt": 0.1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for kind in (*checkpoints.DETECTORS, *checkpoints.SEGMENTERS):
        checkpoints.save(folder / kind, kind)
    checkpoints.save_by_text(folder / "grounding")
    return folder


def frames(count: int = 3, height: int = 48, width: int = 80, seed: int = 0) -> Frames:
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    return clip_of(images, np.arange(count) * 100_000_000)


def opened(model: str, told: list[Event] | None = None, threads: int = 1, **options: Any) -> Any:
    stage: Stage[Any] = find("segment", model)(options_of("segment", model)(**options))
    stage.open(
        Context(threads=threads, report=(told if told is not None else list[Event]()).append)
    )
    return stage


def rows(masks: Masks, t: int) -> list[tuple[str, float, list[float]]]:
    at = np.flatnonzero(masks.frame == t)
    return [(masks.label[i], float(masks.score[i]), masks.box[i].tolist()) for i in at]


def clipped(box: Any, width: int = 80, height: int = 48) -> np.ndarray:
    return np.clip(np.asarray(box, np.float64), 0, [width, height, width, height])


def same_rows(found: list[Any], expected: list[Any]) -> None:
    """Equal but for things without a pixel inside the picture."""
    expected = [(n, s, clipped(b)) for n, s, b in expected]
    expected = [(n, s, b) for n, s, b in expected if b[0] < b[2] and b[1] < b[3]]
    assert len(expected) > 0
    assert [n for n, _, _ in found] == [n for n, _, _ in expected]
    np.testing.assert_allclose([s for _, s, _ in found], [s for _, s, _ in expected], atol=1e-5)
    np.testing.assert_allclose(
        [b for _, _, b in found], [b for _, _, b in expected], atol=1e-5 * 80
    )


@pytest.mark.parametrize("kind", ["rt_detr", "rt_detr_v2", "d_fine"])
def test_a_detector_sees_what_its_documented_usage_gives(kind: str, saved: Path) -> None:
    clip = frames()
    network = tf.AutoModelForObjectDetection.from_pretrained(saved / kind).eval()
    processor = tf.AutoImageProcessor.from_pretrained(saved / kind)
    inputs = processor(images=[np.array(image) for image in clip.images], return_tensors="pt")
    with torch.no_grad():
        outputs = network(**inputs)
    results = processor.post_process_object_detection(
        outputs, target_sizes=torch.tensor([[48, 80]] * 3), threshold=THRESHOLD[kind]
    )
    kept = {0: "person", 2: "dog"}
    stage = opened(
        "detection", checkpoint=str(saved / kind), threshold=THRESHOLD[kind], labels="dog, person"
    )
    masks = stage.process(clip)
    for t, one in enumerate(results):
        expected = zip(one["labels"].tolist(), one["scores"].tolist(), one["boxes"], strict=True)
        same_rows(rows(masks, t), [(kept[n], s, b) for n, s, b in expected if n in kept])
    assert masks.instance is None
    assert masks.model == "segment/detection"


def test_a_text_is_found_as_documented(saved: Path) -> None:
    clip, folder = frames(2), saved / "grounding"
    network = tf.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    processor = tf.AutoProcessor.from_pretrained(folder)
    inputs = processor(
        images=[np.array(image) for image in clip.images],
        text=[["a dog", "a red car"]] * 2,
        return_tensors="pt",
    )
    with torch.no_grad():
        outputs = network(**inputs)
    results = processor.post_process_grounded_object_detection(
        outputs, inputs.input_ids, threshold=0.3, text_threshold=0.25, target_sizes=[(48, 80)] * 2
    )
    stage = opened("detection", checkpoint=str(folder), text="a dog, a red car", threshold=0.3)
    masks = stage.process(clip)
    for t, one in enumerate(results):
        expected = zip(one["text_labels"], one["scores"].tolist(), one["boxes"], strict=True)
        same_rows(rows(masks, t), [row for row in expected if row[0]])


@pytest.mark.parametrize("kind", ["mask2former", "eomt"])
def test_a_segmenter_cuts_out_what_its_documented_usage_gives(kind: str, saved: Path) -> None:
    clip = frames()
    network = tf.AutoModelForUniversalSegmentation.from_pretrained(saved / kind).eval()
    processor = tf.AutoImageProcessor.from_pretrained(saved / kind)
    inputs = processor(images=[np.array(image) for image in clip.images], return_tensors="pt")
    inputs.pop("patch_offsets", None)
    with torch.no_grad():
        outputs = network(**inputs)
    results = processor.post_process_instance_segmentation(
        outputs, threshold=THRESHOLD[kind], target_sizes=[(48, 80)] * 3
    )
    stage = opened(
        "panoptic",
        checkpoint=str(saved / kind),
        threshold=THRESHOLD[kind],
        labels="person, dog",
        margin=0,
    )
    masks = stage.process(clip)
    assert masks.instance is not None
    some = 0
    for t, one in enumerate(results):
        wanted = [s for s in one["segments_info"] if checkpoints.LABELS[s["label_id"]] != "chair"]
        wanted = [s for s in wanted if (one["segmentation"] == s["id"]).any()]
        seen = rows(masks, t)
        assert [n for n, _, _ in seen] == [checkpoints.LABELS[s["label_id"]] for s in wanted]
        np.testing.assert_allclose([s for _, s, _ in seen], [s["score"] for s in wanted], atol=1e-5)
        moving = np.zeros((48, 80), bool)
        for n, segment in enumerate(wanted, 1):
            mask = (one["segmentation"] == segment["id"]).numpy()
            np.testing.assert_array_equal(masks.instance[t] == n, mask)
            moving |= mask
        np.testing.assert_array_equal(masks.moving[t], moving)
        some += len(wanted)
    assert some


def test_batches_and_threads_change_nothing(saved: Path) -> None:
    clip = frames(5)
    options = {"checkpoint": str(saved / "rt_detr"), "threshold": 0.3, "labels": "all"}
    one = opened("detection", **options).process(clip)
    many = opened("detection", threads=2, **options).process(clip)
    np.testing.assert_array_equal(one.box, many.box)
    np.testing.assert_array_equal(one.moving, many.moving)
    batched = opened("detection", batch=3, **options).process(clip)
    np.testing.assert_allclose(one.box, batched.box, atol=1e-3)


def test_boxes_are_masked_whole_and_grown(saved: Path) -> None:
    options = {"checkpoint": str(saved / "rt_detr"), "threshold": 0.3, "labels": "all"}
    bare = opened("detection", margin=0, **options).process(frames())
    grown = opened("detection", margin=0.05, **options).process(frames())
    for t in range(3):
        expected = np.zeros((48, 80), bool)
        for box in bare.box[bare.frame == t]:
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(bare.moving[t], expected)
    assert (grown.moving | bare.moving == grown.moving).all()
    assert grown.moving.sum() > bare.moving.sum()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 300), (4320, 7680)])
@pytest.mark.parametrize("kind", ["rt_detr", "eomt"])
def test_any_size_of_frame_will_do(kind: str, height: int, width: int, saved: Path) -> None:
    model = "detection" if kind == "rt_detr" else "panoptic"
    options = {"largest_px": 1000} if model == "panoptic" else {}
    stage = opened(model, checkpoint=str(saved / kind), threshold=0.1, labels="all", **options)
    gray = np.repeat(frames(1, height, width).images[..., :1], 3, axis=-1)
    masks = stage.process(clip_of(gray, np.zeros(1, np.int64)))
    assert masks.moving.shape == (1, height, width)
    assert np.isfinite(masks.score).all()
    assert (masks.box[:, 2:] <= [width, height]).all()


@pytest.mark.parametrize(("model", "kind"), [("detection", "rt_detr"), ("panoptic", "eomt")])
def test_scores_that_are_no_numbers_are_told(
    model: str, kind: str, saved: Path, tmp_path: Path
) -> None:
    network = checkpoints.save(tmp_path / "nan", kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float("nan"))
    network.save_pretrained(tmp_path / "nan")
    told: list[Event] = []
    stage = opened(model, told, checkpoint=str(tmp_path / "nan"), labels="all")
    masks = stage.process(frames())
    assert len(masks.label) == 0
    assert not masks.moving.any()
    (warning,) = [event.text for event in told if isinstance(event, Warn)]
    assert "in 3 of 3 frames" in warning


def test_half_the_batch_where_a_gpu_runs_out_of_memory(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    options = {"checkpoint": str(saved / "rt_detr"), "threshold": 0.3, "labels": "all"}
    stage = opened("detection", told, batch=4, **options)
    look, sizes = stage.detect, list[int]()

    def full(images: list[Any]) -> Any:
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return look(images)

    monkeypatch.setattr(stage, "detect", full)
    masks = stage.process(frames(5))
    assert sizes == [4, 2, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(masks.box, opened("detection", **options).process(frames(5)).box)
    assert "from here on 1 frames at a time" in [e.text for e in told if isinstance(e, Warn)][-1]
    monkeypatch.setattr(stage, "detect", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(UsageError, match="does not hold one of the frames; take a smaller"):
        stage.process(frames(1))


def _wrong_task(folder: Path, saved: Path) -> None:
    shutil.copytree(saved / "eomt", folder)


def _missing(folder: Path, saved: Path) -> None:
    _changed(folder, saved, lambda tensors: tensors.popitem())


def _extra(folder: Path, saved: Path) -> None:
    _changed(folder, saved, lambda tensors: tensors.update(stranger=torch.zeros(2)))


def _changed(folder: Path, saved: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(saved / "rt_detr", folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _truncated(folder: Path, saved: Path) -> None:
    shutil.copytree(saved / "rt_detr", folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


class Harm:
    def __reduce__(self) -> Any:
        return (Path("/tmp/reel3d-must-not-be").touch, ())


def _pickle(folder: Path, saved: Path) -> None:
    shutil.copytree(saved / "rt_detr", folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))


def _no_processor(folder: Path, saved: Path) -> None:
    shutil.copytree(saved / "rt_detr", folder)
    (folder / "preprocessor_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_wrong_task, "is a eomt, which is not for object detection"),
        (_missing, "does not hold the weights of RTDetrForObjectDetection"),
        (_extra, "stranger is not part of it"),
        (_truncated, "it may be damaged or truncated"),
        (_pickle, "pytorch_model.bin"),
        (_no_processor, "does not say how its input is prepared"),
    ],
)
def test_a_bad_checkpoint_is_one_line(
    spoil: Any, message: str, saved: Path, tmp_path: Path
) -> None:
    spoil(tmp_path / "bad", saved)
    with pytest.raises(UsageError) as caught:
        opened("detection", checkpoint=str(tmp_path / "bad"), labels="all")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/reel3d-must-not-be").exists()


@pytest.mark.parametrize(
    ("model", "kind", "options", "message"),
    [
        ("detection", "rt_detr", {"labels": " , "}, "segment.labels is empty; name labels of"),
        ("detection", "rt_detr", {"labels": "person, dgo"}, "'dgo', which the network does not"),
        ("detection", "rt_detr", {"labels": "dgo"}, "did you mean 'dog'"),
        ("detection", "grounding", {"text": " , "}, "segment.text = ' , ' names nothing"),
        ("detection", "rt_detr", {"text": "a dog"}, "not for object detection by text"),
        ("detection", "grounding", {}, "is a grounding-dino, which is not for object detection"),
        ("panoptic", "mask2former", {"labels": ""}, "segment.labels is empty"),
        ("panoptic", "rt_detr", {}, "is a rt_detr, which is not for instance segmentation"),
    ],
)
def test_a_wrong_wish_is_one_line(
    model: str, kind: str, options: dict[str, Any], message: str, saved: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        opened(model, checkpoint=str(saved / kind), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_the_usual_labels_those_that_the_network_has_are_kept(saved: Path) -> None:
    stage = opened("detection", checkpoint=str(saved / "rt_detr"), threshold=0.2)
    assert stage._labels == {0: "person", 2: "dog"}
    assert set(stage.process(frames()).label) <= {"person", "dog"}
