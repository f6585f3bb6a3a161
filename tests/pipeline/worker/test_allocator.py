"""Memory that stages free stays with their process, until it is given back."""

import subprocess
import sys

PROGRAM = """
import resource, sys
import numpy as np
from pipeline.worker.allocator import give_back, keep_freed

if sys.argv[1] == "kept":
    keep_freed()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
held = lambda: int(open("/proc/self/statm").read().split()[1])
block = lambda: np.full(48 << 20, 1, np.uint8)
block()
before = faults()
for _ in range(4):
    block()
print(faults() - before)
full = held()
give_back()
print(full - held())
"""


def _measured(how: str) -> tuple[int, int]:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    faults, pages = said.stdout.split()
    return int(faults), int(pages)


def test_the_next_array_of_the_same_size_costs_no_pages() -> None:
    without, _ = _measured("plain")
    faults, given_back = _measured("kept")
    pages = (48 << 20) // 4096
    assert faults < without / 10 or faults < 10
    assert given_back > 0.9 * pages
