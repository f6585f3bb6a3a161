"""Job status: state, failure reason and exit code of a Ray job."""

from __future__ import annotations

import calendar
import json
import time
from typing import Any

from pipeline.jobs.preflight import LACKING
from pipeline.sources import scrub

__all__ = ["CANCELED", "age", "exit_code", "reason", "row", "state"]

CANCELED = 130
KILLED = 4
"""As when a worker dies: what the job held is lost."""

STATES = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "STOPPED": "canceled",
    "FAILED": "failed",
}
FAILURES = {2: "refused", 3: "no usable source", 4: "incomplete"}
"""What the exit codes of `run` mean, in a word."""


def row(job: Any) -> dict[str, Any]:
    """Return the status of a job as plain JSON values."""
    told: dict[str, str] = job.metadata or {}
    try:
        sources = [scrub(str(source)) for source in json.loads(told.get("sources", "[]"))]
    except (ValueError, TypeError):
        sources = []
    count = told.get("source_count", "")
    return {
        "job": job.submission_id,
        "state": state(job),
        "started": _time(job.start_time),
        "ended": _time(job.end_time),
        "sources": sources,
        "source_count": int(count) if count.isdecimal() else len(sources),
        "out": scrub(told.get("out", "")),
        "user": scrub(told.get("user", "")),
        "version": scrub(told.get("reel3d", "")),
        "priority": scrub(told.get("priority", "")),
        "share": scrub(told.get("share", "")),
        "exit_code": exit_code(job) if job.status.is_terminal() else None,
        "reason": reason(job),
    }


def state(job: Any) -> str:
    """Return one word or two: `running`, `done`, `no usable source`."""
    name = str(job.status)
    if name == "FAILED" and job.driver_exit_code in FAILURES:
        return FAILURES[job.driver_exit_code]
    return STATES.get(name, name.lower())


def exit_code(job: Any) -> int:
    """Return the exit code of a job that has ended, as `run` would have given it."""
    ended, code = str(job.status), job.driver_exit_code
    if ended == "SUCCEEDED":
        return 0
    if ended == "STOPPED":
        return CANCELED
    return code if code in (1, 2, 3, 4, CANCELED) else KILLED


def reason(job: Any) -> str:
    """Say in one line why a job failed; empty for one that did not."""
    if str(job.status) != "FAILED":
        return ""
    code, message = job.driver_exit_code, str(job.message or "")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if "No module named 'pipeline'" in message or "No module named pipeline" in message:
        return f"{LACKING}: it has no reel3d; install it there, or submit from a checkout"
    if code == 127:
        return f"{LACKING}: there is no `python` on its PATH"
    if code is not None and (code < 0 or code > 128):
        number = -code if code < 0 else code - 128
        more = " (often for want of memory)" if number == 9 else ""
        return f"it was killed by signal {number}{more}; --resume continues its run"
    own = [line for line in lines if line.startswith(("reel3d:", "reel3d "))]
    if own and own[-1].endswith("please report the above"):
        # What is above ends with the exception.
        own = lines[: lines.index(own[-1])][-1:]
    told = own[-1] if own else (lines[-1] if lines else "it gave no reason")
    return scrub(told.removeprefix("reel3d: "))


def _time(stamp_ms: int | None) -> str | None:
    """Return Ray's milliseconds since 1970 as UTC in ISO's form."""
    if not stamp_ms:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp_ms / 1000))


def age(stamp: str | None) -> str:
    """Return how long ago a time of `row` was, in words."""
    if stamp is None:
        return ""
    seconds = time.time() - calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
