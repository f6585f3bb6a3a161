"""The simulator of `reel3d plan` against closed forms, and the command that asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.capacity.calibration import costs_of, make_film
from pipeline.capacity.cost_model import (
    Costs,
    FilmCosts,
    LinearCost,
    OutputSize,
    RuntimeCosts,
    StageCosts,
)
from pipeline.capacity.machines import Machine, MachineSpec, Stored
from pipeline.capacity.profiler import profile_run
from pipeline.capacity.search import ClusterSearch, PlanRequest
from pipeline.capacity.simulator import Simulation
from pipeline.capacity.workload import ClusterSpec, Workload
from pipeline.chain import wire
from pipeline.cli.main import main
from pipeline.config import load
from pipeline.errors import UsageError
from pipeline.scheduling import Scheduler
from pipeline.scheduling.pools import LIGHT_S

NO_SINKS = [f"export.{name}=none" for name in ("frames", "events", "storyboard", "flow_video")]
WORDS = [*NO_SINKS, "export.events=on", "report.model=none"]
CLIP_S, FRAMES = 1.0, 10.0
FREE = RuntimeCosts(
    driver_call_s=0,
    worker_call_s=0,
    per_byte_s=0,
    start_s=0,
    start_wait_s=0,
    driver_stream_s=0,
)
"""A runner that costs nothing: what remains are the stages."""


def of(clip_s: float, **makes: OutputSize) -> StageCosts:
    return StageCosts(clip=LinearCost(per_call_s=clip_s), start_s=0, makes=makes)


def costs(
    sample_s: float = 0.0, flow_s: float = 0.0, action_s: float = 0.0, runtime: RuntimeCosts = FREE
) -> Costs:
    return Costs(
        film=FilmCosts(width=640, height=480, fps=10, clip_s=CLIP_S, clip_frames=FRAMES),
        runtime=runtime,
        stages={
            "sample/adaptive": of(sample_s, Frames=OutputSize(per_pixel_bytes=3)),
            "flow/dis": of(flow_s, Motion=OutputSize(per_pixel_bytes=12)),
            "action/motion": of(action_s, Actions=OutputSize(per_call_bytes=100)),
            "export/events": of(0.0),
        },
    )


def site(
    count: int = 1, cpus: float = 4, store: float = 1e12, network: float = 1e12
) -> ClusterSpec:
    return ClusterSpec(shape=MachineSpec(count, cpus), store_bytes=store, network_bytes_s=network)


def simulation(
    made: Costs, machines: ClusterSpec, streams: int = 1, seconds: float | None = 200.0
) -> Simulation:
    uri = "film.mp4" if seconds else "rtsp://camera"
    config = load(preset="understand", overrides=WORDS, uri=uri)
    requested = Workload(streams=streams, width=640, height=480, fps=10, seconds=seconds)
    return Simulation(wire(config.choices), config.run, requested, machines, made)


def rate(simulated: Simulation) -> float:
    """Run it and return the clips a second that get through, without the start and the end."""
    simulated.run()
    times = sorted(at for at, _ in simulated.through)
    low, high = len(times) // 5, 4 * len(times) // 5
    return (high - low) / (times[high] - times[low])


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_a_pool_brings_its_cores_over_the_cost_of_a_clip(cores: int) -> None:
    assert rate(simulation(costs(flow_s=0.5), site(cpus=cores))) == pytest.approx(
        cores / 0.5, rel=0.03
    )


def test_of_two_stages_the_slower_sets_the_rate() -> None:
    # A decoder and a stage that follows one stream have one worker each, however many cores.
    assert rate(simulation(costs(sample_s=0.5, flow_s=0.1), site(cpus=16))) == pytest.approx(
        2.0, rel=0.03
    )
    assert rate(simulation(costs(flow_s=0.3, action_s=0.2), site(cpus=16))) == pytest.approx(
        5.0, rel=0.03
    )


def test_all_stages_together_cannot_take_more_than_the_cores() -> None:
    simulated = simulation(costs(sample_s=0.2, flow_s=0.5, action_s=0.3), site(cpus=4), streams=4)
    assert rate(simulated) == pytest.approx(4 / 1.0, rel=0.05)
    # Nothing but the clips' work was done.
    assert simulated.look().cores_s == pytest.approx(4 * 200 * 1.0, rel=1e-6)


def test_more_machines_help_until_the_next_bottleneck() -> None:
    made = costs(sample_s=0.25, flow_s=2.0)
    rates = [rate(simulation(made, site(count=count, cpus=4))) for count in (1, 2, 8)]
    assert rates[0] == pytest.approx(4 / 2.25, rel=0.05)
    assert 1.7 < rates[1] / rates[0] < 2.1
    assert rates[2] == pytest.approx(4.0, rel=0.03)


def test_a_driver_that_is_at_work_all_the_time_sets_the_rate() -> None:
    slow = FREE.model_copy(update={"driver_call_s": 0.05})
    # None of them is so short that calls would travel together.
    made = costs(2 * LIGHT_S, 2 * LIGHT_S, 2 * LIGHT_S, runtime=slow)
    made.stages["export/events"] = of(2 * LIGHT_S)
    simulated = simulation(made, site(cpus=64), streams=8, seconds=50)
    simulated.run()
    # Sampler, flow, action and the exporter of the events: four calls a clip.
    tasks = sum(simulated.counters.tasks.values())
    assert tasks == pytest.approx(8 * 50 * 4, rel=0.08)
    assert tasks / simulated.now() == pytest.approx(1 / 0.05, rel=0.05)
    assert simulated.look().driver_s / simulated.now() > 0.95


def test_bytes_under_way_stay_within_the_budget() -> None:
    made = costs(sample_s=0.0, flow_s=0.5)
    clip_bytes = FRAMES * 640 * 480 * (3 + 12)
    small = simulation(made, site(cpus=8, store=5 * clip_bytes / 0.3))
    large = simulation(made, site(cpus=8))
    small_rate, large_rate = rate(small), rate(large)
    assert small.scheduler.budget.peak_bytes <= small.limits.budget_bytes
    assert large.scheduler.budget.peak_bytes > 2 * small.limits.budget_bytes
    assert small_rate < 0.8 * large_rate


def test_a_slow_network_between_machines_is_waited_for() -> None:
    made = costs(flow_s=0.05)
    # Flow's workers sit on both machines, and what they make goes to the one of the camera motion.
    fast = rate(simulation(made, site(count=2, cpus=4)))
    slow = simulation(made, site(count=2, cpus=4, network=1e8))
    assert rate(slow) < 0.7 * fast
    skipped = slow.look()
    busiest = max(*skipped.into_bytes, *skipped.out_bytes)
    assert busiest / slow.now() <= 1.001e8


def test_cores_are_shared_in_time() -> None:
    machine = Machine(0, MachineSpec(1, 2), network_bytes_s=1e6)
    for number in range(3):
        machine.begin(0.0, 1.0, 1.0, (number, None))
    # Three core-seconds on two cores.
    assert machine.next_s() == pytest.approx(1.5)
    assert [machine.take(1.5)[0] for _ in range(3)] == [0, 1, 2]
    machine.begin(2.0, 4.0, 8.0, ("wide", None))
    assert machine.next_s() == pytest.approx(4.0)


def test_transfers_share_a_card() -> None:
    here, there = (Machine(n, MachineSpec(1, 1), network_bytes_s=1e6) for n in range(2))
    stored = [Stored(500_000, {1}) for _ in range(2)]
    assert [here.fetch(0.0, one, [there]) for one in stored] == [0.5, 1.0]
    assert here.into_bytes == there.out_bytes == 1_000_000
    assert stored[0].places == {0, 1}


def test_a_camera_that_is_kept_up_with_is_late_by_the_work_on_a_clip() -> None:
    simulated = simulation(
        costs(sample_s=0.1, flow_s=0.2, action_s=0.1), site(cpus=16), streams=4, seconds=None
    )
    simulated.run(60.0)
    late = [record_duration for at, record_duration in simulated.through if at > 20]
    assert len(late) == pytest.approx(4 * 40, abs=8)
    assert max(late) < 0.45
    assert min(late) > 0.29
    assert simulated.look().dropped_s == 0


def test_a_camera_that_is_not_kept_up_with_drops_what_nobody_asks_for() -> None:
    simulated = simulation(costs(flow_s=2.0), site(cpus=1), seconds=None)
    simulated.run(400.0)
    skipped = simulated.look()
    # One clip in two seconds is worked on: the other is dropped, but for what waits at first.
    assert skipped.dropped_s / skipped.filmed_s == pytest.approx(0.5, abs=0.08)


def test_the_runner_s_own_scheduler_is_what_runs() -> None:
    simulated = simulation(costs(flow_s=0.5), site(cpus=8))
    assert type(simulated.scheduler) is Scheduler
    dataflow = next(pool for pool in simulated.scheduler.pools if pool.name == "flow/dis")
    simulated.run(10.0)
    assert len(dataflow.workers) == 8
    simulated.scheduler.divide(2.0, 0.0)
    simulated.run(15.0)
    assert len(dataflow.workers) == 2


def test_two_simulations_are_equal() -> None:
    made = costs(sample_s=0.1, flow_s=0.3, action_s=0.05, runtime=RuntimeCosts())
    one, two = (simulation(made, site(count=3), streams=5, seconds=40) for _ in range(2))
    one.run()
    two.run()
    assert one.through == two.through
    assert one.now() == two.now()


# Sizing ---------------------------------------------------------------------------------------


def sizing(
    made: Costs, streams: int, seconds: float | None, within_s: float | None
) -> ClusterSearch:
    uri = "film.mp4" if seconds else "rtsp://camera"
    config = load(preset="understand", overrides=WORDS, uri=uri)
    requested = Workload(streams=streams, width=640, height=480, fps=10, seconds=seconds)
    question = PlanRequest(
        chain=wire(config.choices),
        options=config.run,
        load=requested,
        costs=made,
        within_s=within_s,
    )
    return ClusterSearch(question, lambda text: None)


def test_the_machines_for_cameras_are_those_that_their_work_takes() -> None:
    plan = sizing(costs(sample_s=0.1, flow_s=0.3, action_s=0.1), 20, None, None)
    answer = plan.answer(site(cpus=4), given=False)
    assert answer.needed is not None
    # 20 cameras of half a core each, and a tenth of the cores spare: 11.1 cores.
    assert answer.needed.site.shape.count == 3
    assert answer.needed.outcome.cpu == pytest.approx(10 / 12, rel=0.03)
    assert answer.needed.outcome.dropped == 0
    # What is called enough is enough.
    least = site(cpus=4, count=3, store=answer.store_bytes, network=answer.network_bytes_s)
    assert plan.on(least).outcome.keeps_up


def test_machines_that_are_too_few_are_told_with_what_they_can_do() -> None:
    plan = sizing(costs(sample_s=0.1, flow_s=0.3, action_s=0.1), 16, None, None)
    answer = plan.answer(site(cpus=4), given=True)
    assert answer.given is not None
    assert not answer.given.outcome.keeps_up
    assert answer.given.outcome.bottleneck[0] == "the CPUs"
    assert answer.given.outcome.behind == pytest.approx(2.0, rel=0.15)
    assert answer.most_streams == pytest.approx(7, abs=1)
    assert answer.needed is not None
    assert answer.needed.site.shape.count == 3


def test_more_streams_than_one_driver_leads_are_several_runs() -> None:
    slow = FREE.model_copy(update={"driver_call_s": 0.01})
    tried = sizing(costs(flow_s=0.1, runtime=slow), 80, None, None).on(site(cpus=64))
    # Four calls a second and camera, at 10 ms: 25 cameras fill a driver, 17 are for it.
    assert tried.jobs == 5
    assert tried.outcome.keeps_up
    assert tried.outcome.driver == pytest.approx(0.64, abs=0.05)


def test_the_time_of_many_files_is_told_from_a_part_of_them() -> None:
    made = costs(sample_s=0.1, flow_s=0.3, action_s=0.1)
    tried = sizing(made, 300, 600.0, None).on(site(cpus=4))
    # 300 x 600 clips of half a core-second on 4 cores.
    assert tried.outcome.seconds == pytest.approx(300 * 600 * 0.5 / 4, rel=0.05)


def test_a_worker_that_fits_on_no_machine_is_told_at_once() -> None:
    config = load(preset="default", overrides=["splat.model=cuda"], uri="film.mp4")
    names = [choice.name for choice in config.choices]
    made = costs().model_copy(update={"stages": {name: of(0.1) for name in names}})
    requested = Workload(streams=1, width=640, height=480, fps=10, seconds=10)
    with pytest.raises(UsageError, match=r"splat/cuda asks for 1 GPUs .* and these have 0: no"):
        Simulation(wire(config.choices), config.run, requested, site(count=99, cpus=2), made)


# Costs ----------------------------------------------------------------------------------------


def test_costs_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(costs(0.1, 0.2, 0.3).as_json())
    assert Costs.read(path) == costs(0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read as costs"),
        ("[]", "is not allowed"),
        ('{"reel3d_costs": 1, "film": {}, "stages": {}}', "film.width is not allowed"),
        ('{"reel3d_costs": 2}', "reel3d_costs is not allowed"),
    ],
)
def test_a_wrong_file_of_costs_is_one_line(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        Costs.read(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_costs_of_a_real_film_are_those_of_its_calls(tmp_path: Path) -> None:
    config = load(preset="understand", overrides=WORDS, uri="film.mp4")
    trials = []
    for name, side in (("small", 96), ("large", 192)):
        path = tmp_path / f"{name}.mp4"
        make_film(path, width=side, height=side, fps=15, seconds=5)
        trials.append(profile_run(config, path, tmp_path / name, alone=False))
    less, more = trials
    assert set(more.stages) >= {"sample/adaptive", "flow/dis", "action/motion", "export/events"}
    count, size = more.stages["sample/adaptive"].made["Frames"]
    assert count == more.clips
    assert size == pytest.approx(more.frames * 192 * 192 * 3, rel=0.02)
    assert more.stages["flow/dis"].clips == more.clips
    assert less.probe.width == 96
    # What was spent comes out again at the film's own size.
    made = costs_of(less, more, config, FREE, starts=lambda name: 0.5)
    assert made.film.clip_s * more.clips == pytest.approx(5.0, rel=0.02)
    law = made.of("flow/dis").clip
    spent = more.stages["flow/dis"].clip_s
    assert law.seconds(more.frames, 192 * 192 / 1e6) == pytest.approx(spent, rel=1e-6)


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(costs(0.1, 0.3, 0.1).model_copy(update={"made_on": "a test"}).as_json())
    return path


def plan(file: Path, *words: str) -> list[str]:
    requested = ["plan", "--size", "640x480", "--fps", "10", "--preset", "understand", *WORDS]
    return [*requested, "--costs", str(file), *words]


def test_the_plan_is_a_table_that_answers_the_question(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(plan(file, "--streams", "12", "--live", "--nodes", "1:4")) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "12 cameras, 640x480 at 10 fps, understand"
    assert any(line.startswith("machines 1 machine of 4 CPUs: not enough (") for line in lines)
    assert any(line.startswith("needed 2 machines of 4 CPUs, 8 CPUs in all") for line in lines)
    for name in ("CPUs", "GPUs", "object store", "network", "latency", "dropped", "driver"):
        assert any(line.startswith(name) for line in lines), name
    assert any(line.startswith("flow/dis") for line in lines)
    assert all(len(line) <= 100 for line in shown.splitlines()[3:])


def test_the_plan_as_json_holds_the_same(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--streams", "8", "--seconds", "60", "--within", "0.02", "--cpus", "8", "--json")
    assert main(plan(file, *words)) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["load"]["streams"] == 8
    assert told["given"] is None
    # 8 x 60 clips of half a core-second in 72 s.
    assert told["needed"]["machines"]["cpus"] == 4
    assert 60 < told["needed"]["outcome"]["seconds"] <= 72


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--streams", "3"], "--live --seconds is required"),
        (["--live"], "required: --streams"),
        (["--streams", "0", "--live"], "'0' is not allowed; give a whole number, 1 to 100000"),
        (["--streams", "3", "--live", "--size", "9"], "'9' is not a size; allowed is WIDTHxHEIGHT"),
        (["--streams", "3", "--live", "--nodes", "3"], "give N:CPUS or N:CPUS:GPUS"),
        (["--streams", "3", "--live", "--nodes", "3:4", "--cpus", "2"], "of the machines that may"),
        (["--streams", "3", "--live", "--within", "2"], "--within is for files"),
        (["--streams", "3", "--seconds", "60"], "--within HOURS"),
        (["--streams", "3", "--live", "film.mp4"], "'film.mp4' is not an option of a stage"),
        (["--streams", "3", "--live", "--costs", "nowhere.json"], "there is no file of costs"),
        (["--streams", "3", "--live", "--like", "nowhere.mp4"], "there is no video nowhere.mp4"),
        (["--streams", "3", "--live", "flow.sharpness=3"], "flow has no option 'sharpness'"),
        (
            ["--streams", "3", "--seconds", "9", "--within", "1", "splat.model=cuda"],
            "runs on a GPU",
        ),
    ],
)
def test_a_wrong_plan_is_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 2
    shown = capsys.readouterr().err.strip()
    assert told in shown
    assert "\n" not in shown


def test_costs_that_lack_a_stage_name_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--streams", "2", "--live", "flow.model=farneback")
    assert main(plan(file, *words)) == 2
    assert "there are no costs of flow/farneback" in capsys.readouterr().err
