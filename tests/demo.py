"""`make demo`: film a rendered room, run reel3d on the film, and hold the result to the truth."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.cli.main import main
from tests.support.judge import Verdict, judge
from tests.support.scenes import Truth, encode, tour

RUNS = Path("runs")


def film(path: Path, seed: int) -> Truth:
    """Render the tour of a room and encode it to H.264."""
    truth = tour(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, truth.images)
    return truth


def table(verdict: Verdict) -> Table:
    """Lay out figures beside what they are held to."""
    rows = Table(title="Against the exact truth of the rendered film", title_justify="left")
    rows.add_column("measured", no_wrap=True)
    rows.add_column("value", justify="right")
    rows.add_column("bar", justify="right")

    def add(name: str, value: float | None, unit: str, bar: float, *, most: bool) -> None:
        if value is None:
            rows.add_row(name, "[red]not made[/]", "")
            return
        good = value <= bar if most else value >= bar
        color = "green" if good else "red"
        limit = f"{'≤' if most else '≥'} {bar:g} {unit}".strip()
        rows.add_row(name, f"[{color}]{value:.3g} {unit}[/]".replace(" [/]", "[/]"), limit)

    path, cloud = verdict.trajectory, verdict.cloud
    posed = verdict.keyframes_posed
    epe = verdict.flow_epe_px
    rows.add_row("flow, end-point error", "not made" if epe is None else f"{epe:.2f} px", "")
    add("keyframes posed", None if posed is None else 100 * posed, "%", 95, most=False)
    add("trajectory error", path and path.percent, "% of the path", 0.1, most=True)
    add("depth, AbsRel", verdict.depth_abs_rel, "", 0.03, most=True)
    known = verdict.depth_known
    add("depth, pixels known", None if known is None else 100 * known, "%", 60, most=False)
    add("cloud, F-score at 5 cm", cloud and cloud.f, "", 0.7, most=False)
    for name, score in (("camera events", verdict.camera), ("object events", verdict.objects)):
        if score is not None:
            add(f"{name} found, IoU ≥ 0.5", 100 * score.found, "%", 100, most=False)
            add(f"{name}, right label", 100 * score.right, "%", 90, most=False)
    return rows


def demo(arguments: Sequence[str] = ()) -> int:
    """Run the demo; return the exit code of the run."""
    console = Console()
    console.print("rendering 10 s of a room, filmed by hand ...")
    truth = film(RUNS / "demo.mp4", seed=0)
    shutil.rmtree(RUNS / "demo", ignore_errors=True)
    words = ["run", str(RUNS / "demo.mp4"), "--out", str(RUNS / "demo")]
    words += ["export.depth_png=on", "export.flo=on", "export.flo.every=8", *arguments]
    code = main(words)
    if code in (0, 4):
        console.print(table(judge(RUNS / "demo", truth)))
        console.print("look at it: .venv/bin/reel3d view runs/demo, or open runs/demo/report.html")
    return code


if __name__ == "__main__":
    sys.exit(demo(sys.argv[1:]))
