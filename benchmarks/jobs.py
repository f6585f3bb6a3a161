"""Two jobs at once on one cluster: the small one must not wait for the large one.

    python -m benchmarks.jobs [--repeats 7] [--batches 150]

Each job is a process of its own that joins the cluster and runs one stream through a stage that
keeps a core busy for 30 ms a clip; the large one has ten times the clips of the small one. The
small job runs alone, and then beside the large one, which has been at work for a while; the
figures are its times without and with the start of its process. Bar: at most 2.2 times its time
alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks import on_ray
from benchmarks.rounds import Spread, alternate, ratio

BAR = 2.2
BURN_S = 0.03
LARGER = 10
CHILD = "--child"


def child(address: str, batches: int) -> None:
    """Run one job; print when its stage is at work, and how long the run took."""
    from pipeline.cluster.connection import joined

    chain = (
        on_ray.choose("decode", "synthetic", frames=1, batches=batches, width=320, height=180),
        on_ray.choose("sample", "batches"),
        on_ray.choose("relay", "one", burn_s=BURN_S),
    )
    with joined(address) as found:
        times = on_ray.run_streams([on_ray.synthetic()], chain, found)
    assert len(times.done) == batches
    print(times.whole_s, flush=True)


def started(address: str, batches: int) -> subprocess.Popen[str]:
    """Start a job."""
    words = [sys.executable, "-m", "benchmarks.jobs", CHILD, address, str(batches)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def small(address: str, batches: int) -> tuple[float, float]:
    """Return how long the small job took, without and with the start of its process."""
    began = time.perf_counter()
    out, _ = (job := started(address, batches)).communicate()
    assert job.returncode == 0
    return float(out), time.perf_counter() - began


def beside(address: str, batches: int, head_start_s: float) -> tuple[float, float]:
    """Return the same while the large job is at work."""
    large = started(address, LARGER * batches)
    try:
        time.sleep(head_start_s)
        times = small(address, batches)
        assert large.poll() is None, "the large job was through before the small one"
        return times
    finally:
        # What is left of it shows nothing more.
        large.terminate()
        large.communicate()


def main() -> None:
    """Measure and print."""
    if CHILD in sys.argv:
        child(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, default=150)
    options = parser.parse_args()
    with on_ray.cluster():
        import ray

        address = ray.get_runtime_context().gcs_address
        _, with_start = small(address, options.batches)
        rounds = alternate(
            {
                "alone": lambda: small(address, options.batches),
                "beside": lambda: beside(address, options.batches, with_start + 2.0),
            },
            options.repeats,
        )
    print("| | alone s | beside the large job s | times | bar |")
    print("|---|---|---|---|---|")
    fine = True
    for place, name in enumerate(("the run", "with the start of its process")):
        alone, other = ([times[place] for times in rounds[way]] for way in ("alone", "beside"))
        more = ratio(other, alone)
        row = [name, str(Spread(tuple(alone))), str(Spread(tuple(other))), str(more), str(BAR)]
        print("| " + " | ".join(row) + " |")
        fine &= more.middle <= BAR
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
