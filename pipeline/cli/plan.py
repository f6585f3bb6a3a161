"""`reel3d plan`: how many machines a number of cameras or files takes, before anybody rents one."""

from __future__ import annotations

import argparse
import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.capacity import ClusterSpec, Costs, MachineSpec, Workload
from pipeline.chain import Choice
from pipeline.cli.argument_types import number, size, whole
from pipeline.config import RunConfig, is_override, load, presets
from pipeline.contract.stage import find
from pipeline.errors import UsageError

__all__ = ["add_plan"]

PLAN_HELP = """\
examples:
  reel3d plan --streams 1000 --size 1920x1080 --fps 30 --live
  reel3d plan --streams 40 --size 1280x720 --live --nodes 2:64:1 --costs ours.json
  reel3d plan --streams 5000 --size 1920x1080 --seconds 600 --within 12 --preset understand

The runner's own scheduler runs in simulated time. What a call costs is measured on this machine
once, with a synthetic video or with --like VIDEO, and kept; --measure does it again, and --costs
takes the file of another machine, or one that you have edited (GPU stages are written by hand).
Cameras are planned for the time while they run: what is made when one ends is not counted.
"""

SIDES_PX = (16, 16384)
MOST_STREAMS = 100_000
PLENTY = 1e15
"""Bytes, and bytes a second, where the plan is to say how many are needed."""


def add_plan(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    plan = commands.add_parser(
        "plan",
        help="how many CPUs, GPUs and machines so many cameras or files take",
        epilog=PLAN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument("words", nargs="*", metavar="step.option=value", help="options of the stages")
    plan.add_argument("--streams", type=whole(1, MOST_STREAMS), required=True, metavar="N")
    plan.add_argument(
        "--size", type=size(*SIDES_PX, "1920x1080"), default=(1920, 1080), metavar="WxH", help="px"
    )
    plan.add_argument(
        "--fps", type=number(0.1, 1000), default=30.0, metavar="N", help="default: 30"
    )
    kind = plan.add_mutually_exclusive_group(required=True)
    kind.add_argument("--live", action="store_true", help="cameras")
    kind.add_argument(
        "--seconds", type=number(0.1, 86_400), metavar="S", help="files of this length each"
    )
    plan.add_argument(
        "--within",
        type=number(0.001, 100_000),
        metavar="HOURS",
        help="time in which all files must be processed",
    )
    preset = plan.add_mutually_exclusive_group()
    preset.add_argument(
        "--preset", help=f"one of {', '.join(presets())} (default: live or default)"
    )
    preset.add_argument("--config", type=Path, help="YAML file; a run's config.yaml")
    plan.add_argument(
        "--nodes",
        type=_nodes,
        metavar="N:CPUS[:GPUS]",
        help="machines that there are: what happens with these",
    )
    plan.add_argument(
        "--cpus",
        type=number(1, 4096),
        metavar="N",
        help="of each machine that may be had (default: 32)",
    )
    plan.add_argument("--gpus", type=whole(0, 64), metavar="N", help="of each (default: 0)")
    plan.add_argument(
        "--store",
        type=number(0.1, 10_000),
        metavar="GB",
        help="object store of each (default: the plan says how much is needed)",
    )
    plan.add_argument(
        "--network",
        type=number(0.01, 10_000),
        metavar="GBIT",
        help="of each, gigabits a second (default: the plan says how many are needed)",
    )
    costs = plan.add_mutually_exclusive_group()
    costs.add_argument("--costs", type=Path, metavar="FILE.json", help="what the stages cost")
    costs.add_argument("--measure", action="store_true", help="measure that again")
    plan.add_argument(
        "--like", type=Path, metavar="VIDEO", help="measure on the beginning of this video"
    )
    plan.add_argument("--json", action="store_true", help="print all figures as JSON")
    plan.set_defaults(command=_plan)


def _plan(options: argparse.Namespace, console: Console) -> int:
    wrong = [word for word in options.words if not is_override(word)]
    if wrong:
        raise UsageError(
            f"'{wrong[0]}' is not an option of a stage (step.option=value); plan takes no sources, "
            "--like VIDEO names one to measure on"
        )
    _check(options)
    # What follows loads the chain's models; a wrong word is reported before.
    from pipeline.capacity import ClusterSearch, PlanRequest
    from pipeline.chain import wire
    from pipeline.cli.plan_report import as_json, print_table

    measured = _config(options, "film.mp4")
    planned = _config(options, "rtsp://camera" if options.live else "film.mp4")
    chain = wire(planned.choices)
    _check_gpus(planned, options)
    costs, origin = _costs(options, measured, console)
    question = PlanRequest(
        chain=chain,
        options=planned.run,
        load=Workload(
            streams=options.streams,
            width=options.size[0],
            height=options.size[1],
            fps=options.fps,
            seconds=None if options.live else options.seconds,
        ),
        costs=costs,
        within_s=options.within * 3600 if options.within else None,
    )
    for link in chain.links[1:]:
        costs.of(link.name)
    with console.status("simulating") as status:
        sizing = ClusterSearch(question, lambda text: status.update(f"simulating {text}"))
        answer = sizing.answer(_site(options), given=options.nodes is not None)
    if options.json:
        print(as_json(answer, question, origin))
    else:
        print_table(answer, question, f"{planned.preset}", origin)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse words that do not go together."""
    if options.nodes is not None:
        for name in ("cpus", "gpus"):
            if getattr(options, name) is not None:
                raise UsageError(
                    f"--{name} is of the machines that may be had; with --nodes N:CPUS:GPUS it "
                    "stands there"
                )
    if options.live and options.within is not None:
        raise UsageError("--within is for files; cameras are kept up with as they film")
    if not options.live and options.within is None and options.nodes is None:
        raise UsageError(
            "for files give the time for all of them (--within HOURS), or which machines there "
            "are (--nodes N:CPUS)"
        )
    if options.costs is not None and options.like is not None:
        raise UsageError("--like measures costs, and --costs brings them along; leave one out")
    if options.like is not None and not options.like.is_file():
        raise UsageError(f"there is no video {options.like}")


def _config(options: argparse.Namespace, uri: str) -> RunConfig:
    """Return the chain that is planned for; cameras without what only their end brings."""
    preset = options.preset or ("live" if options.live else "default")
    config = load(preset=preset, file=options.config, overrides=options.words, uri=uri)
    if not options.live:
        return config
    return replace(config, choices=tuple(c for c in config.choices if not _at_end(c)))


def _at_end(choice: Choice) -> bool:
    """Say whether a stage only works once a stream has ended."""
    from pipeline.contract import Frames
    from pipeline.contract.stage import ports

    model = find(choice.step, choice.model)
    head = choice.step in ("decode", "sample", "report")
    return not head and model.scope == "clip" and Frames not in ports(model).reads


def _check_gpus(config: RunConfig, options: argparse.Namespace) -> None:
    for choice in config.choices:
        gpus = find(choice.step, choice.model)(choice.options).resources.gpus
        if not gpus:
            continue
        if options.costs is None:
            raise UsageError(
                f"{choice.name} runs on a GPU, and what it takes there cannot be measured here: "
                f"measure the others with {choice.step}.model=none, add '{choice.name}' with its "
                "seconds under gpu or end_gpu to the file that this leaves, and give it as --costs"
            )
        if not _site(options).shape.gpus:
            raise UsageError(
                f"{choice.name} needs a GPU, and the machines have none; give them some with "
                "--gpus N or --nodes N:CPUS:GPUS"
            )


def _costs(options: argparse.Namespace, config: RunConfig, console: Console) -> tuple[Costs, str]:
    if options.costs is not None:
        return Costs.read(options.costs), str(options.costs)
    from pipeline.capacity import kept_costs

    width, height = options.size
    return kept_costs(
        config,
        width=width,
        height=height,
        fps=options.fps,
        film=options.like,
        again=options.measure,
        say=functools.partial(console.print, soft_wrap=True, markup=False),
    )


def _site(options: argparse.Namespace) -> ClusterSpec:
    shape = options.nodes or MachineSpec(1, options.cpus or 32.0, float(options.gpus or 0))
    return ClusterSpec(
        shape=shape,
        store_bytes=options.store * 1e9 if options.store else PLENTY,
        network_bytes_s=options.network * 1e9 / 8 if options.network else PLENTY,
    )


def _nodes(text: str) -> MachineSpec:
    found = re.fullmatch(r"(\d{1,5}):(\d{1,4})(?::(\d{1,2}))?", text)
    count, cpus, gpus = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not (1 <= count <= 10_000 and 1 <= cpus <= 4096):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not allowed; give N:CPUS or N:CPUS:GPUS, N machines with so many each, "
            "such as 4:32 or 2:64:8"
        )
    return MachineSpec(count, float(cpus), float(gpus))
