"""The runner in this process: a chain of generators with bounded look-ahead.

Must not know the scheduler or Ray; makes the same run folder as the cluster runner does.
Read `runner.py` first.
"""

from pipeline.local.runner import LocalRunner

__all__ = [
    "LocalRunner",
]
