"""End-point error and CPU time of each flow model, on RubberWhale and on a rendered room.

    python benchmarks/flow.py [--repeats 5] [--size 640x360]

RubberWhale (Middlebury) is read from ../shared/data/flow-rubberwhale and left out where that is
absent. The room is `tests/scenes`' tour at 640x360: pairs two frames apart (some 6 px of motion),
scored where the point stays visible. CPU time is that of one pair at that size with the way back
and the confidence, single-threaded, the median over the repetitions; the peer is OpenCV's Farnebäck
without either. `sure` is the share of the flow with confidence above one half, and the error there.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.contract import Context, Frames
from pipeline.contract.stage import find, options_of
from tests.support.paths import DATA
from tests.support.scenes import tour

WHALE = DATA / "flow-rubberwhale"
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dis", {"preset": "ultrafast"}),
    ("dis", {"preset": "fast"}),
    ("dis", {"preset": "medium"}),
    ("farneback", {}),
    ("lucas_kanade", {}),
)
Image = npt.NDArray[np.uint8]
Pair = tuple[Image, Image, npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""First and second image, true flow, and where it is known."""


def whale() -> list[Pair]:
    if not WHALE.is_dir():
        return []
    raw = (WHALE / "RubberWhale.flo").read_bytes()
    width, height = struct.unpack("<ii", raw[4:12])
    flow = np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2)
    first, second = (
        np.asarray(cv2.imread(str(WHALE / f"RubberWhale{n}.png")), np.uint8)[..., ::-1]
        for n in (1, 2)
    )
    return [(first, second, flow, (np.abs(flow) < 1e8).all(axis=-1))]


def room(width: int, height: int) -> list[Pair]:
    truth = tour(0, width=width, height=height)
    pairs: list[Pair] = []
    for i in (45, 75, 110, 160, 220, 270):
        flow, visible = truth.flow_and_visible(i, i + 2)
        pairs.append((truth.images[i], truth.images[i + 2], flow, visible))
    return pairs


def clip(first: Image, second: Image) -> Frames:
    return Frames(
        clip="pair/0-1",
        images=np.stack([first, second]),
        pts_ns=np.array([0, 66_666_667]),
        index=np.array([0, 1]),
        sharpness=np.ones(2, np.float32),
    )


def cpu_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    spent: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        spent.append(1000 * (time.process_time() - start))
    return statistics.median(spent)


def peer_ms(pairs: list[Pair], repeats: int) -> float:
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pairs[0][:2])

    def call() -> object:
        return cv2.calcOpticalFlowFarneback(first, second, np.empty(0), 0.5, 4, 15, 3, 7, 1.5, 0)

    return cpu_ms(call, repeats)


def score(model: Any, pairs: list[Pair]) -> tuple[float, float, float]:
    """Return the mean error px, the share with confidence above 1/2, and the error there."""
    errors: list[npt.NDArray[np.float32]] = []
    trust: list[npt.NDArray[np.float32]] = []
    for first, second, flow, known in pairs:
        motion = model.process(clip(first, second))
        there = known & np.isfinite(motion.flow[0, ..., 0])
        errors.append(np.linalg.norm(motion.flow[0] - flow, axis=-1)[there])
        trust.append(motion.confidence[0][there])
    error, sure = np.concatenate(errors), np.concatenate(trust) > 0.5
    return float(error.mean()), float(sure.mean()), float(error[sure].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", default="640x360", help="size of the rendered room")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    width, height = map(int, arguments.size.split("x"))
    for title, pairs in (("RubberWhale", whale()), (f"room {arguments.size}", room(width, height))):
        if not pairs:
            print(f"{title}: left out, {WHALE} is absent")
            continue
        against = peer_ms(pairs, arguments.repeats)
        print(f"{title}: peer, OpenCV Farnebäck one way: {against:.1f} CPU-ms")
        print(f"  {'model':<16}{'EPE px':>8}{'sure':>7}{'EPE sure':>10}{'CPU-ms':>8}{'x peer':>8}")
        for name, options in MODELS:
            model = find("flow", name)(options_of("flow", name)(**options))
            model.open(Context(threads=1))
            error, sure, error_sure = score(model, pairs)
            frames = clip(*pairs[0][:2])
            spent = cpu_ms(
                lambda model=model, frames=frames: model.process(frames), arguments.repeats
            )
            label = " ".join([name, *options.values()])
            print(
                f"  {label:<16}{error:>8.3f}{sure:>7.0%}{error_sure:>10.3f}"
                f"{spent:>8.1f}{spent / against:>8.2f}"
            )


if __name__ == "__main__":
    main()
