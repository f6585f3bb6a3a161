"""The `reel3d` command: one file a subcommand, `main.py` parses and dispatches.

Knows every room; no other room knows it. Nothing here may import a third-party package on import of
the package itself: `job_entrypoint` must first check the interpreter. Read `main.py` first.
"""
