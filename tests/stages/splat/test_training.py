"""Training splats on a rendered room with exact poses: quality, seeds, growth, corrections."""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import comb

import cv2
import numpy as np
import pytest
import torch

from pipeline.contract import Context, Metric, Progress, Views, Warn
from pipeline.contract.stage import find
from pipeline.errors import PartNotMade
from stages._gaussians.draw import draw
from stages._geometry.transforms import invert, scale_intrinsics
from stages.splat import _growth
from tests.support import dense_splats
from tests.support.scenes import film
from tests.support.scenes.paths import Segment


@cache
def room() -> Views:
    """17 views of a room, 160x90, with 3000 noisy points on its surfaces."""
    truth = film([Segment("truck-right", 1.8)], 0, width=160, height=90, fps=10, jitter=0.3)
    frames = list(range(17))
    places, colors = zip(*(truth.points(i, every=3) for i in frames[::4]), strict=True)
    rng = np.random.default_rng(3)
    rows = rng.choice(sum(map(len, places)), 3000, replace=False)
    xyz = np.concatenate(places)[rows] + rng.normal(0, 0.02, (3000, 3))
    return views(truth.images[:17], truth.K[:17], truth.T_world_camera[:17], xyz, rows, colors)


def views(images, K, T, xyz, rows, colors) -> Views:
    count = len(images)
    return Views(
        images=np.array(images),
        pts_ns=np.arange(count) * 100_000_000,
        index=np.arange(count),
        intrinsics=K,
        T_world_camera=T,
        points=xyz.astype(np.float32),
        points_rgb=np.concatenate(colors)[rows],
        points_error_px=np.zeros(len(xyz), np.float32),
        observed_point=np.zeros(0, np.int32),
        observed_view=np.zeros(0, np.int32),
        observed_xy=np.zeros((0, 2), np.float32),
        candidates=count,
        scale="metric",
    )


def first(count: int) -> Views:
    v = room()
    fields = ("images", "pts_ns", "index", "intrinsics", "T_world_camera")
    return replace(v, **{f: getattr(v, f)[:count] for f in fields}, candidates=count)


def train(v: Views, *, threads=2, seed=0, folder=None, points=None, **options):
    """Train; return the splats, the metrics and the warnings."""
    model = find("splat", "cpu")
    config = {"seconds": 600, "gaussians": 6000, "steps": 60, **options}
    stage = model(model.__orig_bases__[0].__args__[0](**config))
    events = []
    stage.open(Context(threads=threads, seed=seed, folder=folder, report=events.append))
    try:
        splats = stage.process(v, points)
    finally:
        stage.close()
    metrics = {e.name: e.value for e in events if isinstance(e, Metric)}
    warnings = [e.text for e in events if isinstance(e, Warn)]
    assert not [e for e in events if isinstance(e, Progress) and not 0 <= e.done <= e.total]
    for name in ("means", "quats", "log_scales", "opacity_logits", "sh"):
        assert np.isfinite(getattr(splats, name)).all(), name
    return splats, metrics, warnings


def arrays(splats):
    return [splats.means, splats.quats, splats.log_scales, splats.opacity_logits, splats.sh]


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_a_room_comes_to_look_like_its_photographs(strategy):
    before, start, _ = train(room(), steps=0)
    splats, metrics, warnings = train(room(), steps=250, strategy=strategy)
    assert warnings == []
    assert 2900 < len(before.means) <= 3000
    assert 5000 < metrics["gaussians"] == len(splats.means) <= 6000
    assert splats.held_out.tolist() == [0, 8, 16]
    assert start["held_out_psnr_db"] < 22
    assert metrics["held_out_psnr_db"] > 28.5
    assert metrics["held_out_ssim"] > 0.85
    assert metrics["train_psnr_db"] > metrics["held_out_psnr_db"]


def test_equal_seeds_give_equal_bits_for_any_number_of_threads():
    one = train(room(), threads=1, steps=40)[0]
    for threads in (2, 4):
        other = train(room(), threads=threads, steps=40)[0]
        assert all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))
    changed = train(room(), seed=1, steps=40)[0]
    assert not np.array_equal(one.means[:100], changed.means[:100])


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_every_choice_is_seeded_in_growth_too(strategy):
    a = train(room(), steps=50, strategy=strategy)[0]
    b = train(room(), steps=50, strategy=strategy)[0]
    assert all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


def test_a_training_until_the_best_does_rounds_and_says_how_many_steps():
    # Few, so that a slow machine has the time for more than one round.
    _, once, _ = train(room(), steps=10)
    _, metrics, _ = train(room(), steps=10, until_best=True, seconds=2.5)
    assert metrics["steps"] > 10
    assert metrics["held_out_psnr_db"] > once["held_out_psnr_db"]


def test_a_clock_that_ends_the_training_is_told():
    splats, metrics, warnings = train(room(), steps=1_000_000, seconds=1.0)
    assert 0 < metrics["steps"] < 1000
    assert len(splats.means) > 0
    assert any("limit was reached after" in text and "splat.seconds" in text for text in warnings)


def test_poses_that_are_off_are_refined():
    rng = np.random.default_rng(0)
    moved = room().T_world_camera.copy()
    for T in moved[1:]:
        step = np.eye(4)
        turn = torch.tensor([[1.0, *rng.normal(0, 0.004, 3)]], dtype=torch.float64)
        step[:3, :3] = dense_splats.rotation(turn)[0].numpy()
        step[:3, 3] = rng.normal(0, 0.01, 3)
        T[:] = T @ step
    off = replace(room(), T_world_camera=moved)
    blurred = train(off, steps=200)[1]["train_psnr_db"]
    splats, metrics, _ = train(off, steps=200, refine_poses=True)
    assert metrics["train_psnr_db"] > blurred + 0.5
    trained = np.setdiff1d(np.arange(len(moved)), splats.held_out)

    def relative(T):
        """Neighbors' relative rotations: the whole may turn together."""
        return [(invert(T[i]) @ T[j])[:3, :3] for i, j in pairwise(trained)]

    def error(T):
        pairs = zip(relative(T), relative(room().T_world_camera), strict=True)
        return np.mean([np.linalg.norm(a - b) for a, b in pairs])

    assert error(splats.T_world_camera) < 0.7 * error(moved)
    assert np.array_equal(splats.T_world_camera[splats.held_out], moved[splats.held_out])


def test_pictures_of_other_exposure_are_evened_out():
    images = room().images.copy()
    images[1::2] = np.clip(images[1::2] * 0.7, 0, 255).astype(np.uint8)
    flickering = replace(room(), images=images)
    plain = train(flickering, steps=130)[1]["train_psnr_db"]
    corrected = train(flickering, steps=130, exposure=True)[1]["train_psnr_db"]
    assert corrected > plain + 3


@pytest.mark.parametrize(("count", "words"), [(0, "got 0"), (1, "got 1")])
def test_fewer_than_two_views_are_refused(count, words):
    with pytest.raises(PartNotMade, match=f"at least 2 posed views, {words}"):
        train(first(count))


def test_few_views_train_without_being_measured():
    splats, metrics, warnings = train(first(3), steps=20)
    assert "held_out_psnr_db" not in metrics
    assert splats.held_out.size == 0
    assert any("with 3 views none is held out" in text for text in warnings)


def test_points_that_are_nothing_are_left_out_and_none_is_refused():
    bad = room().points.copy()
    bad[:2900] = np.nan
    bad[2900:2950] = np.inf
    splats, _, _ = train(replace(room(), points=bad), steps=0)
    assert 40 < len(splats.means) <= 50
    with pytest.raises(PartNotMade, match="need points to begin with"):
        train(replace(room(), points=np.full_like(bad, np.nan)), steps=0)
    behind = room().points.copy()
    behind[:, 2] -= 1000
    with pytest.raises(PartNotMade, match="have any visible to a camera"):
        train(replace(room(), points=behind), steps=0)


def test_twins_and_a_single_point_have_a_size():
    twins = replace(room(), points=np.repeat(room().points[:1500], 2, axis=0))
    assert np.exp(train(twins, steps=10)[0].log_scales).min() > 1e-5
    lone = room()
    mid = np.argsort(np.linalg.norm(lone.points - np.median(lone.points, 0), axis=1))[:1]
    lone = replace(
        lone,
        points=lone.points[mid],
        points_rgb=lone.points_rgb[mid],
        points_error_px=lone.points_error_px[mid],
    )
    assert len(train(lone, steps=30)[0].means) >= 1


def test_views_without_overlap_and_pictures_of_one_pixel_end_with_numbers():
    apart = room().T_world_camera.copy()
    apart[1::2, :3, 0] += 500.0
    train(replace(room(), T_world_camera=apart), steps=20)
    K = room().intrinsics.copy()
    K[:, :2] /= 90
    tiny = replace(room(), images=np.ascontiguousarray(room().images[:, :1, :1]), intrinsics=K)
    train(tiny, steps=20)


def test_copies_of_a_splat_together_are_as_opaque_and_as_wide():
    """Kheradmand et al. 2024, equation 9, by brute force."""
    g = {
        "means": torch.zeros(3, 3),
        "scales": torch.zeros(3, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1),
        "opacities": torch.logit(torch.tensor([0.9, 0.3, 0.6])),
        "sh0": torch.zeros(3, 1, 3),
        "shN": torch.zeros(3, 15, 3),
    }
    g = {name: torch.nn.Parameter(value) for name, value in g.items()}
    strategy = _growth._Mcmc(g, {}, 1.0)
    for parameter in g.values():
        parameter.requires_grad_(False)
    strategy._copy(torch.tensor([0, 0, 0, 1]), None)
    opacity = torch.sigmoid(g["opacities"].detach()).double()
    assert len(opacity) == 7
    for row, old, copies in ((0, 0.9, 4), (1, 0.3, 2), (2, 0.6, 1)):
        assert abs(1 - (1 - opacity[row]) ** copies - old) < 1e-6
        total = sum(
            comb(i, k) * (-1) ** k / np.sqrt(k + 1) * opacity[row].item() ** (k + 1)
            for i in range(copies)
            for k in range(i + 1)
        )
        assert abs(g["scales"][row, 0].item() - np.log(old / total)) < 1e-5
    assert torch.equal(g["scales"][3], g["scales"][0])


def test_noise_has_the_shape_of_the_splat():
    rng = torch.Generator().manual_seed(0)
    quats, scales = torch.randn(5, 4, generator=rng), torch.randn(5, 3, generator=rng)
    noise = torch.randn(5, 3, generator=rng)
    M = dense_splats.rotation(quats) * torch.exp(scales)[:, None]
    wanted = torch.einsum("nij,nkj,nk->ni", M, M, noise)
    assert torch.allclose(_growth._shaped(quats, scales, noise), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_cuda_model_says_what_to_do():
    model = find("splat", "cuda")
    stage = model(model.__orig_bases__[0].__args__[0]())
    with pytest.raises(PartNotMade, match=r"NVIDIA GPU, but torch finds none.*train on the CPU"):
        stage.open(Context())
    stage.close()


def test_pixels_need_not_be_square_nor_the_training_as_large_as_the_pictures():
    narrow = np.stack(
        [cv2.resize(i, (80, 90), interpolation=cv2.INTER_AREA) for i in room().images]
    )
    K = np.stack([scale_intrinsics(K, 0.5, 1.0) for K in room().intrinsics])
    squeezed = replace(room(), images=narrow, intrinsics=K)
    splats, metrics, _ = train(squeezed, steps=200)
    assert metrics["held_out_psnr_db"] > 27
    splats, metrics, _ = train(room(), steps=200, largest_px=80)
    assert metrics["held_out_psnr_db"] > 28
    assert splats.size == (160, 90)
    assert np.array_equal(splats.intrinsics, room().intrinsics)
    drawn = draw(splats, splats.intrinsics[8], splats.T_world_camera[8], splats.size).rgb
    assert -10 * np.log10(np.mean((drawn - room().images[8] / 255) ** 2)) > 22
