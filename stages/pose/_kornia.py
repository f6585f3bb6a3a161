"""Kornia's detectors (ALIKED, DISK, XFeat) and LightGlue: loading weights and inference.

- ALIKED: Zhao et al., IEEE TIM 2023. DISK: Tyszkiewicz et al., NeurIPS 2020. XFeat: Potje et al.,
  CVPR 2024. LightGlue: Lindenberger et al., ICCV 2023.

The networks are built without kornia's own download, and called as in its documentation: RGB in
0..1, ALIKED above its detection threshold, DISK with the image padded to multiples of 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kornia.feature
import numpy as np
import torch

from pipeline.contract import Array
from pipeline.weights import Weights, fit, read_tensors
from stages._networks.checkpoints import check_finite
from stages.pose._features import Features
from stages.pose._image_transform import (
    SMALLEST_SIDE,
    ImageTransform,
    reduced,
    reduced_size,
    strongest,
)

__all__ = ["KorniaDetector", "KorniaLightGlue", "NearestNeighborMatcher", "glue_configuration"]

ALIKED = "aliked-n16"
XFEAT_STEP = 32
"""The sides of XFeat's input are multiples of this, in px."""
MATCHER_PREFIX = "matcher."
"""Prefix of LightGlue's tensor names in a checkpoint of glue-factory."""


class KorniaDetector:
    """A kornia network that detects and describes keypoints."""

    def __init__(self, name: str, weights: Weights, *, device: str, side: int) -> None:
        """Build the network and load its weights.

        Args:
            name: `aliked`, `disk` or `xfeat`.
            weights: Weights file.
            device: torch device.
            side: Images whose longer side in px exceeds this are downscaled first.

        Raises:
            UsageError: The file is damaged, or holds the weights of another network.
        """
        builders: dict[str, Any] = {
            "aliked": kornia.feature.ALIKED,
            "disk": kornia.feature.DISK,
            "xfeat": kornia.feature.XFeat,
        }
        network = builders[name](ALIKED) if name == "aliked" else builders[name]()
        tensors = read_tensors(weights.path, within="extractor")
        # XFeat's file holds the weights of its inner network.
        _fill(network.net if name == "xfeat" else network, tensors, weights, f"{name} (kornia)")
        self._network = _ready(network, device)
        self._name = name
        self._device = device
        self._side = side

    def image_transform(self, full: tuple[int, int]) -> ImageTransform:
        """Return the mapping to keyframes of size `full` (width, height)."""
        width, height = size = reduced_size(full, self._side)
        if self._name != "xfeat":
            return ImageTransform(size=size, full=full)
        # XFeat resizes to multiples of 32 and scales back pixel indices, not pixel centers.
        whole = (max(XFEAT_STEP, length // XFEAT_STEP * XFEAT_STEP) for length in size)
        across, down = whole
        return ImageTransform(size=size, full=full, center=(width / across / 2, height / down / 2))

    @torch.inference_mode()
    def extract(self, images: Array, most: int) -> list[Features]:
        """Return the strongest features of images, uint8 [N, H, W, 3]; thread-safe."""
        transform = self.image_transform((images.shape[2], images.shape[1]))
        if min(transform.size) < SMALLEST_SIDE:
            return [Features.none()] * len(images)
        pixels = torch.tensor(reduced(images, transform.size))
        rgb = pixels.to(self._device).permute(0, 3, 1, 2).float().div(255)
        return [strongest(transform, *some, most) for some in self._found(rgb, most)]

    def _found(self, rgb: Any, most: int) -> list[tuple[Any, Any, Any]]:
        """Return keypoints [N, 2], descriptors [N, D] and scores [N] of each of [B, 3, H, W]."""
        network = self._network
        if self._name == "xfeat":
            found = network.detectAndCompute(rgb, top_k=most)
            return [(f["keypoints"], f["descriptors"], f["scores"]) for f in found]
        if self._name == "disk":
            found = network(rgb, n=most, pad_if_not_divisible=True)
            return [(f.keypoints, f.descriptors, f.detection_scores) for f in found]
        network.dkd.n_limit = most
        return [(f.keypoints, f.descriptors, f.keypoint_scores) for f in network(rgb)]


class KorniaLightGlue:
    """Kornia's LightGlue, for the features that it was trained on."""

    def __init__(self, name: str, weights: Weights, *, device: str) -> None:
        """Build the network and load its weights.

        Args:
            name: Name of the features.
            weights: Weights file.
            device: torch device.

        Raises:
            UsageError: The file is damaged, or holds the weights of another network.
        """
        network = kornia.feature.LightGlue(None, **glue_configuration(name))
        tensors = _renamed(read_tensors(weights.path), network.conf.n_layers)
        _fill(network, tensors, weights, f"LightGlue for {name} (kornia)")
        self._network = _ready(network, device)
        self._device = device

    @torch.inference_mode()
    def pair(self, a: Features, b: Features, transform: ImageTransform) -> Array | None:
        """Return matches int64 [M, 2], or None if scores are NaN; thread-safe.

        One pair at a time: in a batch, kornia stops early only where all pairs would.
        """
        if min(len(a), len(b)) < 2:
            return np.zeros((0, 2), np.int64)
        size = torch.tensor([transform.size], device=self._device)
        output = self._network(
            {
                f"image{n}": {
                    "keypoints": self._tensor(transform.to_network(one.xy)),
                    "descriptors": self._tensor(one.descriptors),
                    "image_size": size,
                }
                for n, one in enumerate((a, b))
            }
        )
        # Absent where one of the images has no matchable keypoint.
        certain = output.get("log_assignment", output["matching_scores0"])
        if torch.isnan(certain).any():
            return None
        return output["matches"][0].cpu().numpy()

    def _tensor(self, array: Array) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array))[None].to(self._device)


class NearestNeighborMatcher:
    """Kornia's mutual nearest neighbors with the ratio test in both directions."""

    def __init__(self, *, device: str) -> None:
        """Run on a torch device."""
        self._device = device

    @torch.inference_mode()
    def pair(self, a: Features, b: Features, transform: ImageTransform) -> Array:
        """Return matches int64 [M, 2]; thread-safe."""
        del transform
        if min(len(a), len(b)) < 2:
            return np.zeros((0, 2), np.int64)
        one, other = (torch.from_numpy(f.descriptors).to(self._device) for f in (a, b))
        return kornia.feature.match_smnn(one, other)[1].cpu().numpy()


def glue_configuration(name: str) -> dict[str, Any]:
    """Return kornia's LightGlue configuration for these features, without the weights' URL."""
    return {k: v for k, v in kornia.feature.LightGlue.features[name].items() if k != "weights"}


def _renamed(tensors: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Rename the tensors of published files to the names in kornia's network.

    A checkpoint of glue-factory may also hold the detector that it was trained with.
    """
    matcher = {name: one for name, one in tensors.items() if name.startswith(MATCHER_PREFIX)}
    named = {name.removeprefix(MATCHER_PREFIX): one for name, one in (matcher or tensors).items()}
    for i in range(layers):
        for kind in ("self_attn", "cross_attn"):
            before, after = f"{kind}.{i}.", f"transformers.{i}.{kind}."
            named = {
                after + name.removeprefix(before) if name.startswith(before) else name: tensor
                for name, tensor in named.items()
            }
    return named


def _fill(network: Any, tensors: Mapping[str, Any], weights: Weights, what: str) -> None:
    """Load the weights; buffers that the network computes itself may be missing from the file."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    tables = {
        name: table for name, table in network.named_buffers() if not name.endswith(statistics)
    }
    fit(network, {**tables, **tensors}, weights, what)
    check_finite(network, weights)


def _ready(network: Any, device: str) -> Any:
    if device == "cpu":
        # The number of threads changes the last bits of a sum; images run in parallel instead.
        torch.set_num_threads(1)
    return network.eval().requires_grad_(False).to(device)
