"""Entry point of the child process of `ChildProcess`: `python -m pipeline.worker FD FD`."""

from pipeline.worker.child_process import serve_parent

serve_parent()
