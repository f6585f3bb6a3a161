"""recognize/* against the library's documented loop over clips, in the same process.

    python -m benchmarks.recognize [--kind videomae|timesformer|vivit|clip|xclip] [--repeats 7]
        [--clips 2] [--batch 1] [--views 1] [--device cpu] [--threads 2]

Networks of their usual size with random weights, which take as long as learned ones, on clips of
640x360. `loop` is the page of the library: processor, network, softmax, clip by clip; the words of
`clip` and `xclip` go with every clip, as there. The scores are compared first, to 1e-5. Bars: 1.0,
and 1.3 for several windows.
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
from pipeline.contract import Context, Frames
from pipeline.contract.stage import find, options_of
from tests.support.checkpoints import random_network, tokenizer
from tests.support.motions import clip_of
from tests.support.scenes import tour

SAME = 1e-5
ACTIONS = [f"person runs {n}" for n in ("dog", "cat", "video", "photo", "quietly", "cooks")]
WORDS = {"vocab_size": 49408, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def written(kind: str, folder: Path) -> int:
    """Write a checkpoint of usual size; return how many frames it takes."""
    pictures = tf.VideoMAEImageProcessor()
    if kind in ("clip", "xclip"):
        of_video = kind == "xclip"
        settings: Any = (tf.XCLIPConfig if of_video else tf.CLIPConfig)(
            text_config=WORDS, vision_config={"patch_size": 32, "num_frames": 8}
        )
        network = random_network(tf.XCLIPModel if of_video else tf.CLIPModel, settings, 0)
        made = tf.XCLIPProcessor if of_video else tf.CLIPProcessor
        made(pictures if of_video else tf.CLIPImageProcessor(), tokenizer()).save_pretrained(folder)
        count = 8
    else:
        config, network_class = {
            "videomae": (tf.VideoMAEConfig, tf.VideoMAEForVideoClassification),
            "timesformer": (tf.TimesformerConfig, tf.TimesformerForVideoClassification),
            "vivit": (tf.VivitConfig, tf.VivitForVideoClassification),
        }[kind]
        settings = config(num_labels=400)
        torch.manual_seed(0)
        network = network_class(settings)
        (tf.VivitImageProcessor() if kind == "vivit" else pictures).save_pretrained(folder)
        count = settings.num_frames
    network.save_pretrained(folder)
    return count


def documented(kind: str, folder: Path, device: str) -> Any:
    """Return the library's way from frames to scores."""
    if kind in ("clip", "xclip"):
        network = tf.AutoModel.from_pretrained(folder).to(device)
        prepare = tf.AutoProcessor.from_pretrained(folder)
    else:
        network = tf.AutoModelForVideoClassification.from_pretrained(folder).to(device)
        prepare = tf.AutoImageProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def scores(video: Any) -> Any:
        frames = list(video)
        if kind == "clip":
            ready = prepare(text=ACTIONS, images=frames, return_tensors="pt", padding=True)
            made = network(**ready.to(device))
            seen = made.image_embeds.mean(0)
            logits = network.logit_scale.exp() * made.text_embeds @ (seen / seen.norm())
        elif kind == "xclip":
            ready = prepare(text=ACTIONS, videos=frames, return_tensors="pt", padding=True)
            logits = network(**ready.to(device)).logits_per_video[0]
        else:
            logits = network(**prepare(frames, return_tensors="pt").to(device)).logits[0]
        return logits.softmax(-1).cpu().numpy()

    return scores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kind", default="videomae")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tf.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = written(options.kind, folder)
        loop = documented(options.kind, folder, options.device)
        more: dict[str, Any] = {}
        model = "video_transformer"
        if options.kind in ("clip", "xclip"):
            model = "zero_shot"
            (folder / "one.txt").write_text("{}")
            more = {"actions": ",".join(ACTIONS), "templates": str(folder / "one.txt")}
            more["none_of_these"] = False
        stage: Any = find("recognize", model)(
            options_of("recognize", model)(
                checkpoint=name,
                device=options.device,
                views=options.views,
                stride=1,
                batch=options.batch,
                **more,
            )
        )
        stage.fetch()
        stage.open(Context(threads=options.threads))
    clips = [_clip(n, count * options.views) for n in range(options.clips)]
    for clip in clips[:1]:
        wanted = [loop(part) for part in np.split(clip.images.copy(), options.views)]
        assert np.abs(stage.process(clip).score - wanted).max() <= SAME

    def ours() -> None:
        for clip in clips:
            stage.process(clip)

    def theirs() -> None:
        for clip in clips:
            for part in np.split(clip.images.copy(), options.views):
                loop(part)

    windows, views = options.clips * options.views, options.views
    what = f"{options.kind}, windows of {count} frames of 640x360, {views} a clip; s a window"
    faster = against_loop(ours, theirs, repeats=options.repeats, count=windows, what=what)
    sys.exit(0 if faster >= (1.3 if windows > 1 else 1.0) else 1)


def _clip(seed: int, count: int) -> Frames:
    images = [cv2.resize(image, (640, 360)) for image in tour(seed).images[:count]]
    return clip_of(np.stack([images[t % len(images)] for t in range(count)]))


if __name__ == "__main__":
    main()
