"""One tensor from one actor to another: a packed message against Ray's own way with a torch tensor.

    python -m benchmarks.hop [--repeats 7] [--hops 40] [--frames 1 8]

A maker gives 1080p pictures to a taker, which has them as a torch tensor and looks at one pixel;
the driver passes the reference on and waits for the taker's answer. `tensor` returns the tensor
and takes it as Ray hands it over; `ours` packs a `Frames` message as the runner's workers do, and
the taker makes its tensor of what `unpack` gives. The checksums at the taker are compared first.
Bars: 3 times faster at 1 frame, 10 times at 8. A tensor that the maker's stage got and hands on
(`handed on`) is not stored again; it is shown beside, without a bar.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

from benchmarks.batches import Buffer, checksum
from benchmarks.on_ray import cluster
from benchmarks.rounds import Spread, alternate, ratio
from pipeline.worker import ForwardedArray
from pipeline.worker.serialization import pack, unpack

BARS = {1: 3.0, 8: 10.0}
WARM = 5


class Maker:
    """Holds the pictures."""

    def __init__(self, frames: int) -> None:
        self._buffer = Buffer(frames)

    def tensor(self, number: int) -> Any:
        """Return the batch as a tensor."""
        import torch

        return torch.from_numpy(self._buffer.images(number))

    def packed(self, number: int) -> Any:
        """Return the batch as the runner's workers do."""
        item, arrays = pack(self._buffer.batch(number), ())
        return (item, *arrays)

    def hand_on(self, item: Any, images: Any) -> Any:
        """Return what a stage makes of a batch that it hands on: nothing new is stored."""
        message = unpack(item, (images,))
        recompute, arrays = pack(message, (images,))
        assert isinstance(arrays[0], ForwardedArray)
        return recompute


class Taker:
    """Has the pictures as a tensor."""

    def tensor(self, images: Any, check: bool) -> tuple[int, int]:
        """Look at one pixel, and at all when asked."""
        return int(images[0, 0, 0, 0]), checksum(images.numpy()) if check else 0

    def packed(self, item: Any, images: Any, check: bool) -> tuple[int, int]:
        """Do the same with a message."""
        import torch

        message: Any = unpack(item, (images,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has no tensors that cannot be written to
            return self.tensor(torch.from_numpy(message.images), check)


def measure(frames: int, options: argparse.Namespace) -> bool:
    """Compare, run the rounds, print a row; say whether the bar is reached."""
    import ray

    remote: Any = ray.remote(num_cpus=0)
    maker, taker = remote(Maker).remote(frames), remote(Taker).remote()
    packed = maker.packed.options(num_returns=2)

    def plain(number: int, check: bool = False) -> tuple[int, int]:
        return ray.get(taker.tensor.remote(maker.tensor.remote(number), check))

    def ours(number: int, check: bool = False) -> tuple[int, int]:
        item, images = packed.remote(number)
        return ray.get(taker.packed.remote(item, images, check))

    here = packed.remote(1)

    def handed_on(number: int, check: bool = False) -> tuple[int, int]:
        item = maker.hand_on.remote(*here)
        return ray.get(taker.packed.remote(item, here[1], check))

    ways = {"tensor": plain, "ours": ours, "handed on": handed_on}
    sums = {name: way(1, True) for name, way in ways.items()}
    assert len(set(sums.values())) == 1, f"not the same pixels: {sums}"

    def seconds(way: Any) -> float:
        for number in range(WARM):
            way(number)
        began = time.perf_counter()
        for number in range(options.hops):
            way(number)
        return (time.perf_counter() - began) / options.hops

    rounds = alternate(
        {name: lambda way=way: seconds(way) for name, way in ways.items()}, options.repeats
    )
    faster = ratio(rounds["tensor"], rounds["ours"])
    row = [f"{frames} x 1080p"]
    row += [str(Spread(tuple(1000 * s for s in rounds[name]))) for name in ways]
    print("| " + " | ".join([*row, str(faster), str(BARS.get(frames, "–"))]) + " |", flush=True)
    for actor in (maker, taker):
        ray.kill(actor)
    return faster.middle >= BARS.get(frames, 0.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--hops", type=int, default=40)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    print(f"Ray {version('ray')}, torch {version('torch')}; ms a hop, median (spread)")
    print("| | torch tensor | ours | handed on | ours faster | bar |")
    print("|---|---|---|---|---|---|")
    with cluster():
        fine = [measure(frames, options) for frames in options.frames]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
