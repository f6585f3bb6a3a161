"""Tiny depth networks of random weights, saved as their makers save the real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

DINO = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 42,
    "patch_size": 14,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
    "apply_layernorm": True,
    "reshape_hidden_states": False,
}
NECK = {"neck_hidden_sizes": [8, 8, 12, 12], "fusion_hidden_size": 8}


def depth_anything(**more: Any) -> Any:
    config = hf.DepthAnythingConfig(
        backbone_config=hf.Dinov2Config(**DINO),
        reassemble_hidden_size=16,
        head_hidden_size=8,
        **NECK,
        **more,
    )
    return hf.DepthAnythingForDepthEstimation(config), _dpt_processor()


def prompt_depth_anything() -> Any:
    config = hf.PromptDepthAnythingConfig(
        backbone_config=hf.Dinov2Config(**DINO),
        reassemble_hidden_size=16,
        head_hidden_size=8,
        depth_estimation_type="metric",
        max_depth=1,
        **NECK,
    )
    processor = hf.PromptDepthAnythingImageProcessor(
        size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return hf.PromptDepthAnythingForDepthEstimation(config), processor


def dpt() -> Any:
    config = hf.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        is_hybrid=False,
        **NECK,
    )
    processor = hf.DPTImageProcessor(size={"height": 64, "width": 64})
    return hf.DPTForDepthEstimation(config), processor


def dpt_of_dinov2() -> Any:
    config = hf.DPTConfig(
        backbone_config=hf.Dinov2Config(**DINO),
        is_hybrid=False,
        add_projection=True,
        use_bias_in_fusion_residual=False,
        # The projection has 256 channels whatever the configuration says.
        **{**NECK, "fusion_hidden_size": 256},
    )
    return hf.DPTForDepthEstimation(config), _dpt_processor()


def zoedepth() -> Any:
    backbone = hf.BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        use_relative_position_bias=True,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = hf.ZoeDepthConfig(
        backbone_config=backbone,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
        **NECK,
    )
    processor = hf.ZoeDepthImageProcessor(
        size={"height": 64, "width": 96}, ensure_multiple_of=32, keep_aspect_ratio=True
    )
    return hf.ZoeDepthForDepthEstimation(config), processor


def depth_pro() -> Any:
    small = {**DINO, "image_size": 32, "patch_size": 16}
    small = {k: v for k, v in small.items() if k not in ("out_features", "reshape_hidden_states")}
    del small["apply_layernorm"]
    config = hf.DepthProConfig(
        image_model_config={"model_type": "dinov2", **small},
        patch_model_config={"model_type": "dinov2", **small},
        fov_model_config={"model_type": "dinov2", **small},
        fusion_hidden_size=8,
        patch_size=32,
        intermediate_hook_ids=[3, 1],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.2],
        scaled_images_feature_dims=[16, 8],
        use_fov_model=True,
        num_fov_head_layers=0,
    )
    processor = hf.DepthProImageProcessor(size={"height": 64, "width": 64})
    return hf.DepthProForDepthEstimation(config), processor


def glpn() -> Any:
    config = hf.GLPNConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    )
    return hf.GLPNForDepthEstimation(config), hf.GLPNImageProcessor()


def _dpt_processor() -> Any:
    return hf.DPTImageProcessor(
        size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "depth_anything": depth_anything,
    "depth_anything_metric": lambda: depth_anything(depth_estimation_type="metric", max_depth=20),
    "dpt": dpt,
    "dpt_of_dinov2": dpt_of_dinov2,
    "zoedepth": zoedepth,
    "depth_pro": depth_pro,
    "prompt_depth_anything": prompt_depth_anything,
    "glpn": glpn,
}


def save(name: str, folder: Path) -> Path:
    """Save a network and its processor; its weights are large enough to say something."""
    torch.manual_seed(7)
    network, processor = FAMILIES[name]()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
                torch.nn.init.kaiming_uniform_(part.weight, a=1.0)
                if part.bias is not None:
                    # Above 0 no activation is silent, and no depth is at its limit.
                    torch.nn.init.constant_(part.bias, 0.1)
    if name == "depth_pro":
        # Inverse depths off 0, where depth is ill-conditioned, and a field of view as cameras have.
        network.head.layers[-2].bias.data.fill_(1)
        network.fov_model.head.layers[-1].bias.data.fill_(60)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
