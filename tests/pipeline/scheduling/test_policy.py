"""What a worker claims of its machine: one rule for Ray and for the simulator."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.contract import Resources
from pipeline.scheduling.policy import ResourceClaim, claim_scale, may_idle, resource_claim
from pipeline.scheduling.pools import WorkerPool
from pipeline.scheduling.tasks import StreamInfo

BIG: dict[str, Any] = {"cluster_cpus": 1000.0, "largest_cpus": 32.0, "exclusive": False}
NETWORK = Resources(cpus=2.0, gpus=0.25, memory_bytes=2_000_000_000)


def pool(kind: Any = "shared", resources: Resources = NETWORK, **more: Any) -> WorkerPool:
    return WorkerPool(name="x", kind=kind, specs=(), resources=resources, threads=1, **more)


def test_a_shared_worker_claims_what_it_needs() -> None:
    claim = resource_claim(pool(), **BIG)
    assert claim == ResourceClaim(cpus=2.0, gpus=0.25, memory_bytes=2_000_000_000)


def test_a_run_of_its_own_counts_cores_itself() -> None:
    claim = resource_claim(pool(), cluster_cpus=8.0, largest_cpus=8.0, exclusive=True)
    assert claim == ResourceClaim(gpus=0.25, memory_bytes=2_000_000_000)


def test_a_worker_of_one_stream_claims_nothing() -> None:
    assert resource_claim(pool("stateful"), **BIG).empty


def test_claims_shrink_on_a_small_cluster_so_that_runs_fit_beside_one_another() -> None:
    assert claim_scale(1000) == 1.0
    small = resource_claim(pool(), cluster_cpus=4.8, largest_cpus=4.8, exclusive=False)
    assert small.cpus == pytest.approx(0.2)


def test_a_claim_fits_on_the_largest_machine() -> None:
    wide = pool(resources=Resources(cpus=64.0))
    assert resource_claim(wide, **BIG).cpus == 32.0


def test_a_process_that_claims_memory_does_not_idle() -> None:
    """The simulator's copy of this rule had lost the memory claim."""
    memory = pool(resources=Resources(cpus=1.0, memory_bytes=1))
    plain = pool(resources=Resources(cpus=1.0))
    own: dict[str, Any] = {"cluster_cpus": 8.0, "largest_cpus": 8.0, "exclusive": True}
    assert not may_idle(memory, resource_claim(memory, **own))
    assert may_idle(plain, resource_claim(plain, **own))


def test_the_decoder_of_a_camera_does_not_idle() -> None:
    camera = pool("source", stream=StreamInfo(1, "yard", live=True))
    video = pool("source", stream=StreamInfo(2, "film"))
    assert not may_idle(camera, resource_claim(camera, **BIG))
    assert may_idle(video, resource_claim(video, **BIG))
