"""flow/raft against torchvision's documented loop over pairs, both ways, in the same process.

    python -m benchmarks.raft [--repeats 7] [--size small] [--frames 8] [--side 320] [--threads 1]

A clip of so many frames of a rendered room, reduced to the given longest side; random weights,
which take as long as learned ones. `loop` is torchvision's own page: transforms, then the model,
pair by pair, there and back; both with the same number of threads. The flows are compared first,
to 1e-5 of the largest. Bar: 1.3 times as fast (1.0 for a clip of two frames).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torchvision.models import optical_flow

from benchmarks.rounds import against_loop
from pipeline.contract import Context
from stages.flow.raft import Config, Model
from tests.support.motions import clip_of
from tests.support.scenes import tour

BAR = 1.3
SAME = 1e-5


@torch.inference_mode()
def loop(network: Any, images: Any) -> list[Any]:
    """Return the flows there and back of every pair, [H, W, 2] px."""
    transforms = optical_flow.Raft_Small_Weights.DEFAULT.transforms()
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    flows: list[Any] = []
    for t in range(len(images) - 1):
        for a, b in ((t, t + 1), (t + 1, t)):
            pair = transforms(tensors[a : a + 1], tensors[b : b + 1])
            flows.append(network(*pair)[-1][0].permute(1, 2, 0).numpy())
    return flows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    build = optical_flow.raft_small if options.size == "small" else optical_flow.raft_large
    network: Any = build(weights=None).eval()
    images = np.stack([_reduced(image, options.side) for image in tour(0).images[: options.frames]])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raft.safetensors"
        save_file(network.state_dict(), path)
        stage = Model(Config(size=options.size, weights=str(path), device="cpu"))
        stage.open(Context(threads=options.threads))
    clip = clip_of(images)
    wanted = loop(network, images)
    found = [flow for pair in stage._both_ways(images) for flow in pair]
    apart = max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))
    assert apart <= SAME * max(float(np.abs(flow).max()) for flow in wanted), apart

    height, width = images.shape[1:3]
    faster = against_loop(
        lambda: stage.process(clip),
        lambda: loop(network, images),
        repeats=options.repeats,
        count=options.frames - 1,
        what=f"raft_{options.size}, {options.frames} frames of {width}x{height}; CPU s a pair, "
        "both ways (ours with the confidence)",
        clock=time.process_time,
    )
    bar = BAR if options.frames > 2 else 1.0
    sys.exit(0 if faster >= bar else 1)


def _reduced(image: Any, side: int) -> Any:
    scale = side / max(image.shape[:2])
    width, height = (round(length * scale / 8) * 8 for length in (image.shape[1], image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
