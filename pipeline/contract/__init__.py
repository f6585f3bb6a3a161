"""All that the author of a stage or viewer imports: `from pipeline.contract import Stage, Frames`.

Must not know any runner or any model. Read `messages.py` first, then `stage.py`.
"""

from pipeline.contract.events import Artifact, Event, Loss, Metric, Progress, Warn
from pipeline.contract.messages import (
    Actions,
    Array,
    DepthMaps,
    Frames,
    Keyframes,
    Masks,
    Message,
    Motion,
    Points,
    RunSummary,
    Scores,
    SensorData,
    Spec,
    Splats,
    StereoPair,
    Tracks,
    Views,
)
from pipeline.contract.source import DecodedFrame, Probe, Reader, Source, Timeline
from pipeline.contract.stage import Context, Options, Resources, Stage
from pipeline.contract.viewer import Viewer

__all__ = [
    "Actions",
    "Array",
    "Artifact",
    "Context",
    "DecodedFrame",
    "DepthMaps",
    "Event",
    "Frames",
    "Keyframes",
    "Loss",
    "Masks",
    "Message",
    "Metric",
    "Motion",
    "Options",
    "Points",
    "Probe",
    "Progress",
    "Reader",
    "Resources",
    "RunSummary",
    "Scores",
    "SensorData",
    "Source",
    "Spec",
    "Splats",
    "Stage",
    "StereoPair",
    "Timeline",
    "Tracks",
    "Viewer",
    "Views",
    "Warn",
]
