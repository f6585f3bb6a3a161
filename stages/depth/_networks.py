"""Depth networks of transformers: what each predicts, according to its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import UsageError

__all__ = ["NETWORKS", "Network", "Predicts", "network_of"]

Predicts = Literal["inverse", "metric"]
"""`inverse`: inverse depth up to a scale and a shift; `metric`: depth."""


@dataclass(frozen=True, slots=True)
class Network:
    """Properties of a network family."""

    predicts: Callable[[Mapping[str, Any]], Predicts]
    """Returns what the network predicts, given its `config.json`."""
    source: str
    """Source of `predicts`."""
    sized: Literal["target_sizes", "source_sizes"] = "target_sizes"
    """Argument of `post_process_depth_estimation` for the size, as in the network's own example."""
    mirrors: bool = False
    """Whether its post-processing can average with the prediction for the mirrored image."""
    prompted: bool = False
    """Whether it takes a rough depth map in addition to the image."""
    least_side_px: int = 16
    """Shortest side in px of an image that can be preprocessed for it."""


def _by_estimation_type(config: Mapping[str, Any]) -> Predicts:
    return "metric" if config.get("depth_estimation_type", "relative") == "metric" else "inverse"


def _by_projection(config: Mapping[str, Any]) -> Predicts:
    backbone = config.get("backbone_config") or {}
    dino = backbone.get("model_type") == "dinov2" and bool(config.get("add_projection"))
    return "metric" if dino else "inverse"


NETWORKS: dict[str, Network] = {
    "depth_anything": Network(
        _by_estimation_type,
        "DepthAnythingConfig.depth_estimation_type; the relative ones predict affine-invariant "
        "inverse depth (Yang et al. 2024, section 3.1), the metric ones meters (sigmoid x "
        "max_depth in DepthAnythingDepthEstimationHead)",
    ),
    "dpt": Network(
        _by_projection,
        "MiDaS predicts inverse depth up to scale and shift (Ranftl et al. 2022, section 5); the "
        "heads of DINOv2 for NYU and KITTI, which alone have add_projection over a dinov2 "
        "backbone, predict meters (convert_dinov2_depth_to_hf.py)",
    ),
    "zoedepth": Network(
        lambda _: "metric",
        "metric bins between min_depth and max_depth (Bhat et al. 2023; bin_configurations of "
        "ZoeDepthConfig)",
        sized="source_sizes",
        mirrors=True,
    ),
    "depth_pro": Network(
        lambda _: "metric",
        "post_process_depth_estimation turns canonical inverse depth into meters by the field of "
        "view (Bochkovskii et al. 2024, section 3.1)",
    ),
    "prompt_depth_anything": Network(
        lambda _: "metric",
        "depth in the units of the prompt, scaled between its minimum and maximum depth "
        "(PromptDepthAnythingForDepthEstimation.forward; Lin et al. 2024, section 3.2)",
        prompted=True,
    ),
    "glpn": Network(
        lambda _: "metric",
        "sigmoid x max_depth (GLPNDepthEstimationHead; Kim et al. 2022)",
        least_side_px=32,
    ),
}


def network_of(config: Mapping[str, Any], checkpoint: str) -> Network:
    """Return the network family of a checkpoint.

    Raises:
        UsageError: The family is unknown.
    """
    kind = str(config.get("model_type"))
    if kind not in NETWORKS:
        raise UsageError(
            f"depth.checkpoint = {checkpoint!r} is a {kind}, which is not a supported depth "
            f"network; allowed are {', '.join(sorted(NETWORKS))}"
        )
    return NETWORKS[kind]
