"""Optical flow: exact translations, rendered truth, occlusions, awkward sizes."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from stages.flow._consistency import confidence, confidence_of
from tests.support.motions import clip_of, opened, texture
from tests.support.scenes import Truth, alone

DENSE = ("dis", "farneback")
ALL = (*DENSE, "lucas_kanade")
INSIDE = (slice(24, -24), slice(24, -24))


@pytest.fixture(scope="module")
def truck() -> Truth:
    return alone("truck-right", seed=1)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("shift", [(3, 0), (-4, 2), (0, -6)])
def test_a_translation_comes_out_exactly(name: str, shift: tuple[int, int]) -> None:
    plane = texture(240, 320)
    dx, dy = shift
    moved = np.roll(plane, (dy, dx), axis=(0, 1))
    motion = opened("flow", name).process(clip_of(np.stack([plane, moved])))
    error = np.linalg.norm(motion.flow[0][INSIDE] - shift, axis=-1)
    # DIS fast ends at a quarter of the resolution: 3 px there are no whole number.
    assert np.median(error) < (0.2 if name == "dis" else 0.06)
    assert np.percentile(error, 99) < 0.5
    assert motion.confidence[0][INSIDE].min() > 0.8


def test_lucas_kanade_knows_corners_only() -> None:
    plane = texture(240, 320)
    moved = np.roll(plane, (2, -5), axis=(0, 1))
    motion = opened("flow", "lucas_kanade").process(clip_of(np.stack([plane, moved])))
    known = np.isfinite(motion.flow[0, ..., 0])
    assert 300 < known.sum() < 2001
    assert np.all(np.isnan(motion.flow[0][~known]))
    assert np.all(motion.confidence[0][~known] == 0)
    sure = (motion.confidence[0] > 0.5) & known
    assert sure.sum() > 0.8 * known.sum()
    error = np.linalg.norm(motion.flow[0][sure] - (-5, 2), axis=-1)
    assert np.median(error) < 0.05


@pytest.mark.parametrize(
    ("name", "options", "bound_px"),
    [
        ("dis", {"preset": "ultrafast"}, 0.30),
        ("dis", {}, 0.27),
        ("dis", {"preset": "medium"}, 0.17),
        ("farneback", {}, 0.22),
        ("lucas_kanade", {}, 0.14),
    ],
)
def test_the_error_on_a_rendered_scene_is_bounded(
    name: str, options: dict[str, str], bound_px: float, truck: Truth
) -> None:
    model = opened("flow", name, **options)
    errors = []
    for i in (12, 30, 45):
        # Two frames on: some 5 px of motion.
        motion = model.process(clip_of(truck.images[[i, i + 2]]))
        flow, visible = truck.flow_and_visible(i, i + 2)
        known = visible & np.isfinite(motion.flow[0, ..., 0]) & (motion.confidence[0] > 0.2)
        errors.append(np.linalg.norm(motion.flow[0] - flow, axis=-1)[known].mean())
    assert np.mean(errors) < bound_px


def test_what_gets_hidden_has_low_confidence(truck: Truth) -> None:
    """A square slides over a plane at rest and hides a strip of it."""
    plane, square = texture(160, 240, 1), texture(80, 80, 2)
    first, second = plane.copy(), plane.copy()
    first[40:120, 60:140] = square
    second[40:120, 72:152] = square
    motion = opened("flow", "dis", preset="medium").process(clip_of(np.stack([first, second])))
    hidden = motion.confidence[0][50:110, 143:149]
    seen = motion.confidence[0][50:110, 180:230]
    assert hidden.mean() < 0.4
    assert seen.mean() > 0.95
    trust = opened("flow", "dis").process(clip_of(truck.images[[20, 24]])).confidence[0]
    visible = truck.visible(20, 24)
    assert trust[~visible].mean() < 0.6 * trust[visible].mean()


def test_confidence_is_half_on_the_border_of_sundaram() -> None:
    fx = np.array([0.0, 3.0, 3.0, 10.0], np.float32)
    bx = np.array([0.0, -3.0, -3.0 + 0.8, -10.0], np.float32)
    zero = np.zeros(4, np.float32)
    bound = 0.01 * (3**2 + 2.2**2) + 0.5
    expected = [1.0, 1.0, 2 ** (-(0.8**2) / bound), 1.0]
    assert confidence_of(fx, zero, bx, zero) == pytest.approx(expected, abs=1e-6)
    on_border = np.float32(np.sqrt(0.5 / 0.99))
    one, none = np.full(1, on_border), np.zeros(1, np.float32)
    assert confidence_of(one, none, none, none) == pytest.approx([0.5], abs=1e-3)


def test_leaving_the_image_is_worth_nothing() -> None:
    forward = np.zeros((20, 30, 2), np.float32)
    forward[..., 0] = 4
    trust = confidence(forward, -forward)
    assert np.all(trust[:, :26] == 1)
    assert np.all(trust[:, 26:] == 0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 640), (7, 7), (11, 90), (12, 12), (12, 700), (700, 13), (31, 33)]
)
def test_tiny_and_thin_frames_have_a_flow(name: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, *size, 3), np.uint8)
    motion = opened("flow", name).process(clip_of(images))
    assert motion.flow.shape == (2, *size, 2)
    if min(size) < 12:
        assert motion.confidence.max() == 0
        unknown = np.isnan(motion.flow) if name == "lucas_kanade" else motion.flow == 0
        assert unknown.all()


@pytest.mark.parametrize("name", ALL)
def test_one_frame_has_no_flow(name: str) -> None:
    motion = opened("flow", name).process(clip_of(texture(48, 64)[None]))
    assert motion.flow.shape == (0, 48, 64, 2)
    assert motion.confidence.shape == (0, 48, 64)


@pytest.mark.parametrize("name", ALL)
def test_blank_frames_do_not_move(name: str) -> None:
    motion = opened("flow", name).process(clip_of(np.full((2, 60, 80, 3), 90, np.uint8)))
    assert np.nanmax(np.abs(np.nan_to_num(motion.flow))) < 1e-3


@pytest.mark.parametrize("name", ALL)
def test_large_frames_are_worked_on_at_a_smaller_size(name: str) -> None:
    plane = cv2.resize(texture(270, 480), (960, 540), interpolation=cv2.INTER_CUBIC)
    moved = np.roll(plane, (6, 12), axis=(0, 1))
    motion = opened("flow", name).process(clip_of(np.stack([plane, moved])))
    assert motion.flow.shape == (1, 540, 960, 2)
    error = np.linalg.norm(motion.flow[0][40:-40, 40:-40] - (12, 6), axis=-1)
    assert np.nanmedian(error) < 0.15


def test_every_pair_of_a_clip_has_its_flow_in_order() -> None:
    plane = texture(120, 160)
    images = np.stack([np.roll(plane, shift, axis=1) for shift in (0, 2, 1, 5)])
    motion = opened("flow", "dis").process(clip_of(images))
    assert motion.clip == clip_of(images).clip
    steps = [np.median(pair[INSIDE][..., 0]) for pair in motion.flow]
    assert steps == pytest.approx([2, -1, 4], abs=0.2)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValidationError, match="'ultrafast', 'fast' or 'medium'"):
        opened("flow", "dis", preset="slow")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "options", "bound_px"),
    [
        ("dis", {"preset": "ultrafast"}, 0.58),
        ("dis", {}, 0.47),
        ("dis", {"preset": "medium"}, 0.25),
        ("farneback", {}, 0.46),
        ("lucas_kanade", {}, 0.33),
    ],
)
def test_the_error_on_rubberwhale_is_bounded(
    name: str, options: dict[str, str], bound_px: float, data: Path
) -> None:
    folder = data / "flow-rubberwhale"
    raw = (folder / "RubberWhale.flo").read_bytes()
    width, height = struct.unpack("<ii", raw[4:12])
    flow = np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2)
    images = [cv2.imread(str(folder / f"RubberWhale{n}.png"))[..., ::-1] for n in (1, 2)]
    motion = opened("flow", name, **options).process(clip_of(np.stack(images)))
    known = (np.abs(flow) < 1e8).all(axis=-1) & np.isfinite(motion.flow[0, ..., 0])
    error = np.linalg.norm(motion.flow[0] - flow, axis=-1)[known]
    assert error.mean() < bound_px
