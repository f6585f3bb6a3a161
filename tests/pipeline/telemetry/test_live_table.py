"""The board: what it shows of stages and streams, and how long it says a run will take."""

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from pipeline.contract import Loss
from pipeline.telemetry import live_table as board_module
from pipeline.telemetry.eta import Estimate, TimeLeft
from pipeline.telemetry.listener import ProgressListener
from pipeline.telemetry.live_table import LiveTable
from pipeline.telemetry.live_table_layout import span
from pipeline.telemetry.meter import Meter
from pipeline.telemetry.status import RunStatus, StageStatus, StreamStatus

FLOW = StageStatus(
    name="flow/dis",
    workers=2,
    busy=0.83,
    done=40,
    backlog=3,
    rate_per_s=4.25,
    bytes_in_flight=12_400_000,
    failures=0,
)
POSE = replace(FLOW, name="pose/colmap", busy=0.0, done=0, backlog=0, rate_per_s=0, unit="streams")
FILM = StreamStatus(name="holiday", reached_s=12.3, total_s=60.0, state="running")
GATE = StreamStatus(
    name="gate", reached_s=90.0, total_s=None, state="running", live=True,
    dropped=0.005, dropped_frames=12,
)  # fmt: skip


def status(*streams: StreamStatus, stages: tuple[StageStatus, ...] = (FLOW, POSE)) -> RunStatus:
    return RunStatus(
        stages=stages, streams=streams, bytes_used=120_000_000, bytes_budget=500_000_000, cpus=8
    )


class Screen:
    """A console, and what stands on it."""

    def __init__(self, *, terminal: bool) -> None:
        self._file = io.StringIO()
        self.console = Console(
            file=self._file, force_terminal=terminal, width=110, height=40, color_system=None
        )

    @property
    def text(self) -> str:
        return self._file.getvalue()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes when told so."""
    now = [100.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    monkeypatch.setattr(board_module, "time", Time)

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def shown(*streams: StreamStatus, stages: tuple[StageStatus, ...] = (FLOW, POSE)) -> list[str]:
    """Return the lines of the live table."""
    screen = Screen(terminal=True)
    with LiveTable(screen.console, streams=len(streams)) as board:
        board.update(status(*streams, stages=stages))
        screen.console.print(board._render())
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", screen.text)
    return [line.rstrip() for line in plain.splitlines() if line.strip()]


def line_of(lines: list[str], start: str) -> list[str]:
    (found,) = {line for line in lines if line.startswith(start)}
    return found.split()


def test_the_table_has_every_stage_and_stream():
    lines = shown(FILM, GATE)
    assert line_of(lines, "stage") == [
        "stage", "workers", "busy", "done", "rate", "waiting", "in", "flight", "failures"
    ]  # fmt: skip
    assert line_of(lines, "flow/dis") == [
        "flow/dis", "2", "83", "%", "40", "clips", "4.25/s", "3", "12.4", "MB", "0"
    ]  # fmt: skip
    assert line_of(lines, "holiday") == ["holiday", "running", "12.3", "of", "60.0", "s"]
    assert line_of(lines, "gate") == ["gate", "live", "90.0", "s", "0.5", "%", "dropped"]
    assert "object store 120.0 MB of 500.0 MB · 1 node, 8 CPUs · 0 s so far" in lines[-1]


def test_of_many_streams_the_urgent_are_shown_and_the_rest_summed():
    streams = [replace(FILM, name=f"v{i}", state="waiting", reached_s=0) for i in range(990)]
    streams += [replace(FILM, name=f"m{i}", state="made", reached_s=60) for i in range(5)]
    streams += [FILM, replace(FILM, name="broken", state="failed")]
    lines = shown(*streams)
    at = {start: next(i for i, t in enumerate(lines) if t.startswith(start)) for start in
          ("broken", "holiday", "v0", "and")}  # fmt: skip
    assert at["broken"] < at["holiday"] < at["v0"] < at["and"]
    assert sum(line.startswith("v") for line in set(lines)) == 6
    (rest,) = {line for line in lines if line.startswith("and")}
    assert re.split("  +", rest) == ["and 989 more", "300.0 s", "984 waiting, 5 made"]


def test_long_calls_say_where_they_stand_until_they_end():
    screen = Screen(terminal=True)
    board = LiveTable(screen.console)
    watch: ProgressListener = board.for_stream("holiday")
    watch.on_stage_start("splat/cpu")
    watch.on_progress("splat/cpu", 350, 1400, "[bold] 27 dB")
    watch.on_position(3.0, 60.0)
    board.update(status(FILM))
    screen.console.print(board._render())
    assert "splat/cpu 25 %, [bold] 27 dB" in screen.text
    watch.on_stage_end("splat/cpu", "made", Meter(seconds=3.2))
    before = len(screen.text)
    screen.console.print(board._render())
    assert "splat/cpu" not in screen.text[before:]
    assert "✓ holiday: splat/cpu" in screen.text


def test_elsewhere_it_is_a_line_every_five_seconds(clock):
    screen = Screen(terminal=False)
    with LiveTable(screen.console, streams=2) as board:
        for _ in range(21):
            board.update(status(FILM, replace(FILM, name="other", state="waiting", reached_s=0)))
            clock(0.5)
    lines = screen.text.splitlines()
    assert lines == [
        f"   {at:.1f} s  12.3 of 120.0 s of video; 2 streams: 1 running, 1 waiting; "
        "flow/dis 4.25 clips/s, 3 waiting"
        for at in (5.0,)
    ] + [
        "  10.0 s  12.3 of 120.0 s of video; 2 streams: 1 running, 1 waiting; "
        "flow/dis 4.25 clips/s, 3 waiting"
    ]


def test_a_camera_makes_no_promise_of_a_sum(clock):
    screen = Screen(terminal=False)
    board = LiveTable(screen.console)
    clock(6)
    board.update(status(FILM, GATE, stages=(replace(FLOW, failures=2),)))
    assert "102.3 s of video;" in screen.text
    assert "; 2 failures; 12 frames dropped" in screen.text
    assert "left" not in screen.text


def test_quiet_tells_losses_only_and_many_streams_only_what_went_wrong(clock):
    bad = Meter(warnings=["gray"], losses=[Loss(what="depth", why="no [parallax]")])
    for quiet, streams, told in (
        (True, 1, ["✗ a: depth/x: depth not made: no [parallax]"]),
        (False, 50, ["! a: depth/x: gray", "✗ a: depth/x: depth not made: no [parallax]"]),
    ):
        screen = Screen(terminal=False)
        board = LiveTable(screen.console, quiet=quiet, streams=streams)
        clock(6)
        watch = board.for_stream("a")
        watch.on_stage_end("flow/dis", "made", Meter(seconds=1))
        watch.on_stage_end("depth/x", "failed", bad)
        board.update(status(FILM))
        assert [line.split("s  ", 1)[1] for line in screen.text.splitlines()] == told


def followed(*seconds: float, stages=(FLOW,), streams=(FILM,)) -> TimeLeft | None:
    """Feed an estimate with a film that passes at 2 s of video a second."""
    estimate, left = Estimate(), None
    for at in seconds:
        now = tuple(replace(s, reached_s=min(2 * at, s.total_s or 1e9)) for s in streams)
        left = estimate.take(at, status(*now, stages=stages))
    return left


IDLE = replace(FLOW, backlog=0)


def test_the_time_left_is_that_of_the_pace():
    assert followed(0, 1, 2, stages=(IDLE,)) is None, "too early to tell"
    assert followed(*range(11), stages=(IDLE,)) == TimeLeft(seconds=20, whole=True)
    # What waits in front of a stage must still go through it: 3 at 4.25 a second.
    assert followed(*range(11)) == TimeLeft(seconds=pytest.approx(20 + 3 / 4.25), whole=True)


def test_the_pace_is_that_of_late():
    estimate = Estimate()
    for at in range(101):
        reached = 0.1 * at if at < 50 else 5 + 0.5 * (at - 50)
        left = estimate.take(at, status(replace(FILM, reached_s=reached), stages=(IDLE,)))
    assert left == TimeLeft(seconds=pytest.approx(60), whole=True)


def test_what_nobody_knows_is_not_told():
    assert followed(*range(11), streams=(FILM, GATE)) is None, "a camera has no end"
    assert followed(*range(11), streams=(replace(FILM, total_s=None),)) is None
    assert followed(*range(11), stages=(IDLE, POSE)) == TimeLeft(seconds=20, whole=False)
    assert followed(*range(40), stages=(IDLE, POSE)) is None, "the videos have passed"


def test_stages_of_whole_streams_count_once_one_is_through():
    estimate = Estimate()
    made = replace(FILM, name="made", state="made", reached_s=60)
    pose = replace(POSE, workers=2, busy=0.5, done=1)
    for at in range(11):
        rows = status(made, replace(FILM, reached_s=2 * at), stages=(IDLE, pose))
        left = estimate.take(at, rows)
    # 10 worker-seconds were one stream's poses: 20 s of video, then 10 s for its own.
    assert left == TimeLeft(seconds=30, whole=True)


def test_the_schedulers_own_estimate_wins(clock):
    screen = Screen(terminal=False)
    board = LiveTable(screen.console)
    clock(6)
    board.update(replace(status(FILM), eta_s=200))
    assert "about 3 min 20 s left" in screen.text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_spans_are_short(seconds: float, words: str):
    assert span(seconds) == words
