"""pose/learned against the documented loops of kornia and transformers, in the same process.

    python -m benchmarks.matchers [--repeats 5] [--frames 4] [--overlap 3] [--side 640]
        [--threads 1] [--keypoints 512] [--only disk aliked xfeat superpoint efficient_loftr]

Frames of a rendered tour, reduced to the given longest side, and every pair of neighbors up to the
overlap; random weights, which take as long as learned ones. `loop` is what the pages of the
libraries show: for each pair, look at both pictures, then match (LightGlue for kornia's features
and SuperPoint; EfficientLoFTR by itself); both with the same number of threads. The matches are
compared first; EfficientLoFTR's by their scores, since transformers refines other cells together
than it matched. Bar: 1.3 times as fast.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import kornia.feature
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from benchmarks.rounds import against_loop
from pipeline.contract import Context, Keyframes
from stages.pose._kornia import glue_configuration
from stages.pose.learned import Config, Model
from tests.support.scenes import tour

BAR = 1.3
KORNIA = ("disk", "aliked", "xfeat")
Pairs = list[tuple[int, int]]
Places = list[np.ndarray]
"""For each pair the places that match, [M, 4] px, in an order of their own."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keypoints", type=int, default=512)
    parser.add_argument("--only", nargs="*", default=[*KORNIA, "superpoint", "efficient_loftr"])
    options = parser.parse_args()
    images = np.stack([_reduced(image, options.side) for image in tour(0).images[::4]])
    images = images[: options.frames]
    count = len(images)
    pairs = [
        (i, j) for i in range(count) for j in range(i + 1, min(count, i + 1 + options.overlap))
    ]
    height, width = images.shape[1:3]
    print(f"{count} frames of {width}x{height}, {len(pairs)} pairs; {options.threads} thread(s)")
    slow = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            build = _kornia if name in KORNIA else _transformers
            stage, loop = build(name, Path(folder), images, options.keypoints, options.threads)
        torch.set_num_threads(options.threads)
        ours = _ours(stage, images, options.keypoints)
        if name != "efficient_loftr":
            _same(name, ours(pairs), loop(pairs))

        faster = against_loop(
            partial(ours, pairs),
            partial(loop, pairs),
            repeats=options.repeats,
            count=len(pairs),
            what=f"{name}; CPU s a pair",
            clock=time.process_time,
        )
        slow += [name] if faster < BAR else []
    sys.exit(f"below {BAR}: {', '.join(slow)}" if slow else 0)


def _ours(stage: Model, images: np.ndarray, most: int) -> Callable[[Pairs], Places]:
    front_end = stage.front_end
    count = len(images)
    what = Keyframes(
        images=images,
        pts_ns=np.arange(count) * 100_000_000,
        index=np.arange(count),
        sharpness=np.ones(count, np.float32),
        shot=np.zeros(count, np.int32),
        parallax_px=np.full(count, np.nan, np.float32),
    )

    def run(pairs: Pairs) -> Places:
        features: Any = []
        if front_end.detects:
            features = front_end.describe(what, most, lambda i: None)
        else:
            # SIFT chooses the pairs, which the loop is given as well.
            front_end._most = most
        features, matched = front_end.match(what, features, pairs)
        return [
            np.concatenate(
                [features[m.i].xy[m.matches[:, 0]], features[m.j].xy[m.matches[:, 1]]], axis=1
            )
            for m in matched
        ]

    return run


def _kornia(
    name: str, folder: Path, images: np.ndarray, most: int, threads: int
) -> tuple[Model, Callable[[Pairs], Places]]:
    torch.manual_seed(0)
    network: Any = {
        "disk": kornia.feature.DISK,
        "aliked": lambda: kornia.feature.ALIKED(max_num_keypoints=most),
        "xfeat": kornia.feature.XFeat,
    }[name]().eval()
    inside = network.net if name == "xfeat" else network
    if name == "xfeat":
        # Random scores lie below its threshold.
        inside.keypoint_head[-1].weight.data.mul_(40)
    glue = kornia.feature.LightGlue(None, **glue_configuration(name)).eval()
    save_file(inside.state_dict(), folder / "features.safetensors")
    save_file(glue.state_dict(), folder / "glue.safetensors")
    stage = _opened(
        threads,
        features=name,
        keypoints=most,
        weights=str(folder / "features.safetensors"),
        matcher_weights=str(folder / "glue.safetensors"),
    )
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    size = torch.tensor([[images.shape[2], images.shape[1]]])
    center = np.tile(
        stage.front_end._detector.image_transform((images.shape[2], images.shape[1])).center, 2
    )

    def look(image: Any) -> tuple[Any, Any]:
        if name == "xfeat":
            (found,) = network.detectAndCompute(image, top_k=most)
            return found["keypoints"], found["descriptors"]
        how = {"n": most, "pad_if_not_divisible": True} if name == "disk" else {}
        (found,) = network(image, **how)
        return found.keypoints, found.descriptors

    @torch.inference_mode()
    def loop(pairs: Pairs) -> Places:
        places = []
        for pair in pairs:
            a, b = (look(pictures[k : k + 1]) for k in pair)
            told = glue(
                {
                    f"image{n}": {
                        "keypoints": xy[None],
                        "descriptors": descriptors[None],
                        "image_size": size,
                    }
                    for n, (xy, descriptors) in enumerate((a, b))
                }
            )
            rows = told["matches"][0]
            places.append(torch.cat([a[0][rows[:, 0]], b[0][rows[:, 1]]], 1).numpy() + center)
        return places

    return stage, loop


def _transformers(
    name: str, folder: Path, images: np.ndarray, most: int, threads: int
) -> tuple[Model, Callable[[Pairs], Places]]:
    torch.manual_seed(0)
    height, width = (length // 32 * 32 for length in images.shape[1:3])
    size = {"height": height, "width": width}
    if name == "superpoint":
        config = transformers.LightGlueConfig()
        config.keypoint_detector_config.max_keypoints = most
        network: Any = transformers.LightGlueForKeypointMatching(config)
        for layer in network.keypoint_detector.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
        processor: Any = transformers.LightGlueImageProcessor(size=size)
        chosen: dict[str, Any] = {"features": "superpoint"}
    else:
        config = transformers.EfficientLoFTRConfig(coarse_matching_threshold=0.0)
        network = transformers.EfficientLoFTRForKeypointMatching(config)
        processor = transformers.EfficientLoFTRImageProcessor(size=size)
        chosen = {"matcher": "efficient_loftr"}
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    stage = _opened(threads, checkpoint=str(folder), keypoints=most, **chosen)
    scale = torch.tensor([images.shape[2], images.shape[1]])
    center = np.tile([images.shape[2] / width / 2, images.shape[1] / height / 2], 2)

    @torch.inference_mode()
    def loop(pairs: Pairs) -> Places:
        places = []
        for i, j in pairs:
            told = network(**processor([images[i], images[j]], return_tensors="pt"))
            processor.post_process_keypoint_matching(told, [[images.shape[1:3]] * 2])
            if name == "superpoint":
                rows = torch.nonzero(told.matches[0, 0] > -1)[:, 0]
                ends = (rows, told.matches[0, 0][rows].long())
            else:
                rows = torch.nonzero(told.matches[0, 1] > -1)[:, 0]
                ends = (rows, rows)
            xy = [told.keypoints[0, n][rows] * scale for n, rows in enumerate(ends)]
            places.append(torch.cat(xy, 1).numpy() + center)
        return places

    if name == "efficient_loftr":
        _same_scores(stage, network, processor, images)
    return stage, loop


@torch.inference_mode()
def _same_scores(stage: Model, network: Any, processor: Any, images: np.ndarray) -> None:
    matcher: Any = stage.front_end._matcher
    grid = matcher.image_transform((images.shape[2], images.shape[1]))
    _, _, ours = matcher.pair(*matcher.extract(images[:2]), grid)
    told = network(**processor([images[0], images[1]], return_tensors="pt"))
    theirs = told.matching_scores[0, 1][told.matches[0, 1] > -1].numpy()
    assert len(ours) == len(theirs) > 0
    assert np.abs(ours - theirs).max() <= 1e-5


def _opened(threads: int, **chosen: Any) -> Model:
    stage = Model(Config(device="cpu", **chosen))
    stage.open(Context(threads=threads))
    return stage


def _same(name: str, ours: Places, theirs: Places) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b), (name, len(a), len(b))
        a, b = (rows[np.lexsort(rows.round(1).T)] for rows in (a, b))
        assert not len(a) or np.abs(a - b).max() <= 1e-5 * np.abs(b).max(), name


def _reduced(image: Any, side: int) -> Any:
    scale = side / max(image.shape[:2])
    width, height = (round(length * scale / 16) * 16 for length in (image.shape[1], image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
