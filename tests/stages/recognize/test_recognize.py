"""Recognizers: each equals its library's documented usage, and says what it cannot use."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from pipeline.contract import Context, Event, Frames, Loss, Scores, Stage, Warn
from pipeline.contract.stage import find, options_of
from pipeline.errors import UsageError
from stages._networks.batching import Batches
from stages.recognize._windows import crops, windows
from tests.support.checkpoints import (
    LABELS,
    VIDEO_CLASSIFIERS,
    WORD_NETWORKS,
    save_video,
    save_words,
)
from tests.support.motions import clip_of, texture

TOLERANCE = 1e-5

Opened = Callable[..., Stage[Any]]


def film(count: int, height: int = 60, width: int = 90) -> Frames:
    base = texture(height, width, seed=3)
    images = np.stack([np.roll(base, 2 * t, axis=1) for t in range(count)])
    return clip_of(images, np.arange(count) * 40_000_000)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")

    def checkpoint(kind: str) -> Path:
        path = folder / kind
        if not path.exists():
            (save_video if kind in VIDEO_CLASSIFIERS else save_words)(path, kind)
        return path

    return checkpoint


@pytest.fixture
def opened() -> Any:
    stages: list[Stage[Any]] = []

    def open_(
        model: str, heard: list[Event] | None = None, threads: int = 1, **options: Any
    ) -> Any:
        stage = find("recognize", model)(options_of("recognize", model)(**options))
        stages.append(stage)
        stage.fetch()
        report = heard.append if heard is not None else (lambda event: None)
        stage.open(Context(threads=threads, report=report))
        return stage

    yield open_
    for stage in stages:
        stage.close()


# What the library's documentation does ---------------------------------------------------------


def documented(kind: str, folder: Path, video: np.ndarray) -> np.ndarray:
    """The probabilities that the example of each network's documentation ends in."""
    network = tf.AutoModelForVideoClassification.from_pretrained(folder)
    if kind in ("videomae", "vjepa2"):
        prepare = tf.AutoVideoProcessor.from_pretrained(folder)
    else:
        prepare = tf.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = network(**prepare(list(video.copy()), return_tensors="pt")).logits
    return logits.softmax(-1)[0].numpy()


@pytest.mark.parametrize("kind", sorted(VIDEO_CLASSIFIERS))
def test_a_classifier_equals_the_documented_usage(
    kind: str, checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    folder = checkpoints(kind)
    stage: Any = opened("video_transformer", checkpoint=str(folder))
    count = stage._frames
    clip = film(count)
    wanted = documented(kind, folder, clip.images)
    found = stage.process(clip)
    assert isinstance(found, Scores)
    np.testing.assert_allclose(found.score[0], wanted, atol=TOLERANCE)
    assert np.ptp(wanted) > 0.01, "the labels must differ for this to mean anything"
    assert found.label == tuple(LABELS.values())
    assert found.start_ns.tolist() == [0]
    assert found.end_ns.tolist() == [(count - 1) * 40_000_000]
    # Frames of a longer clip, spread over it.
    longer = film(3 * count - 2)
    rows = np.rint(np.linspace(0, 3 * count - 3, count)).astype(int)
    wanted = documented(kind, folder, longer.images[rows])
    np.testing.assert_allclose(stage.process(longer).score[0], wanted, atol=TOLERANCE)


@pytest.mark.parametrize("kind", sorted(VIDEO_CLASSIFIERS))
def test_views_and_crops_are_scored_by_themselves_and_averaged(
    kind: str, checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    folder = checkpoints(kind)
    stage: Any = opened(
        "video_transformer", checkpoint=str(folder), stride=2, views=3, crops=3, batch=4
    )
    count = stage._frames
    span = 2 * (count - 1) + 1
    clip = film(span + 4)
    found = stage.process(clip)
    assert found.score.shape == (3, 4)
    for row, start in enumerate((0, 2, 4)):
        frames = clip.images[start : start + span : 2]
        parts = [frames[:, :, at : at + 60] for at in (0, 15, 30)]
        wanted = np.mean([documented(kind, folder, part) for part in parts], axis=0)
        np.testing.assert_allclose(found.score[row], wanted, atol=TOLERANCE)
        assert found.start_ns[row] == start * 40_000_000
        assert found.end_ns[row] == min(start + span, len(clip.images) - 1) * 40_000_000


def test_the_result_is_the_same_for_any_number_of_threads(
    checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    folder = str(checkpoints("videomae"))
    made = [
        opened("video_transformer", checkpoint=folder, views=4, threads=n).process(film(12)).score
        for n in (1, 2)
    ]
    assert np.array_equal(made[0], made[1])


def test_several_labels_may_be_true_where_the_network_says_so(
    tmp_path: Path, opened: Opened
) -> None:
    network = save_video(tmp_path, "videomae", problem_type="multi_label_classification")
    stage: Any = opened("video_transformer", checkpoint=str(tmp_path))
    clip = film(6)
    ready = tf.AutoVideoProcessor.from_pretrained(tmp_path)(
        list(clip.images.copy()), return_tensors="pt"
    )
    with torch.no_grad():
        wanted = network(**ready).logits.sigmoid()[0].numpy()
    np.testing.assert_allclose(stage.process(clip).score[0], wanted, atol=TOLERANCE)


# Labels ----------------------------------------------------------------------------------------


def test_a_label_list_renames_and_a_label_map_joins(
    tmp_path: Path, checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    folder = str(checkpoints("videomae"))
    clip = film(6)
    plain = opened("video_transformer", checkpoint=folder).process(clip).score[0]
    listed = tmp_path / "labels.txt"
    listed.write_text("gehen\nlaufen\n\nwinken\nsitzen\n")
    found = opened("video_transformer", checkpoint=folder, labels=str(listed)).process(clip)
    assert found.label == ("gehen", "laufen", "winken", "sitzen")
    assert np.array_equal(found.score[0], plain)
    mapped = tmp_path / "labels.json"
    mapped.write_text(json.dumps({"walking": "on foot", "running": "on foot", "sitting": "rest"}))
    found = opened("video_transformer", checkpoint=folder, labels=str(mapped)).process(clip)
    assert found.label == ("on foot", "rest")
    np.testing.assert_allclose(found.score[0], [plain[0] + plain[1], plain[3]], atol=1e-6)


def test_ten_thousand_labels_are_fine(tmp_path: Path, opened: Opened) -> None:
    many = {n: f"label {n}" for n in range(10_000)}
    save_video(
        tmp_path / "net", "videomae", id2label=many, label2id={v: k for k, v in many.items()}
    )
    listed = tmp_path / "labels.txt"
    listed.write_text("\n".join(f"mine {n}" for n in range(10_000)))
    stage = opened("video_transformer", checkpoint=str(tmp_path / "net"), labels=str(listed))
    found = stage.process(film(6))
    assert found.score.shape == (1, 10_000)
    assert found.label[-1] == "mine 9999"
    assert found.score.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("l.txt", "\n \n", "is empty; give one label a line"),
        ("l.txt", "a\nb\nc", "has 3 labels and the network 4"),
        ("l.txt", "a\nb\na\nc", "has 'a' twice"),
        ("l.json", "{}", "is empty; it must name at least one label"),
        ("l.json", "[1]", "must hold {"),
        ("l.json", "{", "is no JSON"),
        ("l.json", '{"wlaking": "x"}', "which the network does not have; did you mean 'walking'?"),
        ("missing.txt", None, "cannot be read: No such file"),
    ],
)
def test_labels_that_do_not_fit_are_told(
    name: str, text: str | None, told: str, tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    config = options_of("recognize", "video_transformer")(
        checkpoint=str(checkpoints("videomae")), labels=str(path)
    )
    stage = find("recognize", "video_transformer")(config)
    with pytest.raises(UsageError, match=r"recognize\.labels: ") as caught:
        stage.fetch()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# Words -----------------------------------------------------------------------------------------

ACTIONS = ("a dog runs", "a person cooks", "a cat walks quietly")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Prompt templates that add nothing to an action."""
    path = tmp_path / "bare.txt"
    path.write_text("{}")
    return path


def test_clip_equals_its_documented_formula(
    bare: Path, checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    """One frame and one wording: what `CLIPModel`'s example prints."""
    for kind in ("clip", "siglip", "siglip2"):
        folder = checkpoints(kind)
        options = {"checkpoint": str(folder), "actions": ",".join(ACTIONS), "templates": str(bare)}
        stage: Any = opened("zero_shot", **options, none_of_these=False, frames=1)
        clip = film(3)
        prepare = tf.AutoProcessor.from_pretrained(folder)
        network = tf.AutoModel.from_pretrained(folder)
        padding: Any = True if kind == "clip" else "max_length"
        inputs = prepare(
            text=list(ACTIONS), images=clip.images[0].copy(), padding=padding, return_tensors="pt"
        )
        with torch.no_grad():
            logits = network(**inputs).logits_per_image
        wanted = logits.softmax(1) if kind == "clip" else logits.sigmoid()
        np.testing.assert_allclose(stage.process(clip).score[0], wanted[0].numpy(), atol=TOLERANCE)
        assert stage.process(clip).label == ACTIONS


def test_prompts_are_averaged_and_made_unit_length(
    checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    """Frames too; and "something else" takes its share."""
    folder = checkpoints("clip")
    stage: Any = opened("zero_shot", checkpoint=str(folder), actions=", ".join(ACTIONS), frames=3)
    clip = film(3)
    prepare = tf.AutoProcessor.from_pretrained(folder)
    network = tf.AutoModel.from_pretrained(folder)
    templates = ["a photo of {}.", "a video of {}.", "an example of {}.", "a demonstration of {}."]
    nothing = ("something else", "nothing in particular", "an empty scene")

    def feature(texts: list[str]) -> torch.Tensor:
        inputs = prepare(text=texts, padding=True, return_tensors="pt")
        found = network.get_text_features(**inputs).pooler_output
        mean = (found / found.norm(dim=-1, keepdim=True)).mean(0)
        return mean / mean.norm()

    with torch.no_grad():
        texts = [feature([t.format(action) for t in templates]) for action in ACTIONS]
        texts.append(feature([t.format(none) for none in nothing for t in templates]))
        seen = network.get_image_features(
            **prepare(images=list(clip.images.copy()), return_tensors="pt")
        )
        frames = seen.pooler_output / seen.pooler_output.norm(dim=-1, keepdim=True)
        video = frames.mean(0) / frames.mean(0).norm()
        logits = network.logit_scale.exp() * torch.stack(texts) @ video
    wanted = logits.softmax(0).numpy()
    found = stage.process(clip).score[0]
    np.testing.assert_allclose(found, wanted[:3], atol=TOLERANCE)
    assert found.sum() < 0.999


def test_xclip_equals_its_documented_usage(
    bare: Path, checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    folder = checkpoints("xclip")
    stage: Any = opened(
        "zero_shot",
        checkpoint=str(folder),
        actions=",".join(ACTIONS),
        templates=str(bare),
        none_of_these=False,
        views=2,
        stride=1,
        batch=2,
    )
    clip = film(8)
    prepare = tf.AutoProcessor.from_pretrained(folder)
    network = tf.AutoModel.from_pretrained(folder)
    found = stage.process(clip).score
    for row, part in enumerate((clip.images[:4], clip.images[4:])):
        inputs = prepare(
            text=list(ACTIONS), videos=list(part.copy()), return_tensors="pt", padding=True
        )
        with torch.no_grad():
            wanted = network(**inputs).logits_per_video.softmax(dim=1)[0].numpy()
        np.testing.assert_allclose(found[row], wanted, atol=TOLERANCE)
    assert np.ptp(found) > 0.01


def test_videoprism_equals_its_features(
    bare: Path, checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    folder = checkpoints("videoprism")
    stage: Any = opened(
        "zero_shot",
        checkpoint=str(folder),
        actions=",".join(ACTIONS),
        templates=str(bare),
        none_of_these=False,
    )
    clip = film(4)
    prepare = tf.AutoProcessor.from_pretrained(folder)
    network = tf.AutoModel.from_pretrained(folder)
    inputs = prepare(
        text=list(ACTIONS),
        videos=list(clip.images.copy()),
        do_sample_frames=False,
        padding="max_length",
        max_length=64,
        return_tensors="pt",
    )
    with torch.no_grad():
        made = network(**inputs)
    wanted = (made.video_embeds @ made.text_embeds.T / 0.01).softmax(-1)[0].numpy()
    np.testing.assert_allclose(stage.process(clip).score[0], wanted, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "recognize.actions is empty; write what to look for"),
        ({"actions": " , "}, "recognize.actions is empty"),
        ({"actions": "a dog, a cat, a dog"}, "names 'a dog' twice"),
        ({"actions": ",".join(map(str, range(10_001)))}, "has 10001 actions; at most 10000"),
    ],
)
def test_words_that_cannot_be_used_are_told(
    options: dict[str, str], told: str, checkpoints: Callable[[str], Path]
) -> None:
    config = options_of("recognize", "zero_shot")(checkpoint=str(checkpoints("clip")), **options)
    with pytest.raises(UsageError, match=told):
        find("recognize", "zero_shot")(config).fetch()


def test_a_template_must_have_a_place_for_the_action(
    tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    path = tmp_path / "t.txt"
    path.write_text("a photo of {}\na photo")
    config = options_of("recognize", "zero_shot")(
        checkpoint=str(checkpoints("clip")), actions="a dog", templates=str(path)
    )
    with pytest.raises(UsageError, match=r"'a photo' has no \{\} for the action"):
        find("recognize", "zero_shot")(config).fetch()


# Checkpoints that cannot be used ---------------------------------------------------------------


def broken(folder: Path, how: str) -> None:
    """Spoil a checkpoint."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "classifier.weight"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "missing":
        save_file({k: v for k, v in tensors.items() if k != name}, file, {"format": "pt"})
    elif how == "extra":
        save_file({**tensors, "more.weight": torch.zeros(2)}, file, {"format": "pt"})
    elif how == "shape":
        save_file({**tensors, name: torch.zeros(7, 32)}, file, {"format": "pt"})
    elif how == "pickle":
        file.unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Path("/etc")}))
    elif how == "no weights":
        file.unlink()
    elif how == "index":
        file.unlink()
        index = {"weight_map": {"a": "../elsewhere.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "processor":
        (folder / "video_preprocessor_config.json").unlink()
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "task":
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = ["VideoMAEForPreTraining"]
        (folder / "config.json").write_text(json.dumps(config))
    elif how == "kind":
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    elif how == "frames":
        config = json.loads((folder / "config.json").read_text())
        config["num_frames"] = 0
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("truncated", "it may be damaged or truncated: fetch or save it again"),
        ("missing", "VideoMAEForVideoClassification: classifier.weight is missing"),
        ("extra", "more.weight is not part of it"),
        ("shape", "classifier.weight is of another shape"),
        ("pickle", "is a pickle that holds more than tensors and could run code"),
        ("no weights", "holds no whole weights: it needs model.safetensors or"),
        ("index", "names '../elsewhere.safetensors', which is not beside it; it is not read"),
        ("processor", "does not say how its input is prepared"),
        ("config", "config.json cannot be read"),
        ("task", "was saved as VideoMAEForPreTraining, which is not for action recognition"),
        ("kind", "is a bert, which is not for action recognition; allowed are timesformer"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_told(how: str, told: str, tmp_path: Path) -> None:
    save_video(tmp_path, "videomae")
    broken(tmp_path, how)
    config = options_of("recognize", "video_transformer")(checkpoint=str(tmp_path))
    stage = find("recognize", "video_transformer")(config)

    def use() -> None:
        stage.fetch()
        stage.open(Context())

    with pytest.raises(UsageError) as caught:
        use()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torch_file_of_tensors_alone_is_read(tmp_path: Path, opened: Opened) -> None:
    save_video(tmp_path, "videomae")
    wanted = opened("video_transformer", checkpoint=str(tmp_path)).process(film(6)).score
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    found = opened("video_transformer", checkpoint=str(tmp_path)).process(film(6)).score
    # Tensors of the two lie differently in memory, which changes last bits.
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)


def test_what_compares_no_pictures_with_words_is_told(
    checkpoints: Callable[[str], Path],
) -> None:
    config = options_of("recognize", "zero_shot")(
        checkpoint=str(checkpoints("videomae")), actions="a dog"
    )
    with pytest.raises(UsageError, match="is a videomae, which does not compare pictures with"):
        find("recognize", "zero_shot")(config).fetch()


# Clips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 200), (60, 90), (4320, 7680)])
def test_any_size_of_frame_is_scored(
    size: tuple[int, int], checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    stage = opened("video_transformer", checkpoint=str(checkpoints("vivit")))
    gray = np.full((2, *size, 3), 128, np.uint8)
    found = stage.process(clip_of(gray, np.arange(2) * 40_000_000))
    assert np.isfinite(found.score).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 200)])
@pytest.mark.parametrize("kind", sorted({**VIDEO_CLASSIFIERS, **WORD_NETWORKS}))
def test_tiny_frames_are_scored_as_their_enlarged_selves(
    kind: str, size: tuple[int, int], checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    """Three rows or columns may be taken for colors."""
    of_video = kind in VIDEO_CLASSIFIERS
    more = {} if of_video else {"actions": "a dog runs, a person cooks"}
    model = "video_transformer" if of_video else "zero_shot"
    stage: Any = opened(model, checkpoint=str(checkpoints(kind)), **more)
    gray = np.full((8, *size, 3), 90, np.uint8)
    large = np.full((8, 64, 64 * size[1] // size[0], 3), 90, np.uint8)
    times = np.arange(8) * 40_000_000
    tiny, whole = (stage.process(clip_of(images, times)).score for images in (gray, large))
    # The processor of SigLIP 2 cuts a tiny picture into fewer patches.
    np.testing.assert_allclose(tiny, whole, atol=1e-3 if kind == "siglip2" else 1e-4)


def test_a_short_clip_is_stretched_with_one_warning_and_one_frame_says_nothing(
    checkpoints: Callable[[str], Path], opened: Opened
) -> None:
    heard: list[Event] = []
    stage = opened("video_transformer", heard, checkpoint=str(checkpoints("videomae")))
    short = film(2)
    found = stage.process(short)
    wanted = documented("videomae", checkpoints("videomae"), short.images[[0, 0, 0, 1, 1, 1]])
    np.testing.assert_allclose(found.score[0], wanted, atol=TOLERANCE)
    stage.process(short)
    warnings = [event.text for event in heard if isinstance(event, Warn)]
    assert len(warnings) == 1
    assert "looks at 6 frames" in warnings[0]
    assert "sample.clip_frames=6" in warnings[0]
    assert stage.process(film(1)) is None


def test_scores_that_are_no_numbers_are_lost_and_told(tmp_path: Path, opened: Opened) -> None:
    save_video(tmp_path, "videomae")
    file = tmp_path / "model.safetensors"
    save_file(
        {**load_file(file), "classifier.bias": torch.full((4,), torch.nan)}, file, {"format": "pt"}
    )
    heard: list[Event] = []
    stage = opened("video_transformer", heard, checkpoint=str(tmp_path))
    assert stage.process(film(6)) is None
    losses = [event for event in heard if isinstance(event, Loss)]
    assert len(losses) == 1
    assert "its weights may be damaged" in losses[0].why


def test_when_memory_runs_out_batches_shrink(
    checkpoints: Callable[[str], Path], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    stage: Any = opened(
        "video_transformer", heard, checkpoint=str(checkpoints("videomae")), views=4, batch=4
    )
    wanted = stage.process(film(24)).score
    score_windows = stage.score_windows

    def short(videos: Any) -> Any:
        if len(videos) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score_windows(videos)

    monkeypatch.setattr(stage, "score_windows", short)
    np.testing.assert_allclose(stage.process(film(24)).score, wanted, atol=TOLERANCE)
    assert [e.text.split("on ")[1] for e in heard if isinstance(e, Warn)] == [
        "2 windows at a time",
        "1 windows at a time",
    ]


def test_a_batch_of_one_that_does_not_fit_is_told() -> None:
    def never(size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UsageError, match="does not hold one of the windows; take less"):
        Batches(1, "windows", "take less", lambda text: None).attempt(never)


def test_windows_are_placed_evenly_and_never_outside() -> None:
    clip = film(20)
    for stride, views in ((0, 1), (0, 3), (1, 2), (4, 2), (5, 3), (64, 16)):
        found = windows(clip, 4, stride, views)
        assert 1 <= len(found) <= views
        for window in found:
            assert len(window.frames) == 4
            assert window.frames.min() >= 0
            assert window.frames.max() < 20
            assert 0 <= window.start_ns < window.end_ns <= 19 * 40_000_000
        assert found[0].start_ns == 0
        assert found[-1].end_ns == 19 * 40_000_000 or (stride == 1 and views == 1)
    assert [w.frames.tolist() for w in windows(clip, 4, 4, 2)] == [[0, 4, 8, 12], [7, 11, 15, 19]]


def test_crops_lie_along_the_longer_side() -> None:
    images = np.arange(2 * 4 * 10 * 3, dtype=np.uint8).reshape(2, 4, 10, 3)
    assert crops(images, 1)[0] is images
    wide = crops(images, 3)
    assert [c.shape for c in wide] == [(2, 4, 4, 3)] * 3
    assert np.array_equal(wide[1], images[:, :, 3:7])
    tall = crops(images.transpose(0, 2, 1, 3), 2)
    assert np.array_equal(tall[1], images.transpose(0, 2, 1, 3)[:, 6:])
