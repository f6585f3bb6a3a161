"""How a run reports itself: meters, logs, progress on a terminal, run status.

Must not know any runner: runners call a `ProgressListener`. Read `listener.py` first.
"""
