"""depth/transformer and segment/detection against the library's loop over frames, same process.

    python -m benchmarks.networks [--kind depth|detection] [--repeats 7] [--frames 6]
        [--batch 0] [--device cpu] [--threads 2]

Networks of the size of Depth Anything V2 Small and of RT-DETR with ResNet-18, with random weights,
which take as long as learned ones, on frames of 640x360. `loop` is the page of the library: picture
by picture through processor, network and post-processing; both with the same number of threads.
What comes out is compared first, to 1e-5 (detections: how many things, and their boxes to 0.01
px). Bars: 1.0, and 1.3 with several frames.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers as tf

from benchmarks.rounds import against_loop
from pipeline.contract import Context
from pipeline.contract.stage import find, options_of
from tests.support.motions import clip_of
from tests.support.scenes import tour

SAME, SAME_PX = 1e-5, 0.01
THRESHOLD = 0.1


def written(kind: str, folder: Path) -> None:
    """Write a checkpoint of usual size."""
    torch.manual_seed(0)
    if kind == "depth":
        backbone = tf.Dinov2Config(
            hidden_size=384,
            num_attention_heads=6,
            image_size=518,
            patch_size=14,
            out_indices=[3, 6, 9, 12],
            reshape_hidden_states=False,
            apply_layernorm=True,
        )
        config = tf.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=384,
            neck_hidden_sizes=[48, 96, 192, 384],
            fusion_hidden_size=64,
        )
        network: Any = tf.DepthAnythingForDepthEstimation(config)
        size = {"height": 518, "width": 518}
        prepare: Any = tf.DPTImageProcessor(
            size=size, keep_aspect_ratio=True, ensure_multiple_of=14
        )
    else:
        resnet = tf.RTDetrResNetConfig(
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )
        config = tf.RTDetrConfig(backbone_config=resnet, encoder_in_channels=[128, 256, 512])
        network, prepare = tf.RTDetrForObjectDetection(config), tf.RTDetrImageProcessor()
    network.save_pretrained(folder)
    prepare.save_pretrained(folder)


def documented(kind: str, folder: Path, device: str) -> Any:
    """Return the library's way from a picture to depth, or to boxes."""
    prepare = tf.AutoImageProcessor.from_pretrained(folder)
    auto = tf.AutoModelForDepthEstimation if kind == "depth" else tf.AutoModelForObjectDetection
    network = auto.from_pretrained(folder).to(device)

    @torch.inference_mode()
    def one(image: Any) -> Any:
        outputs = network(**prepare(images=image, return_tensors="pt").to(device))
        sizes = [image.shape[:2]]
        if kind == "depth":
            made = prepare.post_process_depth_estimation(outputs, target_sizes=sizes)
            return made[0]["predicted_depth"].cpu().numpy()
        made = prepare.post_process_object_detection(
            outputs, threshold=THRESHOLD, target_sizes=sizes
        )
        return made[0]["boxes"].cpu().numpy()

    return one


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kind", choices=("depth", "detection"), default="depth")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tf.logging.set_verbosity_error()
    images = np.stack([cv2.resize(i, (640, 360)) for i in tour(0).images[: options.frames]])
    with tempfile.TemporaryDirectory() as name:
        written(options.kind, Path(name))
        one = documented(options.kind, Path(name), options.device)
        step, model = (
            ("depth", "transformer") if options.kind == "depth" else ("segment", "detection")
        )
        more = {} if options.kind == "depth" else {"labels": "all", "threshold": THRESHOLD}
        stage: Any = find(step, model)(
            options_of(step, model)(
                checkpoint=name, device=options.device, batch=options.batch, **more
            )
        )
        stage.fetch()
        stage.open(Context(threads=options.threads))
    clip = clip_of(images)

    def ours() -> Any:
        if options.kind == "depth":
            return list(stage._predictor.maps(images))
        masks = stage.process(clip)
        return [masks.box[masks.frame == t] for t in range(len(images))]

    def theirs() -> Any:
        torch.set_num_threads(options.threads)
        made = [one(image) for image in images]
        torch.set_num_threads(1)
        return made

    _same(options.kind, ours(), theirs())
    count, threads = len(images), options.threads
    what = f"{step}/{model}, {count} frames of 640x360, {threads} threads; s a frame"
    faster = against_loop(ours, theirs, repeats=options.repeats, count=count, what=what)
    sys.exit(0 if faster >= (1.3 if count > 1 else 1.0) else 1)


def _same(kind: str, ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if kind == "depth":
            assert np.abs(a - b).max() <= SAME * np.abs(b).max()
        else:
            # In any order: with random weights scores are all but equal.
            assert len(a) == len(b) > 0
            apart = np.abs(a[:, None] - np.clip(b, 0, [640, 360, 640, 360])[None]).max(axis=2)
            assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) <= SAME_PX


if __name__ == "__main__":
    main()
