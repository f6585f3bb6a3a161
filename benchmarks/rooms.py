"""The whole command on rendered rooms, held to their exact truth.

    python -m benchmarks.rooms [SEED ...]

Films the tour of each room (10 s, 640x360, by hand, one moving ball), runs `reel3d run` with the
default preset and estimated poses, and prints a row a seed from the files of the run folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipeline.cli.main import main
from tests.demo import film
from tests.support.judge import judge

OPTIONS = ("--quiet", "export.depth_png=on", "export.flo=on", "export.flo.every=8")
# `splats` measures those.
OPTIONS += ("splat.model=none",)


def run_all(seeds: list[int]) -> None:
    """Print the table."""
    heads = ("seed", "EPE px", "posed", "ATE % of path", "depth AbsRel", "known", "F at 5 cm")
    heads += ("camera found", "right label", "object found")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="reel3d-rooms-") as folder:
        for seed in seeds:
            path, out = Path(folder) / f"{seed}.mp4", Path(folder) / f"run-{seed}"
            truth = film(path, seed)
            main(["run", str(path), "--out", str(out), *OPTIONS])
            verdict = judge(out, truth)
            cells = [f"{seed}", f"{verdict.flow_epe_px:.2f}"]
            if verdict.trajectory is None or verdict.cloud is None:
                cells += ["not reconstructed"] + [""] * 4
            else:
                cells += [
                    f"{100 * (verdict.keyframes_posed or 0):.0f} %",
                    f"{verdict.trajectory.percent:.3f}",
                    f"{verdict.depth_abs_rel:.4f}",
                    f"{100 * (verdict.depth_known or 0):.0f} %",
                    f"{verdict.cloud.f:.2f}",
                ]
            for score, shown in (
                (verdict.camera, ("found", "right")),
                (verdict.objects, ("found",)),
            ):
                cells += [f"{100 * getattr(score, name):.0f} %" for name in shown]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    run_all([int(word) for word in sys.argv[1:]] or [0, 1, 2])
