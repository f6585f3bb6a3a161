"""Which workers the stages of a stream get: lanes of its own, and pools that all streams share.

Stages without memory are pools; the decoder with its sampler, each stream-scoped stage, and all
exporters together have one worker a stream. The Ray runner and the simulator both staff so.
"""

from __future__ import annotations

import json
from dataclasses import replace

from pipeline.chain import EXPORT, Link
from pipeline.config import HEAD_DEADLINE_S, RunOptions
from pipeline.contract.stage import Resources
from pipeline.scheduling.dataflow import Flow, Node
from pipeline.scheduling.pools import Lane
from pipeline.storage.plan import Job
from pipeline.worker.protocol import StageSpec
from pipeline.worker.serialization import slots

__all__ = ["WHOLE_CPUS", "lanes_of"]

WHOLE_CPUS = 4
"""CPUs that a stage for whole streams counts for at most: beyond that threads gain little."""


def lanes_of(
    flow: Flow,
    jobs: list[Job],
    report: Link | None,
    options: RunOptions,
    pools: dict[str, Lane],
    *,
    alone: bool,
) -> tuple[dict[int, Lane], Lane]:
    """Return where the calls of each stage of a stream go (by node), and the lane of its sinks.

    Args:
        flow: The stream.
        jobs: Its stages, decode and sample first.
        report: The stage of the report, if any; it works with the exporters.
        options: Threads and deadlines of the run.
        pools: Of the streams before; missing ones are added.
        alone: It is the run's only stream: its decoder may have all threads.
    """
    small = Resources(cpus=0.0)
    head = Lane(
        name=jobs[1].name,
        kind="head",
        specs=(_spec(jobs[0]), _spec(jobs[1])),
        resources=small,
        threads=options.threads if alone else 1,
        flow=flow,
        deadline_s=None if flow.live else HEAD_DEADLINE_S,
    )
    exports = [n.job for n in flow.nodes if n.kind == "fold" and n.job.link.step == EXPORT]
    last = [Job(report, "")] if report else []
    sinks = Lane(
        name="export",
        kind="sinks",
        specs=tuple(_spec(job) for job in (*exports, *last) if job.action == "run"),
        resources=small,
        threads=options.threads,
        flow=flow,
        deadline_s=options.deadline_s,
    )
    lanes: dict[int, Lane] = {0: head}
    for node in flow.nodes[1:]:
        if node.kind == "fold" and node.job.link.step == EXPORT:
            lanes[node.index] = sinks
        elif node.kind == "fold":
            lanes[node.index] = Lane(
                name=node.name,
                kind="fold",
                specs=(_spec(node.job),),
                resources=small,
                threads=1,
                flow=flow,
                deadline_s=options.deadline_s,
            )
        else:
            lanes[node.index] = _pool(pools, node, options)
    return lanes, sinks


def _pool(pools: dict[str, Lane], node: Node, options: RunOptions) -> Lane:
    link = node.job.link
    spec = _spec(node.job)
    key = json.dumps([link.name, spec.options], sort_keys=True)
    if key not in pools:
        stage = link.stage(link.choice.options)
        resources, threads = stage.resources, max(1, round(stage.resources.cpus))
        whole = node.kind == "whole"
        if whole:
            # A whole stream is worked on with all threads that the user allows.
            threads = options.threads
            cpus = max(resources.cpus, min(threads, WHOLE_CPUS))
            resources = replace(resources, cpus=cpus)
        pools[key] = Lane(
            name=node.name,
            kind="pool",
            whole=whole,
            specs=(spec,),
            resources=resources,
            threads=threads,
            deadline_s=stage.deadline_s or options.deadline_s,
            whole_deadline_s=stage.deadline_s,
        )
    return pools[key]


def _spec(job: Job) -> StageSpec:
    link = job.link
    options = link.choice.options.model_dump(mode="json")
    makes = slots(link.ports.makes)
    return StageSpec(link.step, link.choice.model, options, link.name, job.key, makes)
