"""Long films: what a second of film costs, the memory, and the report, up to an hour.

    python -m benchmarks.long [--minutes 1 10 60] [--size 320x180] [--cuts few many] [OPTION ...]

A camera walks fast through rendered rooms (30 fps, H.264): without a cut, to and fro, or with a cut
every 3 s. The shots are rendered and encoded once and their packets are written one after the
other, so that an hour takes seconds to make. Each film is run by `reel3d run --preset understand`
in a process of its own, and a row says

- CPU seconds for a second of film (start-up included), and frames kept;
- peak memory;
- bytes of `report.html`, the seconds it took to make, events and shots of the film;
- what the preview `flow.mp4` took of the time of `flow`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.whole import run
from tests.support.scenes import encode, film
from tests.support.scenes.paths import Segment

FPS = 30
SHOT_S = 3
ROOMS = 8


def shots(size: tuple[int, int], cuts: str) -> list[np.ndarray]:
    """Return the pictures of the shots that a film repeats: 3 s of each room, or to and fro."""
    width, height = size

    def walk(seed: int, *moves: str) -> np.ndarray:
        # Filmed at half the rate, so that the camera goes twice as fast at the full one.
        segments = [Segment(move, SHOT_S) for move in moves]
        return film(segments, seed, width=width, height=height, fps=FPS / 2).images

    if cuts == "few":
        images = walk(0, "truck-right", "pan-left", "truck-left")
        # There and back again: the loop has no cut.
        return [np.concatenate([images, images[::-1]])]
    pairs = (("truck-right", "truck-left"), ("pan-left", "pan-right"), ("dolly-in", "dolly-out"))
    # Every other one as a negative: rooms of one make look alike across a cut.
    return [walk(n, *pairs[n % 3]) ^ np.uint8(255 * (n % 2)) for n in range(ROOMS)]


def write_film(path: Path, images: list[np.ndarray], seconds: float) -> None:
    """Write the shots one after the other until the film is long enough, encoding each once."""
    with tempfile.TemporaryDirectory(prefix="reel3d-shots-") as folder:
        packets: list[list[tuple[bytes, bool]]] = []
        for n, pictures in enumerate(images):
            part = Path(folder) / f"{n}.mp4"
            encode(part, pictures, bframes=0)
            with av.open(str(part)) as shot:
                video = shot.streams.video[0]
                packets.append([(bytes(p), p.is_keyframe) for p in shot.demux(video) if p.size])
        with av.open(str(Path(folder) / "0.mp4")) as shot, av.open(str(path), "w") as whole:
            stream: Any = whole.add_stream_from_template(shot.streams.video[0])
            stream.time_base = Fraction(1, FPS)
            count = 0
            while count < seconds * FPS:
                for payload, key in packets[0]:
                    packet = av.Packet(payload)
                    packet.stream, packet.time_base = stream, Fraction(1, FPS)
                    packet.pts = packet.dts = count
                    packet.duration, packet.is_keyframe = 1, key
                    whole.mux(packet)
                    count += 1
                packets.append(packets.pop(0))


def row(out: Path, seconds: float, cpu: float, memory: float, wall: float) -> str:
    """Return the figures of a run."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    stages = {f"{stage['step']}/{stage['model']}": stage for stage in manifest["stages"]}
    with (out / "events.jsonl").open(encoding="utf-8") as lines:
        kinds = [json.loads(line)["kind"] for line in lines]
    preview, flow = stages["export/flow_video"]["seconds"], stages["flow/dis"]["seconds"]
    kept = stages["sample/adaptive"]["items"]
    return (
        f"{1000 * cpu / seconds:.0f} CPU ms a second of film, {1000 * cpu / kept:.1f} a frame kept "
        f"({kept} kept), {memory:.3f} GB; {len(kinds)} events, {kinds.count('shot')} shots; report "
        f"{(out / 'report.html').stat().st_size / 1e6:.2f} MB in "
        f"{stages['report/html']['seconds']:.1f} s; flow.mp4 {preview / flow:.2f} of flow's time, "
        f"{(out / 'flow.mp4').stat().st_size / 1e6:.1f} MB; {wall:.0f} s wall"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--cuts", nargs="+", choices=("few", "many"), default=["few", "many"])
    parser.add_argument("--runner", choices=("local", "cluster"), default="local")
    parser.add_argument("--keep", type=Path, help="folder where films and runs stay")
    parser.add_argument("words", nargs="*", help="options such as sample.max_fps=5")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    with tempfile.TemporaryDirectory(prefix="reel3d-long-") as temporary:
        folder: Path = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for cuts in options.cuts:
            images = shots((width, height), cuts)
            for minutes in options.minutes:
                path = folder / f"{cuts}-{minutes:g}.mp4"
                began = time.perf_counter()
                write_film(path, images, 60 * minutes)
                made_s = time.perf_counter() - began
                out = folder / f"{cuts}-{minutes:g}"
                words = ("--preset", "understand", "--runner", options.runner, *options.words)
                wall, cpu, memory = run(path, out, *words)
                figures = row(out, 60 * minutes, cpu, memory, wall)
                print(
                    f"{minutes:g} min, {cuts} cuts (made in {made_s:.1f} s): {figures}", flush=True
                )


if __name__ == "__main__":
    main()
