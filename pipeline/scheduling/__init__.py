"""Scheduler of the cluster runner: which task runs when, where, and what a failure costs.

Must not know Ray, threads or the clock: a `Backend` brings them, and the simulator brings others.
Read `tasks.py` for the nouns, then `scheduler.py`.
"""

from pipeline.scheduling.backend import (
    Limits,
    ObjectsLost,
    StreamHooks,
    TaskDone,
    TaskResult,
    WorkerEvent,
    WorkerLost,
    WorkerStarted,
    report_task,
)
from pipeline.scheduling.dataflow import Dataflow
from pipeline.scheduling.placement import assign_pools
from pipeline.scheduling.policy import (
    IDLE_ACTOR_S,
    IDLE_ACTORS,
    STORE_SHARE,
    ResourceClaim,
    may_idle,
    resource_claim,
)
from pipeline.scheduling.pools import Worker, WorkerPool
from pipeline.scheduling.remote_calls import references_of, request_of, result_of, started
from pipeline.scheduling.resume import fast_forward
from pipeline.scheduling.scheduler import Scheduler
from pipeline.scheduling.tasks import FINISH, Outputs, StageState, StreamInfo, Task, WorkItem

__all__ = [
    "FINISH",
    "IDLE_ACTORS",
    "IDLE_ACTOR_S",
    "STORE_SHARE",
    "Dataflow",
    "Limits",
    "ObjectsLost",
    "Outputs",
    "ResourceClaim",
    "Scheduler",
    "StageState",
    "StreamHooks",
    "StreamInfo",
    "Task",
    "TaskDone",
    "TaskResult",
    "WorkItem",
    "Worker",
    "WorkerEvent",
    "WorkerLost",
    "WorkerPool",
    "WorkerStarted",
    "assign_pools",
    "fast_forward",
    "may_idle",
    "references_of",
    "report_task",
    "request_of",
    "resource_claim",
    "result_of",
    "started",
]
