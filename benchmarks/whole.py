"""The whole command on a rendered film: time, memory, and memory of a longer one.

    python -m benchmarks.whole

Films the tour of a room (10 s, 640x360, 30 fps, H.264) and prints, each from a process of its own:

- wall and CPU seconds of `reel3d run` until the run folder is whole, and its peak memory;
- decode-to-action (preset understand): how many seconds of film a second of wall time handles,
  beside the bare decoding of every frame by PyAV in the same run;
- the peak memory of decode-to-action on the film and on ten times the film.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.scenes import encode, tour

BARE = """
import sys, av
with av.open(sys.argv[1]) as c:
    c.streams.video[0].thread_type = "AUTO"
    n = sum(1 for _ in c.decode(video=0))
"""


def timed(words: list[str]) -> tuple[float, float]:
    """Return wall and CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def run(film: Path, out: Path, *options: str) -> tuple[float, float, float]:
    """Return wall s, CPU s and peak GB of one run."""
    words = ["-m", "pipeline.cli", "run", str(film), "--out", str(out), "--quiet", *options]
    wall, cpu = timed(words)
    manifest = json.loads((out / "manifest.json").read_text())
    return wall, cpu, manifest["peak_memory_bytes"] / 1e9


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="reel3d-whole-") as folder:
        short, long = Path(folder) / "tour.mp4", Path(folder) / "long.mp4"
        images = tour(0).images
        encode(short, images)
        # There and back again, so that the longer film has no cuts that the shorter lacks.
        turns = chain.from_iterable(repeat((images, images[::-1]), 5))
        encode(long, (image for part in turns for image in part))
        # numba compiles once, on the first run
        run(short, Path(folder) / "warm", "splat.steps=20")

        for told, options in (("", ()), (" without splats", ("splat.model=none",))):
            wall, cpu, memory = run(short, Path(folder) / f"whole{told}", *options)
            print(f"10 s film, all{told}: {wall:.1f} s wall, {cpu:.1f} s CPU, {memory:.2f} GB")

        understand = ("--preset", "understand", "export.flow_video=none", "report.model=none")
        bare, bare_cpu = timed(["-c", BARE, str(short)])
        wall, cpu, small = run(short, Path(folder) / "u1", *understand)
        print(
            f"decode to action: {wall:.1f} s wall, {cpu:.1f} s CPU: {10 / wall:.1f} x real time "
            f"with start-up (bare PyAV decoding: {bare:.1f} s wall, {bare_cpu:.1f} s CPU)"
        )
        wall, cpu, large = run(long, Path(folder) / "u10", *understand)
        print(f"ten times the film: {wall:.1f} s wall: {100 / wall:.1f} x real time")
        print(f"memory: {small:.3f} GB, ten times the film {large:.3f} GB: {large / small:.2f} x")


if __name__ == "__main__":
    main()
