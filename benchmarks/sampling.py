"""Four videos sampled at two frames a second: the runner on Ray against Ray Data's `read_videos`.

    python -m benchmarks.sampling [--repeats 7] [--seconds 20]

Four files of 1280x720, H.264, once with a keyframe every 30 frames and once every 300. `ours` is
decode/pyav, sample/fps (2 fps) and a stage that takes the clips, by the runner of
`reel3d run --runner cluster`; `data` is `ray.data.read_videos(fps=2)`, whose blocks stay in the
object store (needs pandas and decord). Both start on a cluster that is up and end when the last
frame lies in the object store. Both find the workers of their round before, and start what they
lack in the first. `decoding` is the CPU time of decode/pyav for the wanted frames alone, one pass a
core at the same time, divided by the cores: no runner can be quicker, and `at best` is how much
faster than `data` it could be. The frames are compared first: the same ones, alike to 3 gray
levels. Bar: 3 times faster, at both keyframe distances.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import on_ray
from benchmarks.decode import FPS as FILM_FPS
from benchmarks.decode import GOPS, SAME, WIDTH, make_video
from benchmarks.rounds import ALONE, Spread, alternate, ratio, side_by_side
from pipeline.contract import Context, Source
from pipeline.contract.stage import find, iterate

BAR = 3.0
FPS = 2
DECODE = on_ray.choose("decode", "pyav", max_side=WIDTH)
SAMPLE = on_ray.choose("sample", "fps", fps=FPS)


def ours(films: list[Path], found: Any) -> float:
    """Return the seconds of a run."""
    chain = (DECODE, SAMPLE, on_ray.choose("relay", "one"))
    sources = [Source(uri=str(film), shown=film.name, name=film.stem) for film in films]
    return on_ray.run_streams(sources, chain, found).whole_s


def data(films: list[Path]) -> float:
    """Return the seconds of Ray Data."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    began = time.perf_counter()
    rows = 0
    dataset: Any = ray.data.read_videos([str(film) for film in films], fps=FPS)
    for bundle in dataset.iter_internal_ref_bundles():
        rows += bundle.num_rows()
    assert rows
    return time.perf_counter() - began


def decoding(films: list[Path], seconds: float) -> float:
    """Return the CPU seconds for which decoding keeps every core busy."""
    cores = len(os.sched_getaffinity(0))
    told = side_by_side(
        "benchmarks.sampling", ((seconds, *films[core::cores]) for core in range(cores))
    )
    return sum(map(float, told)) / cores


def decode_alone(seconds: float, films: list[str]) -> float:
    """Decode the wanted frames of films, and do nothing with them; return the CPU seconds."""
    wanted = list(range(0, round(seconds * FILM_FPS), FILM_FPS // FPS))
    decode: Any = find(DECODE.step, DECODE.model)(DECODE.options)
    decode.open(Context(threads=1))
    began = time.process_time()
    for film in films:
        reader = decode.process(Source(uri=film, shown=film, name="film"))
        assert sum(1 for _ in reader.frames_at(wanted)) == len(wanted)
        reader.close()
    spent = time.process_time() - began
    decode.close()
    return spent


def compare(film: Path) -> int:
    """Compare the frames of one film; return how many there are."""
    import ray.data

    stages: list[Any] = [find(c.step, c.model)(c.options) for c in (DECODE, SAMPLE)]
    for stage in stages:
        stage.open(Context(threads=1))
    reader = stages[0].process(Source(uri=str(film), shown=film.name, name=film.stem))
    clips: list[Any] = list(iterate(stages[1].process(reader)))
    images = np.concatenate([clip.images[clip.overlap :] for clip in clips])
    index = np.concatenate([clip.index[clip.overlap :] for clip in clips])
    for stage in reversed(stages):
        stage.close()
    dataset: Any = ray.data.read_videos([str(film)], fps=FPS)
    rows = sorted(dataset.iter_rows(), key=lambda row: row["frame_index"])
    theirs = [row["frame_index"] for row in rows]
    assert index.tolist() == theirs, f"other frames: {index.tolist()} and {theirs}"
    for mine, row in zip(images, rows, strict=True):
        apart = int(np.abs(mine.astype(np.int16) - row["frame"]).max())
        assert apart <= SAME, f"frame {row['frame_index']} differs by {apart} gray levels"
    return len(rows)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == [ALONE]:
        print(decode_alone(float(sys.argv[2]), sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    fine = True
    print(f"Ray {version('ray')}, decord {version('decord')}; s for 4 videos, median (spread)")
    print("| | ours | read_videos | decoding | ours faster | at best | bar |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, on_ray.cluster() as found:
        for gop in GOPS:
            films = [Path(folder) / f"gop{gop}-{number}.mp4" for number in range(4)]
            make_video(films[0], options.seconds, gop)
            for film in films[1:]:
                film.write_bytes(films[0].read_bytes())
            compare(films[0])
            ways = {
                "ours": lambda f=films: ours(f, found),
                "data": lambda f=films: data(f),
                "decoding": lambda f=films: decoding(f, options.seconds),
            }
            rounds = alternate(ways, options.repeats)
            faster = ratio(rounds["data"], rounds["ours"])
            spreads = [str(Spread(tuple(rounds[name]))) for name in ways]
            best = ratio(rounds["data"], rounds["decoding"])
            row = [f"keyframe every {gop}", *spreads, str(faster), str(best), str(BAR)]
            print("| " + " | ".join(row) + " |", flush=True)
            fine &= faster.middle >= BAR
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
