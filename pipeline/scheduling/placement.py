"""Which pool serves which stage: pools of one stream, and pools that all streams share.

Stages without memory are shared; the decoder with its sampler, each stream-scoped stage, and all
exporters together have one worker a stream. The Ray runner and the simulator both staff so.
"""

from __future__ import annotations

import json
from dataclasses import replace

from pipeline.chain import EXPORT, Link
from pipeline.config import HEAD_DEADLINE_S, RunOptions
from pipeline.contract import Resources
from pipeline.scheduling.dataflow import Dataflow, StageState
from pipeline.scheduling.pools import WorkerPool
from pipeline.storage import PlannedStage
from pipeline.worker import StageSpec, slots

__all__ = ["WHOLE_CPUS", "assign_pools"]

WHOLE_CPUS = 4
"""CPUs that a stage for whole streams counts for at most: beyond that threads gain little."""


def assign_pools(
    dataflow: Dataflow,
    planned_stages: list[PlannedStage],
    report: Link | None,
    options: RunOptions,
    shared: dict[str, WorkerPool],
    *,
    alone: bool,
) -> tuple[dict[int, WorkerPool], WorkerPool]:
    """Return the pool of each stage of a stream (by stage index), and the pool of its sinks.

    Args:
        dataflow: The stream.
        planned_stages: Its stages, decode and sample first.
        report: The stage of the report, if any; it works with the exporters.
        options: Threads and deadlines of the run.
        shared: Of the streams before; missing ones are added.
        alone: It is the run's only stream: its decoder may have all threads.
    """
    small = Resources(cpus=0.0)
    head = WorkerPool(
        name=planned_stages[1].name,
        kind="source",
        specs=(_spec(planned_stages[0]), _spec(planned_stages[1])),
        resources=small,
        threads=options.threads if alone else 1,
        stream=dataflow.info,
        deadline_s=None if dataflow.info.live else HEAD_DEADLINE_S,
    )
    exports = [
        n.planned for n in dataflow.stages if n.kind == "stateful" and n.planned.link.step == EXPORT
    ]
    last = [PlannedStage(report, "")] if report else []
    sink_pool = WorkerPool(
        name="export",
        kind="sink",
        specs=tuple(_spec(planned) for planned in (*exports, *last) if planned.action == "run"),
        resources=small,
        threads=options.threads,
        stream=dataflow.info,
        deadline_s=options.deadline_s,
    )
    pools: dict[int, WorkerPool] = {0: head}
    for stage in dataflow.stages[1:]:
        if stage.kind == "stateful" and stage.planned.link.step == EXPORT:
            pools[stage.index] = sink_pool
        elif stage.kind == "stateful":
            pools[stage.index] = WorkerPool(
                name=stage.name,
                kind="stateful",
                specs=(_spec(stage.planned),),
                resources=small,
                threads=1,
                stream=dataflow.info,
                deadline_s=options.deadline_s,
            )
        else:
            pools[stage.index] = _pool(shared, stage, options)
    return pools, sink_pool


def _pool(shared: dict[str, WorkerPool], stage: StageState, options: RunOptions) -> WorkerPool:
    link = stage.planned.link
    spec = _spec(stage.planned)
    key = json.dumps([link.name, spec.options], sort_keys=True)
    if key not in shared:
        built = link.stage(link.choice.options)
        resources, threads = built.resources, max(1, round(built.resources.cpus))
        whole = stage.kind == "whole_stream"
        if whole:
            # A whole stream is worked on with all threads that the user allows.
            threads = options.threads
            cpus = max(resources.cpus, min(threads, WHOLE_CPUS))
            resources = replace(resources, cpus=cpus)
        shared[key] = WorkerPool(
            name=stage.name,
            kind="shared",
            whole=whole,
            specs=(spec,),
            resources=resources,
            threads=threads,
            deadline_s=built.deadline_s or options.deadline_s,
            whole_deadline_s=built.deadline_s,
        )
    return shared[key]


def _spec(planned: PlannedStage) -> StageSpec:
    link = planned.link
    options = link.choice.options.model_dump(mode="json")
    makes = slots(link.ports.makes)
    return StageSpec(link.step, link.choice.model, options, link.name, planned.key, makes)
