"""What `import pipeline` offers to Python: run a source, open a run folder, read what it holds.

Must not know the command line, which is written with it. Read `launch.py` first, then
`finished_run.py`.
"""

from pipeline.api.arrays import CameraArrays, SplatArrays
from pipeline.api.finished_run import Run, RunLoss, RunWarning, open
from pipeline.api.launch import Launch, make_source, run, run_all

__all__ = [
    "CameraArrays",
    "Launch",
    "Run",
    "RunLoss",
    "RunWarning",
    "SplatArrays",
    "make_source",
    "open",
    "run",
    "run_all",
]
