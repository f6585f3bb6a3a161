"""A network made ready for inference says what it said before."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import nn
from transformers.activations import ACT2FN

from stages._networks.inference import fold, pack
from tests.support.segment_checkpoints import DETECTORS

RELATIVE = 1e-5


def with_statistics(network: Any) -> Any:
    """Return a network whose normalizations have seen something."""
    torch.manual_seed(0)
    for module in network.modules():
        if hasattr(module, "running_var"):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 2)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values)
    return network.eval().requires_grad_(False)


def assert_same(network: Any, *given: Any) -> None:
    with torch.inference_mode():
        wanted = network(*given)
        fold(network)
        found = network(*given)
    assert wanted.std() > 0
    assert (found - wanted).abs().max() <= RELATIVE * wanted.abs().max()


def normalizations(network: Any) -> int:
    return sum("BatchNorm" in type(module).__name__ for module in network.modules())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_normalization_is_folded_into_the_convolution_before_it(bias: bool, groups: int) -> None:
    network = with_statistics(
        nn.Sequential(
            nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups, bias=bias),
            nn.BatchNorm2d(12, eps=1e-3),
            nn.ReLU(),
            nn.Conv2d(12, 4, 1, padding_mode="reflect"),
        )
    )
    assert_same(network, torch.randn(2, 8, 17, 9))
    assert normalizations(network) == 0


def test_a_normalization_that_comes_before_or_elsewhere_is_left() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.second = nn.BatchNorm2d(3)

        def forward(self, x: Any) -> Any:
            return self.first(self.second(x))

    network = with_statistics(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), Other()))
    assert_same(network, torch.randn(1, 3, 5, 5))
    assert normalizations(network) == 2


def test_a_convolution_that_two_normalizations_follow_is_left() -> None:
    shared = nn.Conv2d(3, 3, 1)
    branches = [nn.Sequential(shared, nn.BatchNorm2d(3)) for _ in range(2)]
    network = with_statistics(nn.Sequential(*branches))
    assert_same(network, torch.randn(1, 3, 5, 5))
    assert normalizations(network) == 2


def test_a_chain_with_a_way_of_its_own_is_left() -> None:
    class Backwards(nn.Sequential):
        def forward(self, input: Any) -> Any:
            return self[0](self[1](input))

    network = with_statistics(Backwards(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    assert_same(network, torch.randn(1, 3, 5, 5))
    assert normalizations(network) == 1


def test_a_normalization_without_statistics_is_left() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    assert_same(network.eval().requires_grad_(False), torch.randn(1, 3, 5, 5))
    assert normalizations(network) == 1


def test_group_normalization_keeps_its_digits() -> None:
    """Maps with a large mean and a small spread, of which sums of squares make noise."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)).eval().requires_grad_(False)
    network[0].bias.fill_(300.0)
    image = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        wanted = network.double()(image.double())
        fold(network.float())
        assert (network(image) - wanted).abs().max() < 2e-3


def backbone(kind: str) -> Any:
    if kind in DETECTORS:
        return tf.AutoBackbone.from_config(DETECTORS[kind]()[1].backbone_config)
    config = tf.EfficientLoFTRConfig(
        stage_num_blocks=[2, 2, 2, 1], out_features=[16, 16, 24, 32], hidden_size=32
    )
    return tf.EfficientLoFTRModel(config).backbone


@pytest.mark.parametrize("kind", ["rt_detr", "d_fine", "efficientloftr"])
def test_backbones_have_no_normalization_left_and_say_the_same(kind: str) -> None:
    network = with_statistics(backbone(kind))
    channels = 1 if kind == "efficientloftr" else 3
    image = torch.randn(1, channels, 64, 96)
    assert normalizations(network) > 4

    def maps() -> Any:
        made = network(image)
        return made.feature_maps if hasattr(made, "feature_maps") else made

    with torch.inference_mode():
        wanted = [one.clone() for one in maps()]
        fold(network)
        found = maps()
    assert normalizations(network) == 0
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() <= RELATIVE * b.abs().max()


def test_a_repvgg_block_is_one_convolution() -> None:
    network = with_statistics(backbone("efficientloftr"))

    def convolutions() -> int:
        return sum(isinstance(module, nn.Conv2d) for module in network.modules())

    assert convolutions() == 14
    fold(network)
    assert convolutions() == 7


@pytest.mark.parametrize("name", ["gelu_fast", "gelu_new"])
def test_a_gelu_in_many_passes_is_one(name: str) -> None:
    network = nn.Sequential(ACT2FN[name])
    given = torch.linspace(-12, 12, 4001)
    assert_same(network, given)
    assert isinstance(network[0], nn.GELU)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is packed on x86-64 alone")
def test_layers_are_packed() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 3, 1), nn.ReLU())
    pack(network.eval().requires_grad_(False))
    assert ["forward" in vars(module) for module in network] == [True, True, False]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(0, 24), (24,), (3, 24), (16, 24), (5, 7, 24), (2, 3, 20, 24)])
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_packed_layer_multiplies_as_before(
    shape: tuple[int, ...], contiguous: bool, bias: bool
) -> None:
    network = nn.Sequential(nn.Linear(24, 10, bias=bias)).eval().requires_grad_(False)
    given = torch.randn(shape if contiguous else shape[::-1])
    given = given if contiguous else given.permute(*reversed(range(given.ndim)))
    wanted = network(given)
    pack(network)
    found = network(given)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        {"padding": 1},
        {"padding": "valid", "bias": False},
        {"padding": "same", "dilation": 2},
        {"padding": (0, 2), "stride": 2, "groups": 4},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_a_packed_convolution_says_what_it_said(how: dict[str, Any], grouped: bool) -> None:
    rest = nn.GroupNorm(2, 12) if grouped else nn.Identity()
    network = nn.Sequential(nn.Conv2d(8, 12, 3, **how), rest).eval().requires_grad_(False)
    given = torch.randn(2, 8, 17, 9)
    wanted = network(given)
    pack(network)
    np.testing.assert_allclose(network(given), wanted, atol=1e-5)
    if not grouped:
        np.testing.assert_allclose(network(given[0]), wanted[0], atol=1e-5)
    assert network(given[:0]).shape == (0, *wanted.shape[1:])


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 300])
@pytest.mark.parametrize("wide", [64, 4096])
def test_the_number_of_threads_changes_no_bit(rows: int, wide: int) -> None:
    network = nn.Sequential(nn.Linear(wide, 8)).eval().requires_grad_(False)
    pack(network)
    given = torch.randn(rows, wide)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(network(given))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)
