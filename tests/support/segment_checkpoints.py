"""Tiny detectors and segmenters of random numbers, written as the library itself writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as tf

from tests.support.checkpoints import random_network

__all__ = ["DETECTORS", "LABELS", "SEGMENTERS", "save", "save_by_text", "save_sam2"]

LABELS = {0: "person", 1: "chair", 2: "dog"}
NAMED = {"id2label": LABELS, "label2id": {name: n for n, name in LABELS.items()}}
SIZE = {"height": 64, "width": 64}
DETR: dict[str, Any] = {
    **NAMED,
    "encoder_hidden_dim": 16,
    "d_model": 16,
    "encoder_in_channels": [8, 16, 16],
    "feat_strides": [8, 16, 32],
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "num_feature_levels": 3,
    "decoder_n_points": 2,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_queries": 12,
    "num_denoising": 0,
}


def _resnet() -> Any:
    return tf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def _hgnet() -> Any:
    return tf.HGNetV2Config(
        stem_channels=[3, 8, 8],
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        embedding_size=8,
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        out_features=["stage2", "stage3", "stage4"],
    )


def _swin(*stages: str) -> Any:
    return tf.SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=list(stages),
    )


DETECTORS: dict[str, Any] = {
    "rt_detr": lambda: (
        tf.RTDetrForObjectDetection,
        tf.RTDetrConfig(backbone_config=_resnet(), **DETR),
        tf.RTDetrImageProcessor(size=SIZE),
    ),
    "rt_detr_v2": lambda: (
        tf.RTDetrV2ForObjectDetection,
        tf.RTDetrV2Config(backbone_config=_resnet(), **DETR),
        tf.RTDetrImageProcessor(size=SIZE),
    ),
    "d_fine": lambda: (
        tf.DFineForObjectDetection,
        tf.DFineConfig(backbone_config=_hgnet(), hidden_expansion=0.5, **DETR),
        tf.RTDetrImageProcessor(size=SIZE),
    ),
}
"""model_type to the class, its configuration and its processor."""

SEGMENTERS: dict[str, Any] = {
    "mask2former": lambda: (
        tf.Mask2FormerForUniversalSegmentation,
        tf.Mask2FormerConfig(
            backbone_config=_swin("stage1", "stage2", "stage3", "stage4"),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=16,
            num_queries=6,
            **NAMED,
        ),
        tf.Mask2FormerImageProcessor(size=SIZE),
    ),
    "eomt": lambda: (
        tf.EomtForUniversalSegmentation,
        tf.EomtConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=64,
            patch_size=8,
            num_upscale_blocks=1,
            num_blocks=1,
            num_queries=6,
            **NAMED,
        ),
        tf.EomtImageProcessor(
            size={"shortest_edge": 64, "longest_edge": 64}, do_split_image=False, do_pad=True
        ),
    ),
}


def save(folder: Path, kind: str, seed: int = 0) -> Any:
    """Write a checkpoint with its processor; return the network."""
    network_class, config, processor = {**DETECTORS, **SEGMENTERS}[kind]()
    network = random_network(network_class, config, seed)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "dog", "person", "red", "car")


def save_by_text(folder: Path, seed: int = 0) -> Any:
    """Write a tiny Grounding DINO; return the network."""
    config = tf.GroundingDinoConfig(
        backbone_config=_swin("stage2", "stage3", "stage4"),
        text_config=tf.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
        ),
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        num_queries=10,
        num_feature_levels=4,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=32,
    )
    network = random_network(tf.GroundingDinoForObjectDetection, config, seed)
    network.save_pretrained(folder)
    words = tf.BertTokenizerFast(vocab={word: n for n, word in enumerate(WORDS)})
    pictures = tf.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 100})
    tf.GroundingDinoProcessor(pictures, words).save_pretrained(folder)
    return network


def save_sam2(folder: Path, seed: int = 3) -> Any:
    """Write a tiny SAM 2 for video; return the network."""
    side, width = 64, 128
    vision = tf.Sam2VisionConfig(
        backbone_config=tf.Sam2HieraDetConfig(
            hidden_size=8,
            num_attention_heads=1,
            image_size=[side, side],
            blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64],
            num_attention_heads_per_stage=[1, 1, 1, 1],
            window_size_per_stage=[2, 2, 2, 2],
            window_positional_embedding_background_size=[2, 2],
            global_attention_blocks=[3],
        ),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        # Memory is 64 wide in the library's code, and must be narrower than this.
        fpn_hidden_size=width,
        num_feature_levels=3,
    )
    config = tf.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={
            "hidden_size": width,
            "image_size": side,
            "patch_size": 16,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        image_size=side,
        memory_attention_hidden_size=width,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_num_layers=1,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=width,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
    )
    network = random_network(tf.Sam2VideoModel, config, seed)
    network.save_pretrained(folder)
    size = {"height": side, "width": side}
    tf.Sam2VideoProcessor(
        tf.Sam2ImageProcessor(size=size, mask_size={"height": side // 4, "width": side // 4}),
        tf.Sam2VideoVideoProcessor(size=size),
        target_size=side,
    ).save_pretrained(folder)
    return network
