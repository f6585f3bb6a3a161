"""Small networks of random weights for the learned front ends, as files that they load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import kornia.feature
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from stages.pose._kornia import glue_configuration

SHARP = 60.0
"""Random matchers are unsure of everything; with so much larger similarities they decide."""
MILD = 0.02
"""Random layers bury what they are given; so much of what they add leaves it to be recognized."""


def room(count: int, height: int, width: int, step: int = 5, seed: int = 0) -> np.ndarray:
    """Pictures uint8 [T, H, W, 3] of a textured wall that moves left."""
    rng = np.random.default_rng(seed)
    wall = rng.integers(0, 255, (height, width + step * count, 3), np.uint8)
    smooth = cv2.GaussianBlur(wall, (0, 0), 2).astype(np.float32)
    smooth = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    return np.stack([smooth[:, step * t : step * t + width] for t in range(count)])


def detector(name: str) -> dict[str, Any]:
    """The state_dict of one of kornia's detectors, as its published file has it."""
    torch.manual_seed(5)
    seen = torch.from_numpy(room(2, 96, 128)).permute(0, 3, 1, 2).float().div(255)
    if name == "disk":
        return kornia.feature.DISK().state_dict()
    network: Any = kornia.feature.XFeat() if name == "xfeat" else kornia.feature.ALIKED()
    inside = network.net if name == "xfeat" else network
    with torch.no_grad():
        for layer in inside.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        # What differs between the places of a picture stays, what they share goes: otherwise all
        # random descriptors are alike.
        if name == "xfeat":
            features, _, _ = inside(seen)
            inside.block_fusion[-1].bias -= features.mean((0, 2, 3))
            inside.keypoint_head[-1].weight.mul_(40)
        else:
            features, _ = network.extract_dense_map(seen)
            common = torch.nn.functional.normalize(features.mean((0, 2, 3)), dim=0)
            mix = network.desc_head.sf_conv.weight[:, :, 0, 0]
            mix -= torch.outer(mix @ common, common)
            mix *= 20
    return {k: v for k, v in inside.state_dict().items() if not k.endswith("hw_grid")}


def glue(name: str) -> dict[str, Any]:
    """The state_dict of LightGlue, with the names that its published file has."""
    torch.manual_seed(6)
    network = kornia.feature.LightGlue(None, **glue_configuration(name))
    with torch.no_grad():
        for layer in network.transformers:
            for block in (layer.self_attn, layer.cross_attn):
                block.ffn[-1].weight.mul_(MILD)
        for assignment in network.log_assignment:
            torch.nn.init.orthogonal_(assignment.final_proj.weight, gain=SHARP)
            assignment.matchability.bias.fill_(3)
    state = {k: v for k, v in network.state_dict().items() if k != "confidence_thresholds"}
    for i in range(network.conf.n_layers):
        for kind in ("self_attn", "cross_attn"):
            state = {
                k.replace(f"transformers.{i}.{kind}", f"{kind}.{i}"): v for k, v in state.items()
            }
    if name != "xfeat":
        return state
    # As glue-factory saves it: the detector of the training beside the matcher.
    detector = {"extractor.conv.weight": torch.ones(4, 3, 3, 3)}
    return {**{f"matcher.{k}": v for k, v in state.items()}, **detector}


def saved(state: dict[str, Any], path: Path) -> str:
    """Write a state_dict and return where."""
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return str(path)


def superpoint_config() -> transformers.SuperPointConfig:
    return transformers.SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=32
    )


def superpoint(folder: Path) -> Path:
    """A checkpoint of SuperPoint that works at 128x96."""
    torch.manual_seed(7)
    config = superpoint_config()
    network = transformers.SuperPointForKeypointDetection(config)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
    network.save_pretrained(folder)
    transformers.SuperPointImageProcessor(size={"height": 96, "width": 128}).save_pretrained(folder)
    return folder


def superglue(folder: Path) -> Path:
    """A checkpoint of LightGlue with SuperPoint inside."""
    torch.manual_seed(8)
    config = transformers.LightGlueConfig(
        keypoint_detector_config=superpoint_config(),
        descriptor_dim=32,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    network = transformers.LightGlueForKeypointMatching(config)
    with torch.no_grad():
        for layer in network.keypoint_detector.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
        for assignment in network.match_assignment_layers:
            torch.nn.init.orthogonal_(assignment.final_projection.weight, gain=20)
            assignment.matchability.bias.fill_(3)
    network.save_pretrained(folder)
    transformers.LightGlueImageProcessor(size={"height": 96, "width": 128}).save_pretrained(folder)
    return folder


def loftr(folder: Path, images: np.ndarray) -> Path:
    """A checkpoint of EfficientLoFTR without attention, its norms set by pictures of a kind."""
    torch.manual_seed(0)
    config = transformers.EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 1, 1],
        out_features=[16, 16, 32, 64],
        hidden_size=64,
        num_attention_layers=0,
        num_attention_heads=8,
        coarse_matching_threshold=0.0,
        fine_matching_slice_dim=4,
    )
    network = transformers.EfficientLoFTRForKeypointMatching(config)
    processor = transformers.EfficientLoFTRImageProcessor(size={"height": 96, "width": 128})
    network.train()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        network.efficientloftr(**processor(list(images), return_tensors="pt"))
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
