"""Compile the kernels of every model, so that the first run is as fast as the second.

python -m stages._kernels           # as `make setup` and docker/Dockerfile do
python -m stages._kernels --check   # whether they are compiled for this computer
"""

from __future__ import annotations

import sys
import time

from stages._kernels.state import RECORD, examine, record


def main() -> int:
    """Compile, or check; return the exit code."""
    if sys.argv[1:] == ["--check"]:
        state, why = examine()
        print(f"{state}: {why}")
        return 0 if state == "warm" else 1
    if sys.argv[1:]:
        print(f"unrecognized argument: {sys.argv[1]}; allowed: --check, or none", file=sys.stderr)
        return 2
    # Not needed for a check, which `reel3d doctor` makes.
    from pipeline.contract.stage import find, models, steps

    began = time.perf_counter()
    for step in steps():
        for model in models(step):
            find(step, model).compile_kernels()
    seconds = time.perf_counter() - began
    where = "" if record() == RECORD else " into your cache folder: the package is read-only"
    print(f"kernels are compiled{where} ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
