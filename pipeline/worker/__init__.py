"""What runs inside a worker process: opens stages and answers requests.

Must not know Ray or the scheduler; the local runner's child process and the profiler use it too.
Read `protocol.py` first, then `stage_host.py`.
"""
