"""How a run reports itself: meters, logs, progress on a terminal, run status.

Must not know any runner: runners call a `ProgressListener`. Read `listener.py` first.
Terminal displays load rich and are not among the names below: import `live_table` and
`progress_bar` themselves.
"""

from pipeline.telemetry.listener import ProgressListener, RunListener, SilentListener
from pipeline.telemetry.logs import LEVELS, Form, LogSettings, bind, bound, configure
from pipeline.telemetry.meter import (
    Meter,
    forget_peak,
    meter_from_dict,
    meter_to_dict,
    peak_memory_bytes,
)
from pipeline.telemetry.status import RunStatus, StageStatus, StreamStatus

__all__ = [
    "LEVELS",
    "Form",
    "LogSettings",
    "Meter",
    "ProgressListener",
    "RunListener",
    "RunStatus",
    "SilentListener",
    "StageStatus",
    "StreamStatus",
    "bind",
    "bound",
    "configure",
    "forget_peak",
    "meter_from_dict",
    "meter_to_dict",
    "peak_memory_bytes",
]
