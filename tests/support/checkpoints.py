"""Tiny checkpoints of random numbers, written as the library itself writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as tf

__all__ = ["LABELS", "VIDEO_CLASSIFIERS", "WORD_NETWORKS", "save_video", "save_words"]

LABELS = {0: "walking", 1: "running", 2: "waving", 3: "sitting"}
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
SQUARE = {"height": 32, "width": 32}
VIDEO_CLASSIFIERS: dict[str, Any] = {
    "videomae": lambda: (
        tf.VideoMAEForVideoClassification,
        tf.VideoMAEConfig(image_size=32, patch_size=8, num_frames=6, **SMALL),
        tf.VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
    ),
    "timesformer": lambda: (
        tf.TimesformerForVideoClassification,
        tf.TimesformerConfig(image_size=32, patch_size=8, num_frames=5, **SMALL),
        tf.VideoMAEImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE),
    ),
    "vivit": lambda: (
        tf.VivitForVideoClassification,
        tf.VivitConfig(image_size=32, num_frames=4, tubelet_size=[2, 8, 8], **SMALL),
        tf.VivitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
    ),
    "vjepa2": lambda: (
        tf.VJEPA2ForVideoClassification,
        tf.VJEPA2Config(
            crop_size=32,
            patch_size=8,
            frames_per_clip=4,
            tubelet_size=2,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
            num_pooler_layers=1,
        ),
        tf.VJEPA2VideoProcessor(crop_size=32),
    ),
}
"""model_type to the class, its configuration and its processor."""


def save_video(folder: Path, kind: str, *, seed: int = 0, **config: Any) -> Any:
    """Write a video classifier; return the network."""
    network_class, settings, processor = VIDEO_CLASSIFIERS[kind]()
    settings.id2label = dict(LABELS)
    settings.label2id = {name: n for n, name in LABELS.items()}
    for name, value in config.items():
        setattr(settings, name, value)
    network = random_network(network_class, settings, seed)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network


def random_network(network_class: Any, settings: Any, seed: int) -> Any:
    """Return a network whose outputs differ: fresh heads are often all but zero.

    Layers neither swell nor shrink what they are given, as in a learned network: where they swell
    it tenfold each, float32's rounding shows in the result.
    """
    torch.manual_seed(seed)
    network = network_class(settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    return network


WORDS = (
    "a an the of video photo example demonstration person dog cat runs walks cooks something else "
    "nothing in particular empty scene . , quietly"
)


def tokenizer() -> Any:
    """Return a tokenizer with one number a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["<pad>", "<unk>", "<bos>", "<eos>", *dict.fromkeys(WORDS.split())]
    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=64,
    )


TEXT = {**SMALL, "vocab_size": 40, "max_position_embeddings": 64}
ENDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}


def _clip_pictures() -> Any:
    return tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)


WORD_NETWORKS: dict[str, Any] = {
    "clip": lambda: (
        tf.CLIPModel,
        tf.CLIPConfig(text_config={**TEXT, **ENDS}, vision_config=VISION, projection_dim=16),
        lambda: tf.CLIPProcessor(_clip_pictures(), tokenizer()),
    ),
    "siglip": lambda: (
        tf.SiglipModel,
        tf.SiglipConfig(text_config={**TEXT, **ENDS}, vision_config=VISION),
        lambda: tf.SiglipProcessor(tf.SiglipImageProcessor(size=SQUARE), tokenizer()),
    ),
    "siglip2": lambda: (
        tf.Siglip2Model,
        tf.Siglip2Config(
            text_config={**TEXT, **ENDS},
            vision_config={**SMALL, "num_patches": 16, "patch_size": 16},
        ),
        lambda: tf.Siglip2Processor(tf.Siglip2ImageProcessor(), tokenizer()),
    ),
    "xclip": lambda: (
        tf.XCLIPModel,
        tf.XCLIPConfig(
            text_config={**TEXT, **ENDS},
            vision_config={
                **VISION,
                "num_frames": 4,
                "mit_hidden_size": 32,
                "mit_intermediate_size": 48,
                "mit_num_hidden_layers": 1,
                "mit_num_attention_heads": 2,
            },
            projection_dim=32,
            prompt_layers=1,
            prompt_num_attention_heads=2,
        ),
        lambda: tf.XCLIPProcessor(
            tf.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE), tokenizer()
        ),
    ),
    "videoprism": lambda: (
        tf.VideoPrismClipModel,
        tf.VideoPrismConfig(
            text_config={**TEXT, **ENDS},
            vision_config={
                **{k: v for k, v in SMALL.items() if k != "num_hidden_layers"},
                "image_size": 32,
                "num_frames": 4,
                "tubelet_size": [1, 8, 8],
                "num_spatial_layers": 1,
                "num_temporal_layers": 1,
                "num_auxiliary_layers": 1,
            },
        ),
        lambda: tf.VideoPrismProcessor(
            tf.LlavaOnevisionVideoProcessor(size=SQUARE, do_normalize=False), tokenizer()
        ),
    ),
}
"""model_type to the class, its configuration and its processor."""


def save_words(folder: Path, kind: str, *, seed: int = 0) -> Any:
    """Write a network that knows pictures and words; return it."""
    network_class, settings, processor = WORD_NETWORKS[kind]()
    network = random_network(network_class, settings, seed)
    network.save_pretrained(folder)
    processor().save_pretrained(folder)
    return network
