"""Where the command begins: before anything heavy is imported, so that Ctrl-C is quiet."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        from pipeline.cli.main import main as run
        from pipeline.worker import keep_freed
    except KeyboardInterrupt:
        print("reel3d: interrupted before anything was done", file=sys.stderr)
        return 130
    keep_freed()
    return run()


if __name__ == "__main__":
    sys.exit(main())
