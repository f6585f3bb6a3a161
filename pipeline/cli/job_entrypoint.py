"""What a job runs first on the cluster: is this Python, and what it holds, fit for reel3d?

    python -m pipeline.cli.job_entrypoint [--expect VERSION] run SOURCE… --runner cluster …

Only the standard library, in words that Python 3.8 reads: the cluster's `python` may be any, and
it is this file that says so.
"""

from __future__ import annotations

import os
import signal
import sys

from pipeline.jobs.preflight import unfit

__all__ = ["main"]


def main() -> int:
    """Check, say who runs where, and run the command."""
    words = sys.argv[1:]
    expected = None
    if words[:1] == ["--expect"]:
        expected, words = words[1], words[2:]
    why = unfit(expected)
    if why:
        sys.stderr.write(f"reel3d: {why}\n")
        return 2
    # A cluster that a script started in the background ignores SIGINT, and its jobs with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from pipeline.cli.main import main as command
    from pipeline.version import version

    job = os.environ.get("REEL3D_JOB", "a job")
    place = f"{os.uname().nodename}, Python {sys.version.split()[0]}"
    sys.stderr.write(f"reel3d {expected or version()}: {job} on {place}\n")
    sys.stderr.flush()
    return command(words)


if __name__ == "__main__":
    sys.exit(main())
