"""CPU time for each wanted frame: decode/pyav against naive PyAV seeking, decord and torchcodec.

    python benchmarks/decode.py [--repeats 5] [--seconds 30] [--threads 1]

Makes its own video (1280x720, H.264 with B-frames, a textured pan with noise), once with a
keyframe every 30 frames and once every 300, and takes 2 and 0.2 frames a second from each, at
full size as RGB. Opening and indexing the file count. All readers run in this process, with the
same number of threads, in turn; the figure is the median over the repetitions. The frames of every
reader are compared with a full decode first. Peers that are not installed are left out, with the
reason. Exits 1 where ours costs more than the best peer.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from pipeline.contract import Context, Source
from stages.decode.pyav import Config, Model

Images = list[npt.NDArray[np.uint8]]
Reader = Callable[[Path, list[int], int], Images]

WIDTH, HEIGHT, FPS = 1280, 720, 30
GOPS = (30, 300)
RATES = (2.0, 0.2)
PHASE = 11
"""First wanted frame: off the keyframes, so that no reader is favored by chance."""
SAME = 3
"""Gray levels by which roundings of swscale's versions may differ."""


def make_video(path: Path, seconds: float, gop: int) -> None:
    """Encode a handheld pan over a textured plane, about 4 Mbit/s."""
    generator = np.random.default_rng(0)
    texture = np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.float32)
    for octave in range(2, 11):
        size = (2**octave, 2**octave * 9 // 16 + 1)
        layer = generator.normal(0, 160 / octave**1.3, (*size[::-1], 3)).astype(np.float32)
        texture += cv2.resize(layer, (WIDTH * 2, HEIGHT * 2), interpolation=cv2.INTER_CUBIC)
    plane = np.clip(texture + 110, 0, 255).astype(np.uint8)
    grain = generator.normal(0, 6, (HEIGHT * 2, WIDTH * 2, 1)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        stream.options = {
            "preset": "veryfast", "b": "4M", "bf": "3", "x264-params":
            f"keyint={gop}:min-keyint={gop}:scenecut=0",
        }  # fmt: skip
        for i in range(round(seconds * FPS)):
            t = i / FPS
            x = 320 + 250 * np.sin(0.3 * t) + 3 * np.sin(9 * t)
            y = 180 + 120 * np.sin(0.23 * t) + 2 * np.sin(11 * t)
            turn = cv2.getRotationMatrix2D((WIDTH, HEIGHT), 4 * np.sin(0.2 * t), 1.0)
            turn[:, 2] -= (x, y)
            view = cv2.warpAffine(plane, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
            row, column = generator.integers(0, (HEIGHT, WIDTH))
            noise = grain[row : row + HEIGHT, column : column + WIDTH]
            noisy = np.clip(view + noise, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode(None))


def ours(path: Path, wanted: list[int], threads: int) -> Images:
    """decode/pyav."""
    model = Model(Config(max_side=WIDTH))
    model.open(Context(threads=threads))
    reader = model.process(Source(uri=str(path), shown=path.name, name="bench"))
    images = [picture.rgb() for picture in reader.frames_at(wanted)]
    reader.close()
    return images


def naive(path: Path, wanted: list[int], threads: int) -> Images:
    """Seek to the keyframe before each wanted frame and decode up to it."""
    images = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = threads
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        for index in wanted:
            pts = round(index / FPS / stream.time_base)
            container.seek(pts, stream=stream)
            for frame in container.decode(stream):
                if frame.pts >= pts:
                    images.append(frame.to_ndarray(format="rgb24", threads=threads))
                    break
    return images


def decord_batch(path: Path, wanted: list[int], threads: int) -> Images:
    """Call get_batch of decord."""
    decord = importlib.import_module("decord")
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=threads)
    return list(reader.get_batch(wanted).asnumpy())


def torchcodec_batch(path: Path, wanted: list[int], threads: int) -> Images:
    """Call get_frames_at of torchcodec."""
    decoders = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(
        str(path), dimension_order="NHWC", num_ffmpeg_threads=threads, device="cpu"
    )
    return list(decoder.get_frames_at(wanted).data.numpy())


def present(path: Path, threads: int) -> dict[str, Reader]:
    """Return the readers that work here, ours first."""
    readers: dict[str, Reader] = {"reel3d": ours, "naive seek": naive}
    peers: dict[str, Reader] = {"decord": decord_batch, "torchcodec": torchcodec_batch}
    for name, reader in peers.items():
        try:
            reader(path, [0], threads)
            readers[name] = reader
        except Exception as error:  # a wheel that does not load fails in many ways
            print(f"{name} is left out: {str(error).strip().splitlines()[0]}")
    return readers


def check(readers: dict[str, Reader], path: Path, wanted: list[int], threads: int) -> None:
    """Compare the frames of all readers with a full decode."""
    truth: Images = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                truth.append(frame.to_ndarray(format="rgb24"))
    for name, reader in readers.items():
        images = reader(path, wanted, threads)
        worst = max(
            int(np.abs(a.astype(np.int16) - b).max()) for a, b in zip(images, truth, strict=True)
        )
        if worst > SAME:
            sys.exit(f"{name} delivers other frames: they differ by up to {worst} gray levels")


def measure(
    readers: dict[str, Reader], path: Path, wanted: list[int], threads: int, repeats: int
) -> dict[str, float]:
    """Return the median CPU time in ms for each wanted frame."""
    spent: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats):
        names = list(readers)
        # No reader always follows the same neighbor.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            start = time.process_time()
            readers[name](path, wanted, threads)
            spent[name].append((time.process_time() - start) / len(wanted) * 1e3)
    return {name: statistics.median(times) for name, times in spent.items()}


def main() -> int:
    """Run all cells and print a table."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--seconds", type=float, default=30.0)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--folder", type=Path, help="keep the videos here")
    given = words.parse_args()
    cv2.setNumThreads(1)
    readers: dict[str, Reader] = {}
    worse = False
    with tempfile.TemporaryDirectory() as temporary:
        folder: Any = given.folder or Path(temporary)
        rows = []
        for gop in GOPS:
            path = folder / f"gop{gop}.mp4"
            if not path.exists():
                make_video(path, given.seconds, gop)
            readers = readers or present(path, given.threads)
            rate = path.stat().st_size * 8 / given.seconds / 1e6
            print(f"{path.name}: {given.seconds:g} s of {WIDTH}x{HEIGHT}, {rate:.1f} Mbit/s")
            for fps in RATES:
                wanted = list(range(PHASE, round(given.seconds * FPS), round(FPS / fps)))
                check(readers, path, wanted, given.threads)
                times = measure(readers, path, wanted, given.threads, given.repeats)
                best = min(t for name, t in times.items() if name != "reel3d")
                worse |= times["reel3d"] > best
                rows.append((f"GOP {gop}, {fps:g} fps", times, times["reel3d"] / best))
    print(f"\nCPU ms for each wanted frame, {given.threads} thread(s), median of {given.repeats}")
    print(f"{'':16}" + "".join(f"{name:>12}" for name in readers) + f"{'ours/best':>12}")
    for name, times, ratio in rows:
        print(f"{name:16}" + "".join(f"{times[r]:12.2f}" for r in readers) + f"{ratio:12.2f}")
    return int(worse)


if __name__ == "__main__":
    raise SystemExit(main())
