"""reel3d turns video into what happened in it and the place it happened in.

::

    import pipeline

    run = pipeline.run("holiday.mp4")            # as `reel3d run` does; returns a `Run`
    run = pipeline.open("runs/holiday")          # a run that was made before
    run.events, run.cameras, run.splats, run.depth(0), run.points, run.view()

Errors are those of `pipeline.errors`. Nothing is loaded before it is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline import errors
    from pipeline.api import CameraArrays, Run, RunLoss, RunWarning, SplatArrays, open, run, run_all

__all__ = [
    "CameraArrays",
    "Run",
    "RunLoss",
    "RunWarning",
    "SplatArrays",
    "errors",
    "open",
    "run",
    "run_all",
]


def __getattr__(name: str) -> object:
    # A job of a cluster imports this package before it knows whether the interpreter can run it:
    # standard library only, in the syntax of Python 3.8.
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    import importlib

    if name == "errors":
        return importlib.import_module("pipeline.errors")
    value = getattr(importlib.import_module("pipeline.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
