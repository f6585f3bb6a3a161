"""What runs inside a worker process: opens stages and answers requests.

Must not know Ray or the scheduler; the local runner's child process and the profiler use it too.
Read `protocol.py` first, then `stage_host.py`.
"""

from pipeline.worker.allocator import give_back, keep_freed
from pipeline.worker.child_process import ChildProcess, StageBug, stop_sources
from pipeline.worker.clip_metadata import ClipMetadata
from pipeline.worker.failure_policy import judge_source, judge_stage, no_frames, one_line
from pipeline.worker.protocol import (
    ClipDecoded,
    EndOfStream,
    Failed,
    Failure,
    Finished,
    FinishStream,
    LoadMessages,
    MakeReport,
    NextClip,
    Opened,
    OpenFailed,
    Outcome,
    Persisted,
    PersistMessages,
    Processed,
    ProcessItem,
    RedecodeClip,
    Reply,
    Request,
    RunLocation,
    StageSpec,
    mark_location,
)
from pipeline.worker.serialization import INLINE_BYTES, ForwardedArray, MessageRef, kind_of, slots
from pipeline.worker.stage_host import StageHost

__all__ = [
    "INLINE_BYTES",
    "ChildProcess",
    "ClipDecoded",
    "ClipMetadata",
    "EndOfStream",
    "Failed",
    "Failure",
    "FinishStream",
    "Finished",
    "ForwardedArray",
    "LoadMessages",
    "MakeReport",
    "MessageRef",
    "NextClip",
    "OpenFailed",
    "Opened",
    "Outcome",
    "PersistMessages",
    "Persisted",
    "ProcessItem",
    "Processed",
    "RedecodeClip",
    "Reply",
    "Request",
    "RunLocation",
    "StageBug",
    "StageHost",
    "StageSpec",
    "give_back",
    "judge_source",
    "judge_stage",
    "keep_freed",
    "kind_of",
    "mark_location",
    "no_frames",
    "one_line",
    "slots",
    "stop_sources",
]
