"""Scheduler of the cluster runner: which task runs when, where, and what a failure costs.

Must not know Ray, threads or the clock: a `Backend` brings them, and the simulator brings others.
Read `tasks.py` for the nouns, then `scheduler.py`.
"""
