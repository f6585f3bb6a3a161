"""The peers of the chain: actors by hand, passing arrays or references, and Ray Data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from benchmarks.batches import HEIGHT, WIDTH, Buffer, checksum, number_of
from benchmarks.on_ray import Times

__all__ = ["STAGES", "Sums", "arrays", "data", "references"]

STAGES = 8
DEPTH = 2
"""Calls in flight an actor."""
WINDOW = 18
"""Batches under way: as many as the runner lets in for eight stages."""

Sums = dict[int, int]
"""Number of a batch to the checksum of what came out."""


class Producer:
    """Makes the batches."""

    def __init__(self, frames: int) -> None:
        self._buffer = Buffer(frames)

    def make(self, number: int) -> Any:
        """Return a batch."""
        return self._buffer.images(number)

    def make_and_say(self, number: int) -> Any:
        """Return the batch's number, which comes to the driver, and the batch, which does not."""
        return number, self._buffer.images(number)


class Relay:
    """A stage that does nothing."""

    def through(self, images: Any) -> Any:
        """Return what it gets."""
        return images

    def done(self, images: Any, check: bool) -> tuple[int, int]:
        """Return the batch's number and, when asked, its checksum."""
        return number_of(images), checksum(images) if check else 0

    def say(self, number: int, images: Any, check: bool) -> tuple[int, int]:
        """Return only that it is done: the next stage gets the same reference."""
        return number, checksum(images) if check else 0


def arrays(frames: int, batches: int, check: bool) -> tuple[Times, Sums]:
    """Run actors that return the array; a batch's whole chain is submitted at once."""
    import ray

    remote: Any = ray.remote
    began = time.perf_counter()
    producer = remote(num_cpus=0)(Producer).remote(frames)
    relays = [remote(num_cpus=0)(Relay).remote() for _ in range(STAGES)]
    sums: Sums = {}
    done: list[float] = []
    under_way: deque[Any] = deque()
    made = 0
    while made < batches or under_way:
        while made < batches and len(under_way) < WINDOW:
            ref = producer.make.remote(made)
            for relay in relays[:-1]:
                ref = relay.through.remote(ref)
            under_way.append(relays[-1].done.remote(ref, check))
            made += 1
        number, value = ray.get(under_way.popleft())
        sums[number] = value
        done.append(time.perf_counter())
    return Times(done, time.perf_counter() - began), sums


def references(frames: int, batches: int, check: bool) -> tuple[Times, Sums]:
    """Run actors that return no pixels; the driver hands the reference to the next stage."""
    import ray

    remote: Any = ray.remote
    began = time.perf_counter()
    producer = remote(num_cpus=0)(Producer).remote(frames)
    relays = [remote(num_cpus=0)(Relay).remote() for _ in range(STAGES)]
    make = producer.make_and_say.options(num_returns=2)
    waiting: list[deque[tuple[int, Any]]] = [deque() for _ in range(STAGES)]
    flying = [0] * (STAGES + 1)
    """By stage; the producer's stand last."""
    calls: dict[Any, tuple[int, int, Any]] = {}
    sums: Sums = {}
    done: list[float] = []
    made = under_way = 0
    while len(done) < batches:
        for stage in reversed(range(STAGES)):
            while waiting[stage] and flying[stage] < DEPTH:
                number, images = waiting[stage].popleft()
                last = stage == STAGES - 1
                said = relays[stage].say.remote(number, images, check and last)
                calls[said] = stage, number, images
                flying[stage] += 1
        while made < batches and flying[STAGES] < DEPTH and under_way < WINDOW:
            said, images = make.remote(made)
            calls[said] = -1, made, images
            flying[STAGES] += 1
            made += 1
            under_way += 1
        ready, _ = ray.wait(list(calls), num_returns=1)
        more = [ref for ref in calls if ref not in ready]
        if more:
            ready += ray.wait(more, num_returns=len(more), timeout=0)[0]
        for ref, value in zip(ready, ray.get(ready), strict=True):
            stage, number, images = calls.pop(ref)
            flying[stage] -= 1
            if stage < STAGES - 1:
                waiting[stage + 1].append((number, images))
                continue
            sums[number] = value[1]
            done.append(time.perf_counter())
            under_way -= 1
    return Times(done, time.perf_counter() - began), sums


class Pass:
    """A stage of Ray Data that does nothing."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch."""
        return batch


class Make:
    """The producer of Ray Data: rows are frames."""

    def __init__(self, frames: int) -> None:
        self._buffer = Buffer(frames)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the batch of the first row's number."""
        frames = len(batch["id"])
        number = int(batch["id"][0]) // frames
        return {"number": batch["id"] // frames, "images": self._buffer.images(number)}


class Checksum:
    """The end of Ray Data's chain when the outputs are compared."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the number and the checksum of the batch."""
        images = batch["images"]
        assert images.shape[1:] == (HEIGHT, WIDTH, 3)
        return {"number": batch["number"][:1], "sum": [checksum(images)]}


def data(frames: int, batches: int, check: bool) -> tuple[Times, Sums]:
    """Run Ray Data with an actor a stage; what comes out stays in the object store."""
    import ray.data

    began = time.perf_counter()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    one: Any = ray.data.ActorPoolStrategy(size=1)
    how: dict[str, Any] = {"batch_size": frames, "compute": one, "num_cpus": 0.01}
    dataset: Any = ray.data.range(frames * batches, override_num_blocks=batches)
    dataset = dataset.map_batches(Make, fn_constructor_args=(frames,), zero_copy_batch=True, **how)
    for _ in range(STAGES):
        dataset = dataset.map_batches(Pass, zero_copy_batch=True, **how)
    sums: Sums = {}
    done: list[float] = []
    if check:
        for row in dataset.map_batches(Checksum, **how).iter_rows():
            sums[int(row["number"])] = int(row["sum"])
    else:
        for rows in _sizes(dataset):
            done += [time.perf_counter()] * (rows // frames)
    return Times(done, time.perf_counter() - began), sums


def _sizes(dataset: Any) -> Iterator[int]:
    """Yield how many rows came out, as they do; nothing is fetched."""
    for bundle in dataset.iter_internal_ref_bundles():
        yield bundle.num_rows()
