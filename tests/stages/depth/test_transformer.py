"""Learned depth: equal to the documented use of each network, aligned, fused with geometry."""

import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from pipeline.contract import Context, DepthMaps, Metric, Progress, Views, Warn
from pipeline.errors import PartNotMade, UsageError
from stages.depth._align import Anchors
from stages.depth._fill import extended, filled
from stages.depth._prompt import prompt_of
from stages.depth.multiview import Config as MultiviewConfig
from stages.depth.multiview import Model as Multiview
from stages.depth.transformer import Config, Model
from tests.support.depth_checkpoints import FAMILIES, save
from tests.support.posed import posed_views
from tests.support.scenes import Truth, alone

SAME = 1e-5
"""Relative to the largest prediction: sums differ in their order between batch sizes."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in FAMILIES:
        save(name, folder / name)
    return folder


@pytest.fixture(scope="module")
def truck() -> Truth:
    return alone("truck-right", seed=1)


@pytest.fixture(scope="module")
def views(truck: Truth) -> Views:
    return posed_views(truck, range(0, 60, 10))


def opened(
    checkpoint: Path | str, heard: list[Any] | None = None, threads: int = 1, **options: Any
) -> Any:
    stage = Model(Config(checkpoint=str(checkpoint), **options))
    stage.open(Context(threads=threads, report=(heard if heard is not None else []).append))
    return stage


def pictures(count: int, height: int = 60, width: int = 100) -> np.ndarray:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 255, (count, height // 10, width // 10, 3), np.uint8)
    return np.ascontiguousarray(small.repeat(10, axis=1).repeat(10, axis=2)[:, :height, :width])


def prompts_for(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.uniform(1, 4, (24, 40)).astype(np.float32) for _ in range(count)]


@torch.no_grad()
def documented(folder: Path, picture: np.ndarray, prompt: np.ndarray | None = None) -> np.ndarray:
    """What the pages of the networks say, for one picture of PIL."""
    image = Image.fromarray(picture)
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    model = hf.AutoModelForDepthEstimation.from_pretrained(folder)
    more = {} if prompt is None else {"prompt_depth": prompt * 1000}  # millimeters
    inputs = processor(images=image, return_tensors="pt", **more)
    outputs = model(**inputs)
    size = [(image.height, image.width)]
    kind = "source_sizes" if model.config.model_type == "zoedepth" else "target_sizes"
    made = processor.post_process_depth_estimation(outputs, **{kind: size})
    return made[0]["predicted_depth"].numpy()


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert wanted.std() > 1e-3 * np.abs(wanted).max(), "it says nothing: the test shows nothing"
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= SAME * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_it_equals_the_documented_use(checkpoints: Path, name: str, batch: int) -> None:
    stage = opened(checkpoints / name, batch=batch, threads=2)
    images = pictures(3)
    prompts = prompts_for(3) if "prompt" in name else None
    found = list(stage._predictor.maps(images, prompts))
    for k in range(3):
        wanted = documented(checkpoints / name, images[k], None if prompts is None else prompts[k])
        assert_same(found[k], wanted)


def test_zoedepth_averages_with_the_mirrored_picture_as_documented(checkpoints: Path) -> None:
    folder, picture = checkpoints / "zoedepth", pictures(1)[0]
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    model = hf.AutoModelForDepthEstimation.from_pretrained(folder)
    image = Image.fromarray(picture)
    pixels = processor(images=image, return_tensors="pt").pixel_values
    with torch.no_grad():
        outputs, flipped = model(pixels), model(pixel_values=torch.flip(pixels, dims=[3]))
    wanted = processor.post_process_depth_estimation(
        outputs, source_sizes=[(60, 100)], outputs_flipped=flipped
    )[0]["predicted_depth"].numpy()
    found = next(opened(folder, mirror=True)._predictor.maps(picture[None]))
    assert_same(found, wanted)
    assert not np.allclose(found, documented(folder, picture), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("depth_anything", "inverse"),
        ("depth_anything_metric", "scale"),
        ("dpt", "inverse"),
        ("dpt_of_dinov2", "scale"),
        ("zoedepth", "scale"),
        ("depth_pro", "scale"),
        ("prompt_depth_anything", "scale"),
        ("glpn", "scale"),
    ],
)
def test_what_a_network_predicts_is_in_its_configuration(
    checkpoints: Path, name: str, kind: str
) -> None:
    assert opened(checkpoints / name)._kind == kind


def test_what_a_network_predicts_may_be_said(checkpoints: Path) -> None:
    assert opened(checkpoints / "dpt", predicts="metric")._kind == "scale"
    assert opened(checkpoints / "glpn", predicts="inverse")._kind == "inverse"
    assert opened(checkpoints / "glpn", shift=True)._kind == "affine"
    with pytest.raises(UsageError, match=r"depth.shift=on is for networks that predict depth"):
        opened(checkpoints / "dpt", shift=True)
    with pytest.raises(UsageError, match=r"depth.mirror=on is only for zoedepth, and .* is a dpt"):
        opened(checkpoints / "dpt", mirror=True)


def test_any_number_of_threads_says_the_same(checkpoints: Path, views: Views) -> None:
    made = [
        opened(checkpoints / "depth_anything", threads=n)._predictor.maps(views.images[:4])
        for n in (1, 2, 3)
    ]
    one, *others = (np.stack(list(maps)) for maps in made)
    assert all(np.array_equal(one, other) for other in others)


def test_when_memory_runs_out_the_batch_is_halved(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    stage = opened(checkpoints / "glpn", heard, batch=4)
    images = pictures(5)
    wanted = list(stage._predictor.maps(images))
    network = stage._predictor._network
    called = network.forward

    def short(pixel_values: Any) -> Any:
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return called(pixel_values)

    monkeypatch.setattr(network, "forward", short)
    for found, want in zip(stage._predictor.maps(images), wanted, strict=True):
        assert_same(found, want)
    told = [event.text.split("from here on ")[1] for event in heard if isinstance(event, Warn)]
    assert told == ["2 images at a time", "1 images at a time"]

    def never(pixel_values: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(network, "forward", never)
    with pytest.raises(UsageError, match=r"does not hold one of the images; use a smaller"):
        list(stage._predictor.maps(images))


# The scene


def disturbed(truth: Truth, views: Views, seed: int = 5) -> np.ndarray:
    """A network's inverse depth: the truth with an affine map of its own, waves, and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = views.images.shape[1:3]
    v, u = np.mgrid[:rows, :columns] / columns
    said = []
    for n, frame in enumerate(views.index):
        wave = 1 + 0.03 * np.sin(6 * u + n) * np.cos(5 * v + n)
        near = wave / truth.depth(int(frame)) + rng.normal(0, 0.002, (rows, columns))
        said.append((near + 0.05) * 7 * (1 + 0.01 * rng.normal()))
    return np.stack(said).astype(np.float32)


def with_network(stage: Any, said: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def maps(images: Any, prompts: Any = None) -> Any:
        return iter(said)

    monkeypatch.setattr(stage._predictor, "maps", maps)


def abs_rel(found: np.ndarray, true: np.ndarray, where: np.ndarray) -> float:
    return float(np.mean(np.abs(found[where] / true[where] - 1)))


def geometry_of(views: Views) -> np.ndarray:
    stage = Multiview(MultiviewConfig())
    stage.open(Context(threads=2))
    return stage.process(views).depth


def test_geometry_is_kept_and_its_holes_are_filled(
    checkpoints: Path, views: Views, truck: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    stage = opened(checkpoints / "depth_anything", heard, threads=2)
    with_network(stage, disturbed(truck, views), monkeypatch)
    made: DepthMaps = stage.process(views)
    geometry = geometry_of(views)
    known = np.isfinite(geometry)
    true = np.stack([truck.depth(int(i)) for i in views.index])
    assert 0.5 < known.mean() < 0.95, "no holes: the test shows nothing"
    assert np.array_equal(made.depth[known], geometry[known])
    assert np.isfinite(made.depth).mean() > 0.99
    hole = ~known & np.isfinite(made.depth)
    assert abs_rel(made.depth, true, hole) < 0.025
    figures = {e.name: e.value for e in heard if isinstance(e, Metric)}
    assert figures["multiview_depth_known_share"] == pytest.approx(known.mean())
    assert figures["depth_filled_share"] == pytest.approx(hole.mean())
    assert figures["depth_known_share"] == pytest.approx(np.isfinite(made.depth).mean())
    assert 0.002 < figures["alignment_residual_share"] < 0.04
    steps = [e.done / e.total for e in heard if isinstance(e, Progress)]
    assert steps == sorted(steps)
    assert steps[-1] == 1
    assert not [e for e in heard if isinstance(e, Warn)]


def step_at_rims(depth: np.ndarray, true: np.ndarray, known: np.ndarray) -> float:
    """Median step across the rims of holes, of the ratio to the truth."""
    ratio = np.log(depth / true)
    found = []
    for axis in (1, 2):
        rim = np.diff(known.astype(int), axis=axis) != 0
        found.append(np.abs(np.diff(ratio, axis=axis))[rim])
    steps = np.concatenate(found)
    return float(np.median(steps[np.isfinite(steps)]))


def test_no_step_is_seen_where_measured_and_predicted_meet(truck: Truth) -> None:
    true = np.stack([truck.depth(i) for i in (0, 20)])
    rows, columns = true.shape[1:]
    v, u = np.mgrid[:rows, :columns]
    hole = (np.hypot(u - 90, v - 80) < 35) | (u > columns - 40) | (v % 60 < 6)
    measured = np.where(hole, np.nan, true).astype(np.float32)
    predicted = (true * (1.04 + 0.05 * np.sin(u / 60))).astype(np.float32)
    plain = np.where(hole, predicted, measured)
    blended = np.stack([filled(m, p) for m, p in zip(measured, predicted, strict=True)])
    known = np.isfinite(measured)
    assert np.array_equal(blended[known], measured[known])
    assert step_at_rims(plain, true, known) > 0.03
    assert step_at_rims(blended, true, known) < 0.004
    assert abs_rel(blended, true, ~known) < 0.4 * abs_rel(plain, true, ~known)


def test_a_rim_at_which_the_two_disagree_holds_nothing() -> None:
    """Measured depth of a thing that the network does not see, beside a hole on the wall."""
    predicted = np.full((60, 80), 3.0, np.float32)
    measured = np.full((60, 80), 3.06, np.float32)
    measured[20:40, 20:40] = 1.0
    measured[:, 40:50] = np.nan
    found = filled(measured, predicted)
    assert np.allclose(found[:, 40:50], 3.06, rtol=0.01)


def test_what_neither_knows_stays_unknown() -> None:
    measured = np.full((20, 30), np.nan, np.float32)
    predicted = np.full((20, 30), 2.0, np.float32)
    predicted[5:9, 5:9] = np.nan
    assert np.array_equal(filled(measured, predicted), predicted, equal_nan=True)
    measured[:, 15:] = 2.2
    found = filled(measured, predicted)
    assert np.isnan(found[5:9, 5:9]).all()
    assert np.isfinite(np.delete(found, range(5, 9), axis=1)).all()


def test_a_membrane_solves_laplace() -> None:
    """Held at two sides it is a plane between them; with a pull it fades."""
    known = np.zeros((40, 64), np.bool_)
    known[:, [0, -1]] = True
    value = np.zeros((40, 64), np.float32)
    value[:, -1] = 1
    plane = extended(value, known, np.inf)
    assert np.abs(plane - np.linspace(0, 1, 64)).max() < 0.02
    known[:, 0] = False
    fading = extended(value, known, 10.0)
    assert fading[20, 53] == pytest.approx(np.exp(-1), abs=0.05)
    assert abs(fading[20, 0]) < 0.02


def test_the_network_alone(
    checkpoints: Path, views: Views, truck: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = opened(checkpoints / "depth_anything", fuse="none")
    with_network(stage, disturbed(truck, views), monkeypatch)
    made = stage.process(views).depth
    true = np.stack([truck.depth(int(i)) for i in views.index])
    assert abs_rel(made, true, np.isfinite(made)) < 0.025
    assert np.isfinite(made).mean() > 0.99


def test_one_view_has_no_geometry_but_depth(
    checkpoints: Path, views: Views, truck: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = views.observed_view == 0
    single = dataclasses.replace(
        views,
        **{
            name: getattr(views, name)[:1]
            for name in ("images", "pts_ns", "index", "intrinsics", "T_world_camera")
        },
        observed_point=views.observed_point[first],
        observed_view=views.observed_view[first],
        observed_xy=views.observed_xy[first],
    )
    heard: list[Any] = []
    stage = opened(checkpoints / "depth_anything", heard)
    with_network(stage, disturbed(truck, single), monkeypatch)
    made = stage.process(single).depth
    assert abs_rel(made, truck.depth(0)[None], np.isfinite(made)) < 0.025
    assert [e.text for e in heard if isinstance(e, Warn)] == [
        "depth comes from the network alone, because multiview failed: depth needs at least 2 "
        "posed views, got 1; sample more frames or move the camera more slowly"
    ]


def test_without_sparse_points_geometry_gives_the_scale(
    checkpoints: Path, truck: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = posed_views(truck, range(0, 24, 3), points=False)
    stage = opened(checkpoints / "depth_anything", threads=2)
    with_network(stage, disturbed(truck, views), monkeypatch)
    made = stage.process(views).depth
    true = np.stack([truck.depth(int(i)) for i in views.index])
    assert abs_rel(made, true, np.isfinite(made)) < 0.04
    alone_it = opened(checkpoints / "depth_anything", fuse="none")
    with_network(alone_it, disturbed(truck, views), monkeypatch)
    with pytest.raises(PartNotMade, match="takes its scale from at least 8 sparse points"):
        alone_it.process(views)


def test_a_prompted_network_sees_the_measured_depth(
    checkpoints: Path, views: Views, truck: Truth
) -> None:
    stage = opened(checkpoints / "prompt_depth_anything", fuse="none")
    seen: list[Any] = []
    maps = stage._predictor.maps
    stage._predictor.maps = lambda images, prompts: seen.extend(prompts) or maps(images, prompts)
    stage.process(views)
    for k, prompt in enumerate(seen):
        true = truck.depth(int(views.index[k]))
        step = true.shape[1] / prompt.shape[1]
        rows = (np.arange(prompt.shape[0]) * step + step / 2).astype(int)
        columns = (np.arange(prompt.shape[1]) * step + step / 2).astype(int)
        near = np.abs(prompt / true[np.ix_(rows, columns)] - 1)
        assert prompt.dtype == np.float32
        assert np.isfinite(prompt).all()
        assert np.median(near) < 0.15


def test_a_prompt_keeps_what_is_measured() -> None:
    anchors = Anchors(np.array([[10.0, 10.0], [90.0, 50.0]]), np.array([2.0, 4.0]))
    prompt = prompt_of(anchors, (60, 100), None)
    assert prompt[10, 10] == pytest.approx(2, rel=1e-4)
    assert prompt[50, 90] == pytest.approx(4, rel=1e-4)
    assert prompt.min() >= 2 - 1e-3
    assert prompt.max() <= 4 + 1e-3
    geometry = np.full((60, 100), np.nan, np.float32)
    geometry[:, :50] = 3
    both = prompt_of(anchors, (60, 100), geometry)
    assert np.allclose(both[:, :50], 3, rtol=1e-4)
    assert both[50, 90] == pytest.approx(4, rel=1e-4)
    large = prompt_of(Anchors(anchors.xy * 10, anchors.z), (600, 1000), None)
    assert large.shape == (154, 256)


# Bad input


def test_predictions_that_are_no_numbers_are_unknown(
    checkpoints: Path, views: Views, truck: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    stage = opened(checkpoints / "depth_anything", heard, fuse="none")
    said = disturbed(truck, views)
    said[1] = np.nan
    said[2, :40] = np.inf
    with_network(stage, said, monkeypatch)
    made = stage.process(views).depth
    assert np.isnan(made[1]).all()
    assert np.isnan(made[2, :40]).all()
    assert np.isfinite(made[[0, 3]]).mean() > 0.99
    warned = [e.text for e in heard if isinstance(e, Warn)]
    assert warned[0].endswith("infinity) in 2 of 6 views; their depth stays unknown there")
    assert warned[1].startswith("1 of 6 views have fewer than 8 points")
    said[:] = np.nan
    with pytest.raises(PartNotMade, match="the best of 6 views has 0 with a prediction"):
        stage.process(views)


def test_a_network_that_does_not_follow_the_points_is_told(
    checkpoints: Path, views: Views, truck: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    stage = opened(checkpoints / "depth_anything_metric", heard, fuse="none")
    said = np.stack([truck.depth(int(i)) for i in views.index])
    said *= np.random.default_rng(3).lognormal(0, 0.5, said.shape)
    with_network(stage, said.astype(np.float32), monkeypatch)
    stage.process(views)
    (warning,) = [e.text for e in heard if isinstance(e, Warn)]
    assert re.search(r"matches the sparse points only to within \d\d % \(median\)", warning)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_gray_and_tiny_pictures(checkpoints: Path, name: str) -> None:
    stage = opened(checkpoints / name)
    least = stage._family.least_side_px
    for size in ((least, least), (least, 4 * least), (3 * least, least)):
        gray = np.full((1, *size, 3), 90, np.uint8)
        (found,) = stage._predictor.maps(gray, prompts_for(1) if "prompt" in name else None)
        assert found.shape == size
        assert np.isfinite(found).all()


def test_too_small_pictures_are_refused(checkpoints: Path, views: Views) -> None:
    for name, least in (("depth_anything", 16), ("glpn", 32)):
        small = dataclasses.replace(views, images=views.images[:, : least - 1, :40].copy())
        with pytest.raises(PartNotMade) as refused:
            opened(checkpoints / name, fuse="none").process(small)
        assert str(refused.value) == (
            f"depth needs images of at least {least} px per side, got 40x{least - 1}"
        )


def test_a_picture_of_8k(checkpoints: Path) -> None:
    picture = np.zeros((1, 4320, 7680, 3), np.uint8)
    picture[:, :, 4000:] = 200
    (found,) = opened(checkpoints / "depth_anything")._predictor.maps(picture)
    assert found.shape == (4320, 7680)
    assert np.isfinite(found).all()
    assert np.abs(found[:, 1000].mean() - found[:, 7000].mean()) > 0


def test_checkpoints_that_cannot_be_used_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def copied(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in (checkpoints / "glpn").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    other = copied("task")
    config = json.loads((other / "config.json").read_text())
    config["architectures"] = ["GLPNForImageClassification"]
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="was saved as GLPNForImageClassification, which is not"):
        opened(other)

    short = copied("truncated")
    content = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"cannot be read .* damaged or truncated"):
        opened(short)

    lacking = copied("lacking")
    tensors = load_file(lacking / "model.safetensors")
    first = next(iter(sorted(tensors)))
    tensors["more.weight"] = tensors.pop(first)
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=rf"{first} is missing; more\.weight is not part of it"):
        opened(lacking)

    code = copied("pickle")
    (code / "model.safetensors").unlink()
    (code / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Path("x")}))
    with pytest.raises(UsageError):
        opened(code)

    unprepared = copied("unprepared")
    (unprepared / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match="does not say how its input is prepared"):
        opened(unprepared)

    with pytest.raises(UsageError, match="no such folder"):
        Model(Config(checkpoint="nowhere")).resources  # noqa: B018


def test_a_network_of_which_nothing_is_known_is_refused(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.depth import _networks

    few = {k: v for k, v in _networks.NETWORKS.items() if k != "glpn"}
    monkeypatch.setattr(_networks, "NETWORKS", few)
    with pytest.raises(UsageError, match=r"is a glpn, which is not a supported .* allowed are"):
        opened(checkpoints / "glpn")


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_gpu_says_the_same(checkpoints: Path, name: str) -> None:
    images = pictures(3)
    prompts = prompts_for(3) if "prompt" in name else None
    stage = opened(checkpoints / name, device="cuda", batch=2)
    for k, found in enumerate(stage._predictor.maps(images, prompts)):
        wanted = documented(checkpoints / name, images[k], None if prompts is None else prompts[k])
        assert np.abs(found - wanted).max() <= 1e-3 * max(1.0, np.abs(wanted).max())
