"""RAFT: equal to torchvision's documented use of it, whatever is batched, padded or tiled."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import optical_flow

from pipeline.contract import Context, Motion, Warn
from pipeline.errors import UsageError
from stages.flow import raft
from stages.flow._consistency import confidence
from stages.flow._tiles import blended, tiles
from stages.flow.raft import Config, Model, torchvision_weights
from tests.support.motions import clip_of, opened, texture

SAME_PX = 1e-5
"""Relative to the largest flow: torch's sums differ in their order between batch sizes."""


@pytest.fixture(scope="module", params=["small", "large"])
def network(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A network of random weights."""
    torch.manual_seed(3)
    build = optical_flow.raft_small if request.param == "small" else optical_flow.raft_large
    return request.param, build(weights=None).eval()


@pytest.fixture(scope="module")
def checkpoint(network: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "raft.safetensors"
    save_file(network[1].state_dict(), path)
    return path


def film(count: int, height: int, width: int) -> np.ndarray:
    """A texture that moves by a few pixels."""
    wall = np.repeat(texture(height + 16, width + 32)[..., :1], 3, axis=2)
    return np.stack([wall[t : t + height, 2 * t : 2 * t + width] for t in range(count)])


@torch.inference_mode()
def documented(model: Any, first: np.ndarray, second: np.ndarray, iterations: int) -> Any:
    """What torchvision's own page does for one pair, after padding to what it takes."""
    height, width = first.shape[:2]
    more = [max(128, -(-side // 8) * 8) - side for side in (height, width)]
    pair = [
        torch.from_numpy(np.pad(image, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge"))
        .permute(2, 0, 1)
        .unsqueeze(0)
        for image in (first, second)
    ]
    transforms = optical_flow.Raft_Large_Weights.DEFAULT.transforms()
    flow = model(*transforms(*pair), num_flow_updates=iterations)[-1]
    return flow[0].permute(1, 2, 0).numpy()[:height, :width]


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(wanted).max() > 0.1, "the network says nothing: the test shows nothing"
    assert np.abs(found - wanted).max() <= SAME_PX * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("size", [(128, 136), (131, 150), (90, 200)])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_equals_the_documented_use(
    network: tuple[str, Any],
    checkpoint: Path,
    size: tuple[int, int],
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both flows to rounding, and the confidence that follows from these very flows exactly.

    The confidence of the documented flows is no yardstick: it looks the way back up in steps of
    1/32 px, so that the last bit of a flow decides between two steps, and it falls to 0 where a
    pixel leaves the image.
    """
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def noted(there: np.ndarray, back: np.ndarray) -> np.ndarray:
        seen.append((there, back))
        return confidence(there, back)

    monkeypatch.setattr(raft, "confidence", noted)
    name, model = network
    images = film(3, *size)
    stage = opened("flow", "raft", size=name, weights=str(checkpoint), iterations=3, batch=batch)
    motion: Motion = stage.process(clip_of(images))
    assert len(seen) == 2
    for t, (there, back) in enumerate(seen):
        assert_same(there, documented(model, images[t], images[t + 1], 3))
        assert_same(back, documented(model, images[t + 1], images[t], 3))
        assert np.array_equal(motion.flow[t], there)
        assert np.array_equal(motion.confidence[t], confidence(there, back))


def test_any_number_of_threads_says_the_same(network: tuple[str, Any], checkpoint: Path) -> None:
    name, _ = network
    frames = clip_of(film(4, 136, 160))
    made = []
    for threads in (1, 2, 3):
        stage = Model(Config(size=name, weights=str(checkpoint), iterations=2))
        stage.open(Context(threads=threads))
        made.append(stage.process(frames).flow)
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_a_state_dict_of_torch_is_read_too(
    network: tuple[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    name, model = network
    path = tmp_path / "raft.pth"
    torch.save(model.state_dict(), path)
    frames = clip_of(film(2, 128, 128))
    both = [
        opened("flow", "raft", size=name, weights=str(file), iterations=1).process(frames).flow
        for file in (checkpoint, path)
    ]
    assert np.array_equal(*both)


def test_large_frames_are_tiled(network: tuple[str, Any], checkpoint: Path) -> None:
    name, model = network
    images = film(2, 144, 384)
    options = {"size": name, "weights": str(checkpoint), "iterations": 2}
    motion = opened("flow", "raft", **options, tile=256).process(clip_of(images))
    # Where only one tile looks, the flow is that of the tile alone.
    assert_same(motion.flow[0][:, :128], documented(model, *images[:, :, :256], 2)[:, :128])
    assert_same(motion.flow[0][:, 256:], documented(model, *images[:, :, 128:], 2)[:, 128:])


@pytest.mark.parametrize("length", [256, 257, 300, 1000, 1920])
def test_tiles_cover_all_and_overlap(length: int) -> None:
    spans = [columns for _, columns in tiles(100, length, 256, 128)]
    assert spans[0].start == 0
    assert spans[-1].stop == length
    assert {s.stop - s.start for s in spans} == {min(length, 256)}
    assert all(a.stop - b.start >= 128 for a, b in pairwise(spans))


def test_blending_keeps_what_the_tiles_agree_on() -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(300, 700, 2)).astype(np.float32)
    parts = [(tile, whole[tile]) for tile in tiles(300, 700, 256, 64)]
    assert np.allclose(blended(parts, 300, 700), whole, atol=1e-5)


def test_when_memory_runs_out_the_batch_is_halved(
    network: tuple[str, Any], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = network
    heard: list[Any] = []
    options = {"size": name, "weights": str(checkpoint), "iterations": 1}
    stage: Any = opened("flow", "raft", heard.append, **options, batch=4)
    wanted = stage.process(clip_of(film(4, 128, 128))).flow
    refined = stage._network._refined

    def short(first: Any, *others: Any) -> Any:
        if len(first) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return refined(first, *others)

    monkeypatch.setattr(stage._network, "_refined", short)
    found = stage.process(clip_of(film(4, 128, 128))).flow
    assert_same(found, wanted)
    warnings = [event.text for event in heard if isinstance(event, Warn)]
    assert [text.split("from here on ")[1] for text in warnings] == [
        "2 pairs at a time",
        "1 pairs at a time",
    ]

    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stage._network, "_refined", never)
    with pytest.raises(UsageError, match="the GPU's memory does not hold one of the pairs; lower"):
        stage.process(clip_of(film(4, 128, 128)))


def test_gray_and_tiny_frames(network: tuple[str, Any], checkpoint: Path) -> None:
    name, _ = network
    stage = opened("flow", "raft", size=name, weights=str(checkpoint), iterations=1)
    gray = stage.process(clip_of(np.full((2, 40, 60, 3), 90, np.uint8)))
    assert np.isfinite(gray.flow).all()
    tiny = stage.process(clip_of(np.full((2, 8, 60, 3), 90, np.uint8)))
    assert not tiny.flow.any()
    assert not tiny.confidence.any()
    assert stage.process(clip_of(film(1, 128, 128))).flow.shape == (0, 128, 128, 2)


def test_what_does_not_fit_is_said(
    network: tuple[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    name, model = network
    other = "large" if name == "small" else "small"
    with pytest.raises(UsageError, match=f"no weights of raft_{other}: .* more (are|is) "):
        opened("flow", "raft", size=other, weights=str(checkpoint))
    lacking = tmp_path / "lacking.pth"
    state = dict(model.state_dict())
    first = next(iter(state))
    del state[first]
    torch.save({**state, "more": torch.zeros(1)}, lacking)
    said = f"{first} is missing; more is not part of it; give the file that belongs to raft_{name}"
    with pytest.raises(UsageError, match=said):
        opened("flow", "raft", size=name, weights=str(lacking))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "cuda"}, "flow.device=cuda: there is no CUDA device; take cpu or auto"),
        ({"precision": "float16"}, "flow.precision=float16 needs a GPU; on the CPU it is float32"),
    ],
)
def test_what_needs_a_gpu_says_so(options: dict[str, str], says: str, checkpoint: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match=says):
        opened("flow", "raft", weights=str(checkpoint), **options)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "apart"), [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.03)]
)
def test_a_gpu_says_the_same(
    network: tuple[str, Any], checkpoint: Path, precision: str, apart: float
) -> None:
    """Of the largest flow: the sums of a GPU are others, and half precision has 8 to 11 bits."""
    name, model = network
    images = film(4, 160, 200)
    options = {"size": name, "weights": str(checkpoint), "iterations": 3, "device": "cuda"}
    motion = opened("flow", "raft", **options, precision=precision).process(clip_of(images))
    for t in range(3):
        wanted = documented(model, images[t], images[t + 1], 3)
        assert np.abs(motion.flow[t] - wanted).max() <= apart * np.abs(wanted).max()


@pytest.mark.parametrize("size", ["large", "small"])
def test_the_weights_are_those_that_torchvision_takes(size: str) -> None:
    known: Any = optical_flow
    best = (known.Raft_Large_Weights if size == "large" else known.Raft_Small_Weights).DEFAULT
    ours = torchvision_weights(size)
    assert ours.id == f"raft_{size}-{best.name}"
    assert ours.address() == best.url
    assert ours.path.name == best.url.rpartition("/")[2]
    assert ours.nbytes == pytest.approx(best.meta["_file_size"] * 2**20, rel=1e-3)
    assert not ours.is_own
