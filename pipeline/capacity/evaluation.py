"""Evaluation of a workload on some machines: one simulated run, in its steady state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from pipeline.capacity.cost_model import Costs
from pipeline.capacity.simulator import Simulation
from pipeline.capacity.workload import ClusterSpec, Counters, Workload
from pipeline.chain import Chain
from pipeline.config import RunOptions

__all__ = ["Evaluation", "Row", "follow", "lead"]

SETTLE_S = 10.0
MOST_STARTING_S = 120.0
WINDOW_S, WINDOW_CLIPS = 15.0, 10
WINDOWS = 5
MOST_DROPPED = 0.002
"""Share of the pictures that cameras may lose for good measure."""
HOPELESS = 0.1
"""With such a share lost nothing will settle."""
LEAST_CLIPS = 12
"""Clips of a file that is simulated in short."""
ENOUGH_CLIPS = 3000
"""Clips that are simulated of many or long files; the rest is like them."""
ROUNDS = 3
"""So many times as many files as run at one time are simulated."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage."""

    name: str
    pool: bool
    """Whether all streams share its workers; else each stream has one."""
    workers: float
    busy: float
    """Share of the time in which a worker has a call that runs."""
    cores: float
    """Mean number of busy cores."""
    gpus: float
    calls_s: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What became of the load."""

    keeps_up: bool
    behind: float
    """How much faster it would have to be: 1 where it keeps up."""
    clips_s: float
    """Clips that get through all stages, a second."""
    video_s: float
    """Seconds of video that get through, a second."""
    seconds: float | None
    """Files: until all are through."""
    latency_s: tuple[float, float] | None
    """Cameras: from a clip's last picture until all of it is written; median and 95 %."""
    dropped: float
    """Share of the pictures that cameras lose."""
    cpu: float
    """Share of the cores that is busy."""
    gpu: float
    driver: float
    """Share of its time that the driver is busy."""
    network: float
    """Share of what the busiest network card can take in or give out."""
    network_bytes_s: float
    """Into each machine, on average."""
    store_bytes: float
    """Most bytes of clips under way, over all machines."""
    budget_bytes: float
    """Bytes of clips under way that the runner allows itself."""
    rows: tuple[Row, ...] = field(repr=False)
    cores_a_stream: float
    """To work on a stream as fast as it is filmed."""
    gpus_a_stream: float
    driver_a_stream: float

    def times(self, jobs: int, parts: float) -> Evaluation:
        """Return the same for equal runs beside one another.

        Args:
            jobs: How many.
            parts: How many machines of one run there are for one real one.
        """
        if jobs == 1:
            return self
        rows = tuple(
            replace(
                row,
                workers=row.workers * jobs,
                cores=row.cores * jobs,
                gpus=row.gpus * jobs,
                calls_s=row.calls_s * jobs,
            )
            for row in self.rows
        )
        return replace(
            self,
            rows=rows,
            clips_s=self.clips_s * jobs,
            video_s=self.video_s * jobs,
            store_bytes=self.store_bytes * jobs,
            network_bytes_s=self.network_bytes_s * parts,
            budget_bytes=self.budget_bytes * jobs,
        )

    def slower_than(self, other: Evaluation) -> bool:
        """Return whether it is noticeably worse."""
        if self.seconds is not None and other.seconds is not None:
            return self.seconds > 1.05 * other.seconds
        mine, others = self.latency_s, other.latency_s
        return mine is not None and others is not None and mine[1] > 1.2 * others[1] + 0.1

    @property
    def bottleneck(self) -> tuple[str, float]:
        """What is nearest to its limit, and the share of that limit that is used."""
        used = {
            "the CPUs": self.cpu,
            "the GPUs": self.gpu,
            "the driver": self.driver,
            "the network": self.network,
        }
        if self.store_bytes >= 0.97 * self.budget_bytes:
            used["the object store"] = 0.0 if self.keeps_up else 1.0
        # A pool has as many workers as its work takes; one worker a stream is all there can be.
        for row in self.rows:
            if not row.pool:
                used[row.name] = row.busy
        name = max(used, key=lambda name: used[name])
        return name, used[name]


def follow(
    chain: Chain, options: RunOptions, load: Workload, site: ClusterSpec, costs: Costs
) -> Evaluation:
    """Follow cameras until it shows whether the machines keep up with them."""
    simulation = Simulation(chain, options, load, site, costs)
    while len(simulation.seen) < load.streams and simulation.now() < MOST_STARTING_S:
        simulation.run(simulation.now() + 1.0)
    simulation.run(simulation.now() + SETTLE_S)
    length = max(WINDOW_S, WINDOW_CLIPS * costs.film.clip_s)
    outcome = None
    for window in range(WINDOWS):
        before, waiting = simulation.look(), simulation.under_way
        simulation.run(before.at_s + length)
        skipped = simulation.look().since(before)
        late = [at for at in simulation.through if at[0] > before.at_s]
        first, second = _halves(late, before.at_s + skipped.at_s / 2)
        made = skipped.filmed_s / costs.film.clip_s
        grown = simulation.under_way - waiting
        grows = grown > 2 + 0.03 * made or second > 1.25 * first + 0.2 * costs.film.clip_s
        dropped = skipped.dropped_s / max(skipped.filmed_s, 1e-9)
        keeps_up = bool(late) and not grows and dropped <= MOST_DROPPED
        through_s = len(late) / skipped.at_s * costs.film.clip_s
        behind = 1.0 if keeps_up else max(1.02, load.streams / max(through_s, 1e-3))
        latency = sorted(record_duration for _, record_duration in late)
        outcome = _outcome(
            simulation,
            skipped,
            keeps_up=keeps_up,
            behind=behind,
            clips=len(late),
            seconds=None,
            latency_s=(_at(latency, 0.5), _at(latency, 0.95)) if latency else None,
            dropped=dropped,
        )
        # What was late at the start may still be on its way: the next window shows.
        if (keeps_up and second > 0.8 * first) or (dropped > HOPELESS and window):
            break
    assert outcome is not None
    return outcome


def lead(
    chain: Chain,
    options: RunOptions,
    load: Workload,
    site: ClusterSpec,
    costs: Costs,
    within_s: float | None,
) -> Evaluation:
    """Lead files through; of many or long ones a part, the rest being like it."""
    assert load.seconds is not None
    clips = math.ceil(load.seconds / costs.film.clip_s)
    files = min(load.streams, ROUNDS * max(2, round(site.cpus)))
    shown = min(clips, max(LEAST_CLIPS, ENOUGH_CLIPS // files))
    share = shown / clips
    short = replace(load, streams=files, seconds=load.seconds * share)
    simulation = Simulation(
        chain, options, short, site, costs.shortened(share), alone=load.streams == 1
    )
    simulation.run()
    made = sorted(simulation.made_at)
    low, high = len(made) // 5, len(made) - 1 - len(made) // 5
    rate = (high - low) / max(made[high] - made[low], 1e-9) if high > low else math.inf
    rest_s = (load.streams - files) * shown / rate if load.streams > files else 0.0
    seconds = (simulation.now() + rest_s) / share
    keeps_up = within_s is None or seconds <= within_s
    return _outcome(
        simulation,
        simulation.look(),
        keeps_up=keeps_up,
        behind=1.0 if keeps_up else seconds / (within_s or seconds),
        clips=len(simulation.through),
        seconds=seconds,
        latency_s=None,
        dropped=0.0,
    )


def _outcome(
    simulation: Simulation,
    skipped: Counters,
    *,
    keeps_up: bool,
    behind: float,
    clips: int,
    seconds: float | None,
    latency_s: tuple[float, float] | None,
    dropped: float,
) -> Evaluation:
    site, took_s = simulation.site, max(skipped.at_s, 1e-9)
    clip_s = simulation.costs.film.clip_s
    video_s = max(clips * clip_s, 1e-9)
    cores_s, gpus_s = skipped.cores_s, sum(skipped.gpu_s.values())
    into = sum(skipped.into_bytes) / took_s / site.shape.count
    most = max(*skipped.into_bytes, *skipped.out_bytes) / took_s
    return Evaluation(
        keeps_up=keeps_up,
        behind=behind,
        clips_s=clips / took_s,
        video_s=video_s / took_s,
        seconds=seconds,
        latency_s=latency_s,
        dropped=dropped,
        cpu=cores_s / took_s / (site.cpus * site.free),
        gpu=gpus_s / took_s / site.gpus if site.gpus else 0.0,
        driver=skipped.driver_s / took_s,
        network=most / site.network_bytes_s,
        network_bytes_s=into,
        store_bytes=simulation.scheduler.budget.peak_bytes,
        budget_bytes=simulation.limits.budget_bytes,
        rows=_rows(skipped, took_s, simulation),
        cores_a_stream=cores_s / video_s,
        gpus_a_stream=gpus_s / video_s,
        driver_a_stream=skipped.driver_s / video_s,
    )


def _rows(skipped: Counters, took_s: float, simulation: Simulation) -> tuple[Row, ...]:
    pools = simulation.pool_stages
    return tuple(
        Row(
            name=name,
            pool=name in simulation.shared_pools,
            workers=skipped.worker_s[name] / took_s,
            busy=skipped.busy_s[name] / max(skipped.worker_s[name], 1e-9),
            cores=sum(skipped.cpu_s[stage] for stage in stages) / took_s,
            gpus=sum(skipped.gpu_s[stage] for stage in stages) / took_s,
            calls_s=skipped.tasks[name] / took_s,
        )
        for name, stages in pools.items()
        if skipped.worker_s[name]
    )


def _halves(late: list[tuple[float, float]], middle: float) -> tuple[float, float]:
    """Return the median latency before and after the middle of a window."""
    first = sorted(record_duration for at, record_duration in late if at <= middle)
    second = sorted(record_duration for at, record_duration in late if at > middle)
    return _at(first, 0.5), _at(second, 0.5)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
