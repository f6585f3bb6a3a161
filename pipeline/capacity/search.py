"""How many machines a load takes: simulations of the runner, from few machines to enough of them.

Cameras are kept up with where no picture is dropped and what waits does not grow. Files are kept
up with where all are through in the time that is given. One driver leads a limited number of
streams; beyond that a plan is made of several equal runs that share the machines, and one of them
is simulated on its part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.capacity.cost_model import Costs
from pipeline.capacity.evaluation import Evaluation, follow, lead
from pipeline.capacity.machines import MachineSpec
from pipeline.capacity.workload import ClusterSpec, Workload
from pipeline.chain import Chain
from pipeline.config import RunOptions
from pipeline.scheduling import STORE_SHARE

__all__ = ["Candidate", "ClusterSearch", "PlanRequest", "PlanResult"]

DRIVER_BUSY = 0.7
"""Share of its time that a driver may be busy: beyond that events wait for it."""
CPU_BUSY = 0.9
"""Share of the cores that may be busy where cameras are to be kept up with."""
LEAST_CORES = 4.0
"""Cores that one run's part of a machine has at least."""
CARDS = (1, 2.5, 10, 25, 40, 100, 200, 400, 800)
"""Network cards, Gbit/s."""
LEAST_STORE_BYTES = 2e8
MOST_MACHINES = 100_000
MOST_TRIES = 8
MOST_BISECTIONS = 3
PILOT_STREAMS = 4
PILOT_CORES = 64
PILOT_GPUS = 8


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What is to be planned."""

    chain: Chain
    options: RunOptions
    load: Workload
    costs: Costs
    within_s: float | None = None
    """Files: time until all must be processed."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Machines, and what became of the load on them."""

    site: ClusterSpec
    jobs: int
    """Runs that share the machines, each with a driver of its own."""
    outcome: Evaluation


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What a plan says."""

    given: Candidate | None
    """What becomes of the load on the machines that there are."""
    most_streams: int | None
    """How many streams these keep up with, where it is not all of them."""
    needed: Candidate | None
    """The machines that it takes, where those that there are do not do."""
    store_bytes: float
    """Object store of a machine that is enough, within a factor of two."""
    network_bytes_s: float
    """Network card of a machine that is enough."""

    @property
    def shown(self) -> Candidate:
        """The simulation that the reported figures are of."""
        shown = self.needed or self.given
        assert shown is not None
        return shown


class ClusterSearch:
    """Answers a request by simulations; each is announced to `tell`."""

    def __init__(self, question: PlanRequest, tell: Callable[[str], None]) -> None:
        """Simulate nothing yet."""
        self._question = question
        self._tell = tell

    def answer(self, site: ClusterSpec, *, given: bool) -> PlanResult:
        """Answer the question.

        Args:
            site: The machines that there are, or one of those that may be had.
            given: There are these and no others.
        """
        tried = self.on(site) if given else None
        most, needed = None, None
        if tried is None or not tried.outcome.keeps_up:
            most = self.most_streams(site, tried) if tried else None
            needed = self.enough(site)
        shown = needed or tried
        assert shown is not None
        store = self.least_store(shown)
        network = self.least_network(replace(shown, site=replace(shown.site, store_bytes=store)))
        return PlanResult(
            given=tried,
            most_streams=most,
            needed=needed,
            store_bytes=store,
            network_bytes_s=network,
        )

    def on(
        self, site: ClusterSpec, streams: int | None = None, jobs: int | None = None
    ) -> Candidate:
        """Simulate so many streams on these machines, as several runs if one driver is too slow."""
        load = self._question.load
        load = replace(load, streams=streams or load.streams)
        jobs = jobs or self._jobs(load.streams)
        while True:
            part = replace(load, streams=math.ceil(load.streams / jobs))
            shape = site.shape
            self._tell(
                f"{load.streams} streams on {shape.count} machine(s) of {shape.cpus:g} CPUs"
                + (f", as {jobs} runs" if jobs > 1 else "")
            )
            smaller = _part_of(site, jobs)
            parts = jobs * smaller.shape.count / shape.count
            outcome = self._simulate(part, smaller)
            if outcome.keeps_up or outcome.driver < CPU_BUSY or part.streams == 1:
                return Candidate(site=site, jobs=jobs, outcome=outcome.times(jobs, parts))
            jobs = math.ceil(jobs * outcome.driver / DRIVER_BUSY)

    def enough(self, kind: ClusterSpec) -> Candidate:
        """Find the smallest number of machines of a kind that keep up; of one, the fewest cores.

        Where no number keeps up, what came nearest is returned.
        """
        shape = kind.shape
        least = max(1, math.ceil(self._cores / shape.cpus), math.ceil(self._gpus(shape)))
        if least > MOST_MACHINES:
            return self.on(_with(kind, MOST_MACHINES))
        low, count = least - 1, max(least, math.ceil(self._cores / shape.cpus / CPU_BUSY))
        found = self.on(_with(kind, count))
        best = found
        tries = 0
        while not _will_do(found) and tries < MOST_TRIES:
            low, count = count, max(count + 1, math.ceil(1.3 * count))
            found = self.on(_with(kind, count))
            better = found.outcome.behind < 0.97 * best.outcome.behind
            best = found if better else best
            # Where more machines do not help, a few more show as much as many.
            tries += 1 if better else 3
        if not _will_do(found):
            return best
        for _ in range(MOST_BISECTIONS):
            if count - low <= max(1, count // 32):
                break
            middle = (low + count) // 2
            tried = self.on(_with(kind, middle))
            low, count, found = (low, middle, tried) if _will_do(tried) else (middle, count, found)
        return self._fewest_cores(found) if count == 1 else found

    def most_streams(self, site: ClusterSpec, tried: Candidate) -> int:
        """Find about how many streams these machines keep up with, at most those of the load."""
        low, high = 0, self._question.load.streams
        guess = int(high / max(1.05, tried.outcome.behind))
        for _ in range(MOST_BISECTIONS + 1):
            if high - low <= max(1, high // 16):
                break
            middle = min(max(guess, low + 1), high - 1)
            if self.on(site, middle).outcome.keeps_up:
                low = middle
            else:
                high = middle
            guess = (low + high) // 2
        return low

    def least_store(self, tried: Candidate) -> float:
        """Return the bytes of object store of a machine that are enough, within a factor of two."""
        there = tried.site.store_bytes
        if not tried.outcome.keeps_up:
            return there
        lay = tried.outcome.store_bytes / tried.site.shape.count
        store = max(LEAST_STORE_BYTES, lay / STORE_SHARE)
        good = store < there and self._as_good(replace(tried.site, store_bytes=store), tried)
        factor = 0.5 if good else 2.0
        while LEAST_STORE_BYTES <= store * factor < there:
            again = self._as_good(replace(tried.site, store_bytes=store * factor), tried)
            if good and not again:
                return store
            store *= factor
            if again and not good:
                return store
        return store if good else there

    def least_network(self, tried: Candidate) -> float:
        """Return the network card of a machine that is enough, of those that are sold."""
        outcome, site = tried.outcome, tried.site
        through = outcome.network * site.network_bytes_s
        if site.shape.count == 1 or not outcome.keeps_up:
            return min(through, site.network_bytes_s)
        for gigabits in CARDS:
            card = gigabits * 1e9 / 8
            if card >= site.network_bytes_s:
                break
            if card > through and self._as_good(replace(site, network_bytes_s=card), tried):
                return card
        return site.network_bytes_s

    # ------------------------------------------------------------------------------------------

    def _as_good(self, site: ClusterSpec, tried: Candidate) -> bool:
        again = self.on(site, jobs=tried.jobs).outcome
        return again.keeps_up and not again.slower_than(tried.outcome)

    def _simulate(self, load: Workload, site: ClusterSpec) -> Evaluation:
        asked = self._question
        if load.seconds is None:
            return follow(asked.chain, asked.options, load, site, asked.costs)
        return lead(asked.chain, asked.options, load, site, asked.costs, asked.within_s)

    @cached_property
    def _pilot(self) -> Evaluation:
        """A few streams on a machine with room for all: what each of them takes."""
        load = self._question.load
        few = replace(load, streams=min(load.streams, PILOT_STREAMS))
        shape = MachineSpec(1, PILOT_CORES, PILOT_GPUS)
        return self._simulate(few, ClusterSpec(shape=shape, store_bytes=1e15, network_bytes_s=1e15))

    def _speed(self, streams: int) -> float:
        """Return the streams that must be worked on at one time, each as fast as it is filmed."""
        load, within_s = self._question.load, self._question.within_s
        if load.seconds is None:
            return streams
        return streams * load.seconds / within_s if within_s else 1.0

    @property
    def _cores(self) -> float:
        return self._speed(self._question.load.streams) * self._pilot.cores_a_stream

    def _gpus(self, shape: MachineSpec) -> float:
        needed = self._speed(self._question.load.streams) * self._pilot.gpus_a_stream
        return needed / shape.gpus if shape.gpus else 0.0

    def _jobs(self, streams: int) -> int:
        busy = self._speed(streams) * self._pilot.driver_a_stream
        return max(1, min(streams, math.ceil(busy / DRIVER_BUSY)))

    def _fewest_cores(self, found: Candidate) -> Candidate:
        """Take cores away from the only machine as long as it keeps up."""
        shape = found.site.shape
        low, high = max(0, math.ceil(self._cores) - 1), int(shape.cpus)
        store = found.site.store_bytes / shape.cpus
        for _ in range(2 * MOST_BISECTIONS):
            if high - low <= 1:
                break
            middle = (low + high) // 2
            smaller = replace(
                found.site,
                shape=MachineSpec(1, middle, shape.gpus),
                store_bytes=store * middle,
            )
            tried = self.on(smaller)
            low, high, found = (low, middle, tried) if _will_do(tried) else (middle, high, found)
        return found


def _will_do(tried: Candidate) -> bool:
    """Say whether machines are enough to be recommended: cameras may show more some day."""
    outcome = tried.outcome
    return outcome.keeps_up and (outcome.seconds is not None or outcome.cpu <= CPU_BUSY)


def _with(kind: ClusterSpec, count: int) -> ClusterSpec:
    return replace(kind, shape=replace(kind.shape, count=count))


def _part_of(site: ClusterSpec, jobs: int) -> ClusterSpec:
    """Return what one of several runs has: a part of every machine, but no splinters."""
    if jobs == 1:
        return site
    cores, gpus = site.cpus / jobs, site.gpus / jobs
    count = min(site.shape.count, max(1, int(cores / LEAST_CORES)))
    if gpus:
        count = min(count, max(1, int(gpus)))
    share = site.shape.count / jobs / count
    return replace(
        site,
        shape=MachineSpec(count, cores / count, gpus / count),
        store_bytes=site.store_bytes * share,
        network_bytes_s=site.network_bytes_s * share,
    )
