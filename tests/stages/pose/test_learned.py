"""Learned front ends: equal to the documented use of their libraries, whatever is fed or broken."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import kornia.feature
import numpy as np
import pytest
import torch
import transformers

from pipeline.contract import Context, Keyframes, Warn
from pipeline.errors import UsageError
from stages.pose._features import Features
from stages.pose._front_end import FrontEnd, PairMatches
from stages.pose._image_transform import ImageTransform, reduced_size
from stages.pose.learned import Config, Model
from tests.stages.pose.test_pose import keyframes
from tests.support import learned_features as nets

SAME = 1e-5
KORNIA = ("aliked", "disk", "xfeat")
MOST = 150


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return nets.room(3, 96, 128, step=8)


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """Kornia's LightGlue has two layers: as exact as nine, and sooner there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in KORNIA:
            patch.setitem(kornia.feature.LightGlue.features[name], "n_layers", 2)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of weights and checkpoints of every network."""
    folder = tmp_path_factory.mktemp("weights")
    for name in KORNIA:
        nets.saved(nets.detector(name), folder / f"{name}.safetensors")
        nets.saved(nets.glue(name), folder / f"{name}-glue.safetensors")
    nets.superpoint(folder / "superpoint")
    nets.superglue(folder / "lightglue")
    nets.loftr(folder / "loftr", nets.room(2, 96, 128, step=8))
    return folder


def options(files: Path, features: str, matcher: str) -> dict[str, Any]:
    if matcher == "efficient_loftr":
        return {"matcher": matcher, "checkpoint": str(files / "loftr")}
    chosen: dict[str, Any] = {"features": features, "matcher": matcher}
    if features == "superpoint":
        name = "lightglue" if matcher == "lightglue" else "superpoint"
        return {**chosen, "checkpoint": str(files / name)}
    chosen["weights"] = str(files / f"{features}.safetensors")
    if matcher == "lightglue":
        chosen["matcher_weights"] = str(files / f"{features}-glue.safetensors")
    return chosen


def opened(report: Any = None, threads: int = 1, **chosen: Any) -> Model:
    stage = Model(Config(**chosen))
    stage.open(Context(threads=threads, **({"report": report} if report else {})))
    return stage


def described(front_end: FrontEnd, what: Keyframes, most: int = MOST) -> list[Features]:
    return front_end.describe(what, most, lambda i: None)


def matched(
    front_end: FrontEnd, what: Keyframes, pairs: list[tuple[int, int]], most: int = MOST
) -> tuple[list[Features], list[PairMatches]]:
    features, found = front_end.match(what, described(front_end, what, most), pairs)
    return features, list(found)


def rgb(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def published(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has kornia read our files where it would fetch its own."""
    from safetensors.torch import load_file

    def fetch(url: Any, **_: Any) -> Any:
        name = str(url[0] if isinstance(url, list) else url)
        if "depth-save" in name:
            return {"extractor": load_file(files / "disk.safetensors")}
        kind = next(kind for kind in KORNIA if kind in name.rpartition("/")[2])
        glue = "-glue" if "gl" in name.rpartition("/")[2] else ""
        return load_file(files / f"{kind}{glue}.safetensors")

    for module in ("aliked.aliked", "disk.disk", "xfeat", "lightglue"):
        loaded = import_module(f"kornia.feature.{module}")
        monkeypatch.setattr(loaded, "load_state_dict_from_url", fetch)


@torch.inference_mode()
def documented(name: str, images: np.ndarray, most: int) -> list[tuple[Any, Any, Any]]:
    """Keypoints, descriptors and scores as kornia's pages find them, picture by picture."""
    found = []
    for image in rgb(images).split(1):
        if name == "disk":
            (f,) = kornia.feature.DISK.from_pretrained("depth")(
                image, most, window_size=5, score_threshold=0.0, pad_if_not_divisible=True
            )
            found.append((f.keypoints, f.descriptors, f.detection_scores))
        elif name == "aliked":
            network = kornia.feature.ALIKED.from_pretrained("aliked-n16", max_num_keypoints=most)
            (f,) = network(image)
            found.append((f.keypoints, f.descriptors, f.keypoint_scores))
        else:
            (told,) = kornia.feature.XFeat.from_pretrained(top_k=most).detectAndCompute(image)
            found.append((told["keypoints"], told["descriptors"], told["scores"]))
    return found


@pytest.mark.parametrize("size", [(96, 128), (90, 121)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", KORNIA)
@pytest.mark.usefixtures("published")
def test_kornias_features_are_those_of_its_pages(
    files: Path, name: str, size: tuple[int, int], batch: int
) -> None:
    images = nets.room(3, *size, step=8)
    stage = opened(**options(files, name, "nearest"), batch=batch)
    found = described(stage.front_end, keyframes(images), 60)
    center = stage.front_end._detector.image_transform(size[::-1]).center
    for ours, (xy, descriptors, scores) in zip(found, documented(name, images, 60), strict=True):
        order = torch.argsort(scores, descending=True, stable=True)
        assert len(ours) == len(order) > 30
        assert np.abs(ours.xy - center - xy[order].numpy()).max() <= SAME * max(size)
        assert np.abs(ours.descriptors - descriptors[order].numpy()).max() <= SAME


@pytest.mark.parametrize("name", KORNIA)
@pytest.mark.usefixtures("published")
def test_kornias_lightglue_is_that_of_its_pages(files: Path, name: str, images: np.ndarray) -> None:
    stage = opened(**options(files, name, "lightglue"), threads=2)
    features, found = matched(stage.front_end, keyframes(images), [(0, 1), (1, 2), (0, 2)])
    whole = documented(name, images, MOST)
    size = torch.tensor([[128, 96]])
    for one in found:
        (a, da, _), (b, db, _) = whole[one.i], whole[one.j]
        if name == "xfeat":
            with torch.inference_mode():
                told = kornia.feature.LightGlue(name)(
                    {
                        "image0": {
                            "keypoints": a[None],
                            "descriptors": da[None],
                            "image_size": size,
                        },
                        "image1": {
                            "keypoints": b[None],
                            "descriptors": db[None],
                            "image_size": size,
                        },
                    }
                )
            rows = told["matches"][0]
        else:
            lafs = [
                kornia.feature.laf_from_center_scale_ori(xy[None], torch.ones(1, len(xy), 1, 1))
                for xy in (a, b)
            ]
            with torch.inference_mode():
                matcher = kornia.feature.LightGlueMatcher(name)
                _, rows = matcher(da, db, *lafs, hw1=(96, 128), hw2=(96, 128))
        assert len(rows) > 4, "the network says nothing: the test shows nothing"
        assert_same_places(one, features, a[rows[:, 0]] + 0.5, b[rows[:, 1]] + 0.5)


def assert_same_places(one: PairMatches, features: list[Features], a: Any, b: Any) -> None:
    """The matches join the same places, in whatever order."""
    places = [features[one.i].xy[one.matches[:, 0]], features[one.j].xy[one.matches[:, 1]]]
    ours = np.concatenate(places, axis=1)
    wanted = np.concatenate([np.asarray(a), np.asarray(b)], axis=1)
    assert len(ours) == len(wanted)
    ours, wanted = (rows[np.lexsort(rows.round(2).T)] for rows in (ours, wanted))
    assert np.abs(ours - wanted).max() <= SAME * max(1.0, np.abs(wanted).max())


@pytest.mark.usefixtures("published")
def test_nearest_neighbors_are_kornias(files: Path, images: np.ndarray) -> None:
    stage = opened(**options(files, "disk", "nearest"))
    features, (one,) = matched(stage.front_end, keyframes(images), [(0, 1)])
    (a, da, _), (b, db, _), _ = documented("disk", images, MOST)
    _, rows = kornia.feature.match_smnn(da, db)
    assert len(rows) > 20
    assert_same_places(one, features, a[rows[:, 0]] + 0.5, b[rows[:, 1]] + 0.5)


@torch.inference_mode()
def test_superpoint_is_that_of_transformers(files: Path, images: np.ndarray) -> None:
    large = nets.room(3, 192, 256, step=8)
    processor = transformers.AutoImageProcessor.from_pretrained(files / "superpoint")
    network = transformers.AutoModelForKeypointDetection.from_pretrained(files / "superpoint")
    stage = opened(**options(files, "superpoint", "nearest"), batch=2)
    found = described(stage.front_end, keyframes(large), 10_000)
    for ours, image in zip(found, large, strict=True):
        told = network(**processor(image, return_tensors="pt"))
        (wanted,) = processor.post_process_keypoint_detection(told, [image.shape[:2]])
        order = torch.argsort(wanted["scores"], descending=True, stable=True)
        assert len(ours) == len(order) > 50
        assert np.abs(ours.descriptors - wanted["descriptors"][order].numpy()).max() <= SAME
        # Pixel i of 128 x 96 has its center at 2 (i + 0.5) in 256 x 192.
        exact = told.keypoints[0, order].numpy() * (256, 192) + 1
        assert np.abs(ours.xy - exact).max() <= SAME * 256
        # Its post-processing cuts the decimals off.
        cut = (told.keypoints * torch.tensor([256, 192])).to(torch.int32)[0, order]
        assert torch.equal(wanted["keypoints"][order], cut)
        assert np.abs(ours.xy - 1 - wanted["keypoints"][order].numpy()).max() < 1 + 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 3])
def test_superpoint_with_lightglue_is_that_of_transformers(
    files: Path, images: np.ndarray, threads: int
) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(files / "lightglue")
    network = transformers.AutoModelForKeypointMatching.from_pretrained(files / "lightglue")
    stage = opened(**options(files, "superpoint", "lightglue"), threads=threads, batch=2)
    features, found = matched(stage.front_end, keyframes(images), [(0, 1), (1, 2), (0, 2)], 5000)
    for one in found:
        told = network(**processor([images[one.i], images[one.j]], return_tensors="pt"))
        (wanted,) = processor.post_process_keypoint_matching(told, [[(96, 128), (96, 128)]])
        assert len(wanted["keypoints0"]) > 4, "the network says nothing: the test shows nothing"
        rows = torch.nonzero(told.matches[0, 0] > -1)[:, 0]
        size = torch.tensor([128, 96])
        a = told.keypoints[0, 0][rows] * size + 0.5
        b = told.keypoints[0, 1][told.matches[0, 0][rows].long()] * size + 0.5
        assert len(rows) == len(wanted["keypoints0"])
        assert_same_places(one, features, a, b)


def bent(image: np.ndarray, down: int) -> np.ndarray:
    """The left half moves down: cells no longer follow one another as they did."""
    moved = image.copy()
    half = image.shape[1] // 2
    moved[down:, :half] = image[: len(image) - down, :half]
    return moved


@torch.inference_mode()
def test_efficient_loftr_is_that_of_transformers_where_nothing_moved(
    files: Path, images: np.ndarray
) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(files / "loftr")
    network = transformers.AutoModelForKeypointMatching.from_pretrained(files / "loftr")
    matcher = opened(**options(files, "", "efficient_loftr")).front_end._matcher
    a, b = matcher.extract(images[:1])[0], matcher.extract(images[:1])[0]
    ours_a, ours_b, score = matcher.pair(a, b, matcher.image_transform((128, 96)))
    told = network(**processor([images[0], images[0]], return_tensors="pt"))
    assert torch.equal(told.matches[0, 0], told.matches[0, 1])
    rows = torch.nonzero(told.matches[0, 0] > -1)[:, 0]
    assert len(rows) > 20
    xy = told.keypoints[0][:, rows] * torch.tensor([128, 96]) + 0.5
    for found, wanted in (
        (ours_a, xy[0]),
        (ours_b, xy[1]),
        (score, told.matching_scores[0, 0][rows]),
    ):
        assert np.abs(found - wanted.numpy()).max() <= SAME * 128


@torch.inference_mode()
def test_efficient_loftr_pairs_the_same_cells_where_something_moved(files: Path) -> None:
    image = nets.room(1, 96, 128)[0]
    other = bent(image, 16)
    processor = transformers.AutoImageProcessor.from_pretrained(files / "loftr")
    network = transformers.AutoModelForKeypointMatching.from_pretrained(files / "loftr")
    told = network(**processor([image, other], return_tensors="pt"))
    # Which cell belongs to which, it says twice over, and rightly.
    there = told.matches[0, 1]
    back = told.matches[0, 0]
    cells = torch.nonzero(there > -1)[:, 0]
    assert torch.equal(back[there[cells]], cells)
    matcher = opened(**options(files, "", "efficient_loftr")).front_end._matcher
    seen = matcher.extract(np.stack([image, other]))
    a, b, _ = matcher.pair(*seen, matcher.image_transform((128, 96)))
    assert len(a) == len(cells) > 20
    # Cell by cell of 8 px, the refinement stays within its cell.
    center = torch.stack([cells % 16, cells // 16], 1).numpy() * 8 + 0.5
    other_center = torch.stack([there[cells] % 16, there[cells] // 16], 1).numpy() * 8 + 0.5
    assert np.abs(a - center).max() <= 4.5
    assert np.abs(b - other_center).max() <= 5.5
    moved = b - a
    left = (a[:, 0] < 48) & (b[:, 0] < 48)
    assert np.abs(np.median(moved[left], axis=0) - [0, 16]).max() <= 1
    # Its own lists join what does not belong together.
    (listed,) = processor.post_process_keypoint_matching(told, [[(96, 128), (96, 128)]])
    theirs = (listed["keypoints1"] - listed["keypoints0"]).numpy()
    good = [
        np.mean(np.abs(m - [0, 16]).max(1) < 3) + np.mean(np.abs(m).max(1) < 3)
        for m in (moved, theirs)
    ]
    assert good[0] > good[1] + 0.1


def test_pixel_centers_lie_at_a_half(files: Path) -> None:
    """A network that is its own mirror image finds in the mirror what it finds in the picture."""
    state = {
        name: (t + t.flip(-1)) / 2 if t.ndim == 4 else t
        for name, t in nets.detector("disk").items()
    }
    path = nets.saved(state, files / "mirror.safetensors")
    image = nets.room(1, 96, 128)
    mirrored = np.ascontiguousarray(image[:, :, ::-1])
    front_end = opened(features="disk", matcher="nearest", weights=path).front_end
    here, there = described(front_end, keyframes(np.concatenate([image, mirrored])), 5000)
    places = np.sort(here.xy.round(2).view("f4,f4"), axis=0)
    back = np.stack([128 - there.xy[:, 0], there.xy[:, 1]], 1).round(2).view("f4,f4")
    shared = np.intersect1d(places, back)
    assert len(shared) >= 0.95 * len(here) > 30


@pytest.mark.parametrize("center", [(0.5, 0.5), (0.51, 0.6)])
def test_a_grid_goes_there_and_back(center: tuple[float, float]) -> None:
    grid = ImageTransform(size=(640, 360), full=(1920, 1088), center=center)
    xy = np.random.default_rng(0).uniform(0, 360, (50, 2)).astype(np.float32)
    assert np.abs(grid.to_network(grid.to_image(xy)) - xy).max() < 1e-3
    whole = ImageTransform(size=(640, 360), full=(1920, 1080))
    np.testing.assert_allclose(whole.to_image(np.zeros((1, 2), np.float32)), [[1.5, 1.5]])


@pytest.mark.parametrize("name", [*KORNIA, "superpoint"])
def test_any_number_of_threads_says_the_same(files: Path, name: str, images: np.ndarray) -> None:
    made = []
    for threads in (1, 3):
        stage = opened(**options(files, name, "lightglue"), threads=threads)
        made.append(matched(stage.front_end, keyframes(images), [(0, 1), (1, 2)]))
    for a, b in zip(made[0][0], made[1][0], strict=True):
        assert np.array_equal(a.xy, b.xy)
        assert np.array_equal(a.descriptors, b.descriptors)
    for a, b in zip(made[0][1], made[1][1], strict=True):
        assert np.array_equal(a.matches, b.matches)


ALL = [*((name, "lightglue") for name in (*KORNIA, "superpoint")), ("", "efficient_loftr")]


@pytest.mark.parametrize(("features", "matcher"), ALL)
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (40, 64), (33, 200)])
def test_gray_and_tiny_pictures_of_any_size(
    files: Path, features: str, matcher: str, size: tuple[int, int]
) -> None:
    what = keyframes(np.full((3, *size, 3), 90, np.uint8))
    stage = opened(**options(files, features, matcher))
    found, _ = matched(stage.front_end, what, [(0, 1), (1, 2)])
    for some in found:
        assert np.isfinite(some.xy).all()
        assert np.isfinite(some.descriptors).all()
        assert len(some) == 0 or min(size) >= 32


def test_large_pictures_are_looked_at_smaller(files: Path) -> None:
    assert reduced_size((7680, 4320), 1024) == (1024, 576)
    assert reduced_size((7680, 4320), 640, 32) == (640, 352)
    small = nets.room(1, 54, 96, step=0)
    large = small.repeat(80, axis=1).repeat(80, axis=2)
    stage = opened(**options(files, "disk", "nearest"), working_side=96)
    (few,) = described(stage.front_end, keyframes(small))
    (many,) = described(stage.front_end, keyframes(large))
    assert len(few) == len(many) > 10
    np.testing.assert_allclose(many.xy, few.xy * 80, rtol=1e-5)


def test_when_memory_runs_out_the_batch_is_halved(
    files: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    stage = opened(heard.append, **options(files, "disk", "lightglue"), batch=4)
    front_end: Any = stage.front_end
    wanted = described(front_end, keyframes(images))
    look = front_end._detector.extract

    def short(some: np.ndarray, most: int) -> Any:
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return look(some, most)

    monkeypatch.setattr(front_end._detector, "extract", short)
    for a, b in zip(described(front_end, keyframes(images)), wanted, strict=True):
        np.testing.assert_allclose(a.xy, b.xy, atol=1e-3)
    warnings = [event.text for event in heard if isinstance(event, Warn)]
    assert [text.split("from here on ")[1] for text in warnings] == [
        "2 images at a time",
        "1 images at a time",
    ]

    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(front_end._matcher, "pair", never)
    with pytest.raises(UsageError, match=r"does not hold one of the pairs; lower pose\.keypoints"):
        matched(front_end, keyframes(images), [(0, 1)])


def test_scores_that_are_no_numbers_are_told(
    files: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    for features, matcher in ALL:
        stage = opened(heard.append, **options(files, features, matcher))
        front_end: Any = stage.front_end
        if matcher == "lightglue" and features != "superpoint":
            last = front_end._matcher._network.log_assignment
            for assignment in last:
                assignment.final_proj.bias.fill_(float("nan"))
        elif matcher == "lightglue":
            for assignment in front_end._matcher.prepared.network.match_assignment_layers:
                assignment.final_projection.bias.fill_(float("nan"))
        else:
            for conv in front_end._matcher._backbone.modules():
                if isinstance(conv, torch.nn.Conv2d) and conv.bias is not None:
                    conv.bias.fill_(float("nan"))
        heard.clear()
        _, found = matched(front_end, keyframes(images), [(0, 1)])
        assert all(len(one.matches) == 0 for one in found)
        assert [event.text for event in heard if isinstance(event, Warn)] == [
            "1 of 1 pairs have no matches: the network's scores are non-finite (NaN)"
        ]
    stage = opened(heard.append, **options(files, "disk", "nearest"))
    network: Any = stage.front_end._detector._network
    dense = network.heatmap_and_dense_descriptors

    def spoilt(pixels: Any) -> Any:
        heat, descriptors = dense(pixels)
        descriptors[:, :, :, :64] = float("nan")
        return heat, descriptors

    monkeypatch.setattr(network, "heatmap_and_dense_descriptors", spoilt)
    heard.clear()
    found = described(stage.front_end, keyframes(images))
    assert all(0 < len(some) < MOST and np.isfinite(some.descriptors).all() for some in found)
    assert "learned keypoints dropped: non-finite (NaN or infinity)" in heard[-1].text


def test_files_of_torch_are_read_and_pickles_are_not(files: Path, tmp_path: Path) -> None:
    import pickle

    side_by_side = tmp_path / "depth-save.pth"
    torch.save({"extractor": nets.detector("disk"), "discriminator": {}}, side_by_side)
    opened(features="disk", matcher="nearest", weights=str(side_by_side))
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"extractor": print}))
    with pytest.raises(UsageError, match=r"is a pickle that holds more than tensors"):
        opened(features="disk", matcher="nearest", weights=str(evil))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((files / "disk.safetensors").read_bytes()[:5000])
    with pytest.raises(UsageError, match="may be truncated"):
        opened(features="disk", matcher="nearest", weights=str(cut))


def test_what_does_not_fit_is_said(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no weights of aliked \(kornia\): .* more are missing"):
        opened(features="aliked", matcher="nearest", weights=str(files / "disk.safetensors"))
    state = nets.detector("disk")
    first = next(iter(state))
    lacking = {**{k: v for k, v in state.items() if k != first}, "more": torch.zeros(1)}
    path = nets.saved(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(UsageError, match=f"{first} is missing; more is not part of it"):
        opened(features="disk", matcher="nearest", weights=path)
    spoilt = {k: v.clone() for k, v in state.items()}
    spoilt[first].view(-1)[0] = float("nan")
    path = nets.saved(spoilt, tmp_path / "spoilt.safetensors")
    with pytest.raises(UsageError, match=f"not finite \\({first} is spoilt\\)"):
        opened(features="disk", matcher="nearest", weights=path)
    with pytest.raises(UsageError, match="no weights of LightGlue for aliked"):
        opened(
            features="aliked",
            weights=str(files / "aliked.safetensors"),
            matcher_weights=str(files / "xfeat-glue.safetensors"),
        )


@pytest.mark.parametrize(
    ("features", "matcher", "folder", "says"),
    [
        ("superpoint", "nearest", "loftr", "efficientloftr, which is not for keypoint detection"),
        ("superpoint", "lightglue", "superpoint", "superpoint, which is not for keypoint matching"),
        ("superpoint", "lightglue", "loftr", "pose.matcher=lightglue needs lightglue"),
        ("aliked", "efficient_loftr", "lightglue", "efficient_loftr needs efficientloftr"),
    ],
)
def test_a_checkpoint_for_another_task_is_refused(
    files: Path, features: str, matcher: str, folder: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        opened(features=features, matcher=matcher, checkpoint=str(files / folder))


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"checkpoint": "a/b"}, "checkpoint has no effect with features=aliked"),
        ({"features": "superpoint", "weights": "a.pth"}, "weights has no effect with"),
        ({"matcher": "nearest", "matcher_weights": "a.pth"}, "matcher_weights has no effect with"),
    ],
)
def test_weights_that_nothing_reads_are_refused(chosen: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Config(**chosen)


def test_the_addresses_are_kornias_own() -> None:
    from kornia.feature.aliked import aliked
    from kornia.feature.disk import disk

    from stages.pose._known_weights import DETECTORS, GLUES

    assert DETECTORS["aliked"].url == aliked._CHECKPOINT_URLS[0].format("aliked-n16")
    assert DETECTORS["disk"].url == disk.urls["depth"][0]
    assert DETECTORS["xfeat"].url == kornia.feature.XFeat.weights_url
    asked: list[tuple[str, str]] = []

    def listen(url: Any, file_name: str) -> Any:
        asked.append((url[0], file_name))
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("kornia.feature.lightglue"), "load_state_dict_from_url", listen)
        for name in GLUES:
            kornia.feature.LightGlue(name)
    assert asked == [(file.url, file.file) for file in GLUES.values()]


def test_superpoint_asks_for_its_license(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipeline.weights import accept
    from pipeline.weights.licenses import check, is_free

    monkeypatch.setenv("REEL3D_CONFIG", str(tmp_path))
    stages = [Model(Config(features="superpoint", matcher=m)) for m in ("lightglue", "nearest")]
    for stage in stages:
        with pytest.raises(UsageError, match="--accept-license superpoint-noncommercial"):
            check(stage.weights[0], "pose/learned")
    accept("superpoint-noncommercial")
    for stage in stages:
        check(stage.weights[0], "pose/learned")
    free = (Model(Config()), Model(Config(matcher="efficient_loftr")))
    assert all(is_free(weights.license) for stage in free for weights in stage.weights)
