"""A live camera through the whole command: lost frames, delay of events, restarts.

    python -m benchmarks.camera [--runner local|cluster] [--seconds 60] [--restarts 5]

A server in a process of its own plays a rendered tour of a room over and over (640x360, 30 fps,
H.264) as a camera would. `reel3d watch` follows it with flow and action on, and prints

- how many frames came and were dropped (bar: below 1 %);
- how long after its end an event stands in events.jsonl, and after the end of the clip in which
  it ends (bar: 3 s);
- how long no frame came around each of the restarts of the server, from the last frame before to
  the first after, the server's own absence taken off (bar: 5 s), and whether the run folder is
  whole: every artifact there with its checksum.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.storage import RunFolder
from tests.support.paths import ROOT
from tests.support.rtsp_server import Loopback
from tests.support.scenes import encode, tour

DOWN_S = 1.0
"""How long the server stays away."""


def watch(url: str, out: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start the command."""
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "watch",
        url,
        "--out",
        str(out),
        "--quiet",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *words], env=environment, stdout=subprocess.DEVNULL)


def began_at(server: Loopback) -> float:
    """Wait until a connection plays; return when that was."""
    assert server.process is not None
    assert server.process.stdout is not None
    word, _, at = server.process.stdout.readline().split()
    assert word == "PLAY"
    return float(at)


def seen_events(out: Path, command: subprocess.Popen[bytes]) -> dict[tuple[Any, ...], float]:
    """Read the file of events while the run goes on; return when each was first there."""
    seen: dict[tuple[Any, ...], float] = {}
    while command.poll() is None:
        time.sleep(0.05)
        if not (out / "events.jsonl").is_file():
            continue
        for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            key = event["start_s"], event["end_s"], event["kind"], event["label"]
            seen.setdefault(key, time.time())
    return seen


def decode_figures(out: Path) -> dict[str, Any]:
    """Return what the decoder measured."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return next(stage for stage in manifest["stages"] if stage["step"] == "decode")["metrics"]


def steady(film: Path, out: Path, options: argparse.Namespace) -> None:
    """Follow a camera that does nothing wrong."""
    with Loopback(film, loop=True) as server:
        words = ["--for", str(options.seconds), "--runner", options.runner, *options.words]
        command = watch(server.url(), out, *words)
        start = began_at(server)
        seen = seen_events(out, command)
    said = decode_figures(out)
    print(
        f"{said['stream_s']:.0f} s of 640x360 at 30 fps: {said['received_frames']:.0f} frames, "
        f"{said['dropped_frames']:.0f} dropped ({100 * said['dropped_share']:.2f} %), "
        f"exit code {command.returncode}"
    )
    table = pq.read_table(out / "frames.parquet").to_pydict()
    ends: dict[str, float] = dict(zip(table["clip"], table["pts_s"], strict=True))
    clip_ends = np.array(sorted(ends.values()))
    # What ends with the stream had no later picture to show that it ended.
    inner = [(end, at) for (_, end, _, _), at in seen.items() if end < clip_ends[-1] - 2]
    after = [at - start - end for end, at in inner]
    clip = [
        at - start - clip_ends[min(np.searchsorted(clip_ends, end), len(clip_ends) - 1)]
        for end, at in inner
    ]
    print(
        f"{len(inner)} events: there {median(after):.2f} s after their end (at most "
        f"{max(after):.2f}), {median(clip):.2f} s after their clip's (at most {max(clip):.2f})"
    )


def restarts(film: Path, out: Path, options: argparse.Namespace) -> None:
    """Kill the server and start it again, several times."""
    away: list[float] = []
    with Loopback(film, loop=True) as server:
        command = watch(server.url(), out, "--runner", options.runner, *options.words)
        began_at(server)
        time.sleep(6)
        for _ in range(options.restarts):
            server.kill()
            gone = time.time()
            time.sleep(DOWN_S)
            server.start()
            away.append(time.time() - gone)
            began_at(server)
            time.sleep(6)
        command.terminate()
        code = command.wait()
    said = decode_figures(out)
    table = pq.read_table(out / "frames.parquet").to_pydict()
    pts, shot = np.array(table["pts_s"]), np.array(table["clip"])
    assert np.all(np.diff(pts) > 0), "times do not rise"
    gaps = sorted(np.diff(pts))[-options.restarts :]
    waits = [gap - down for gap, down in zip(sorted(gaps), sorted(away), strict=True)]
    print(
        f"{options.restarts} restarts: frames again {median(waits):.2f} s after the server was "
        f"back (at most {max(waits):.2f}); {said['segments']:.0f} segments, "
        f"{said['dropped_frames']:.0f} frames dropped, exit code {code}, {len(set(shot))} clips"
    )
    folder = RunFolder(out)
    manifest = folder.manifest()
    assert manifest is not None, "the run folder is not whole"
    listed = [a for a in manifest["artifacts"] if a != folder.describe(a["path"], a["kind"])]
    print(f"run folder: {len(manifest['artifacts'])} artifacts, {len(listed)} damaged or missing")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runner", choices=("local", "cluster"), default="local")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("words", nargs="*", help="options such as splat.model=none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reel3d-camera-") as folder:
        film = Path(folder) / "tour.mp4"
        images = tour(0).images
        # There and back again, so that it loops without a cut.
        encode(film, np.concatenate([images, images[::-1]]))
        steady(film, Path(folder) / "steady", options)
        restarts(film, Path(folder) / "restarts", options)


if __name__ == "__main__":
    main()
