"""The Ray side of the cluster runner: actors, connection, fair share, Prometheus.

Everything that imports Ray, but for `jobs.client`. Decisions belong to `scheduling`; this room only
carries them out. Read `runner.py` first.
Nothing is re-exported: an actor loads one module of this room, not the scheduler.
"""
