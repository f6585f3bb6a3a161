"""A training's checkpoints, and what it does when memory runs out."""

import os
import pickle
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.contract import Context, Progress, Warn
from stages._gaussians import binning as _binning
from stages._gaussians.kernels import ThreadPool
from stages._gaussians.passes import Projection, draw_pass
from stages.splat import _session
from stages.splat._cpu import CpuBackend
from stages.splat._train import Trainer
from stages.splat.cpu import Config, Model
from tests.stages.splat.test_training import arrays, room, train


class Interrupted(Exception):
    pass


def interrupt(folder, at, v=None, **options):
    """Train with a checkpoint at every step, and break off at a share of the budget."""

    def report(event):
        if isinstance(event, Progress) and event.done >= at:
            raise Interrupted

    config = {"seconds": 600, "gaussians": 6000, "steps": 60, **options}
    stage = Model(Config(**config))
    stage.open(Context(threads=2, folder=folder, report=report))
    try:
        with pytest.raises(Interrupted):
            stage.process(room() if v is None else v)
    finally:
        stage.close()


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(_session, "CHECKPOINT_EVERY_S", -1.0)
    monkeypatch.setattr(_session, "REPORT_EVERY_S", -1.0)


@pytest.mark.parametrize(
    "options", [{}, {"strategy": "mcmc"}, {"refine_poses": True, "exposure": True}]
)
def test_what_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, options):
    whole = train(room(), steps=30, **options)[0]
    assert len(whole.means) > 5000, "it must grow before and after the break"
    interrupt(tmp_path, 0.55, steps=30, **options)
    assert (tmp_path / _session.CHECKPOINT).is_file()
    begins = []
    stage = Model(Config(seconds=600, gaussians=6000, steps=30, **options))
    stage.open(Context(threads=1, folder=tmp_path, report=begins.append))
    resumed = stage.process(room())
    stage.close()
    shares = [event.done for event in begins if isinstance(event, Progress)]
    assert 0.5 < shares[0] < 0.6
    assert not [event for event in begins if isinstance(event, Warn)]
    assert all(np.array_equal(a, b) for a, b in zip(arrays(whole), arrays(resumed), strict=True))
    assert np.array_equal(whole.T_world_camera, resumed.T_world_camera)
    assert not (tmp_path / _session.CHECKPOINT).exists()


def test_a_checkpoint_of_another_scene_is_told_and_not_used(tmp_path):
    interrupt(tmp_path, 0.2, replace(room(), images=255 - room().images))
    fresh = train(room(), steps=10)[0]
    splats, _, warnings = train(room(), steps=10, folder=tmp_path)
    assert any("belongs to another scene or other options" in text for text in warnings)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(fresh), arrays(splats), strict=True))


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps(Trap())])
def test_a_file_that_is_no_checkpoint_is_told_and_runs_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / _session.CHECKPOINT
    path.parent.mkdir()
    path.write_bytes(content)
    _, _, warnings = train(room(), steps=2, folder=tmp_path)
    assert any("a checkpoint was found but it cannot be read" in text for text in warnings)
    assert not (tmp_path / "trapped").exists()


def test_half_a_checkpoint_is_told(tmp_path):
    interrupt(tmp_path, 0.1)
    path = tmp_path / _session.CHECKPOINT
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, _, warnings = train(room(), steps=2, folder=tmp_path)
    assert any("training starts from scratch" in text for text in warnings)


CRAMPED = """
import resource, psutil, numpy as np
from tests.stages.splat.test_training import room, train
train(room(), steps=5, gaussians=5000)
now = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (now + {spare}, now + {spare}))
splats, metrics, warnings = train(room(), steps=50, gaussians=2_000_000)
print("count", len(splats.means), "steps", metrics["steps"])
print(*warnings, sep="\\n")
"""


def test_where_memory_runs_out_the_growth_ends_and_not_the_training():
    done = subprocess.run(
        [sys.executable, "-c", CRAMPED.format(spare=60_000_000)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "memory ran out" in done.stdout
    assert "steps 50" in done.stdout


def test_what_would_not_fit_is_refused_before_the_system_ends_the_process(monkeypatch):
    class Little:
        available = 100_000_000

    monkeypatch.setattr(_binning.psutil, "virtual_memory", Little)
    count, size = 60_000, (320, 320)
    rng = np.random.default_rng(0)
    z = rng.uniform(1, 2, count).astype(np.float32)
    everywhere = Projection(
        np.full((count, 2), 160, np.float32),
        z,
        np.tile(np.array([1e-6, 0, 1e-6], np.float32), (count, 1)),
        np.full(count, 0.5, np.float32),
        np.full((count, 2), 1000, np.int32),
    )
    with pytest.raises(MemoryError, match="24000000 tiles to draw need"):
        draw_pass(ThreadPool(1), everywhere, np.zeros((count, 3), np.float32), np.zeros(3), size)


def failing(monkeypatch, name, calls):
    """Let a method of the CPU backend run out of memory at these of its calls, from 1."""
    real, count = getattr(CpuBackend, name), [0]

    def method(self, *args, **kwargs):
        count[0] += 1
        if count[0] in calls:
            raise MemoryError
        return real(self, *args, **kwargs)

    monkeypatch.setattr(CpuBackend, name, method)


def test_steps_that_do_not_fit_go_on_with_fewer_wherever_they_fall(monkeypatch):
    monkeypatch.setattr(_session, "CHECKPOINT_EVERY_S", 1e9)
    failing(monkeypatch, "render", range(10, 30, 9))
    splats, metrics, warnings = train(room(), steps=40)
    assert metrics["steps"] == 40
    assert 100 < len(splats.means) < 1000
    assert sum("memory ran out with" in text for text in warnings) == 3


def test_a_quality_that_cannot_be_measured_is_left_out_and_told(monkeypatch):
    monkeypatch.setattr(_session, "CHECKPOINT_EVERY_S", 1e9)
    failing(monkeypatch, "render", range(42, 50))
    splats, metrics, warnings = train(room(), steps=40)
    assert "held_out_psnr_db" not in metrics
    assert any("while measuring the splats" in text for text in warnings)
    assert len(splats.means) > 0


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_training(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        splats, _, warnings = train(room(), steps=5, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert any("no checkpoint could be written" in text for text in warnings)
    assert list((tmp_path / ".reel3d").iterdir()) == []
    assert len(splats.means) > 0


def test_photographs_of_nothing_leave_no_splat_and_say_so():
    dark = replace(room(), images=np.zeros_like(room().images))
    lone = replace(
        dark,
        points=dark.points[:1],
        points_rgb=np.full((1, 3), 255, np.uint8),
        points_error_px=dark.points_error_px[:1],
    )
    splats, metrics, warnings = train(lone, steps=250)
    assert metrics["gaussians"] == len(splats.means) == 0
    assert any("the images are entirely black" in text for text in warnings)


@pytest.mark.parametrize("options", [{}, {"refine_poses": True}])
def test_the_best_round_is_what_stays(monkeypatch, options):
    monkeypatch.setattr(_session, "CHECKPOINT_EVERY_S", 1e9)
    found, kept, trainers = iter([25.0, 30.0, 20.0]), [], []

    def measure(self, numbers):
        all_of = {**self.gaussians, **self.corrections.values}
        kept.append(({k: p.detach().clone() for k, p in all_of.items()}, self.step))
        trainers.append(self)
        return next(found, 21.0), 0.5

    monkeypatch.setattr(Trainer, "measure", measure)
    splats, metrics, _ = train(room(), steps=10, until_best=True, **options)
    assert [step for _, step in kept][:3] == [10, 30, 70]
    assert metrics["held_out_psnr_db"] == 30
    assert np.array_equal(splats.means, kept[1][0]["means"].numpy())
    assert not np.array_equal(splats.means, kept[2][0]["means"].numpy()[: len(splats.means)])
    for name, value in trainers[-1].corrections.values.items():
        assert torch.equal(value, kept[1][0][name]), name
        assert not torch.equal(value, kept[2][0][name]), name


def test_further_rounds_keep_to_the_number_that_was_asked_for():
    splats, metrics, _ = train(room(), steps=10, until_best=True, seconds=2, gaussians=3200)
    assert metrics["steps"] > 10
    assert len(splats.means) <= 3200
