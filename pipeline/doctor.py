"""What this machine can run, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import psutil

from pipeline.chain import ORDER
from pipeline.stage import models

__all__ = ["DEBIAN_PACKAGES", "Finding", "examine"]

DEBIAN_PACKAGES = "libusb-1.0-0 libegl1 libgl1 libx11-6 libudev1 libidn2-0"
"""What Open3D's wheel needs and does not bring (measured: FACTS of version 0.20)."""

NEEDED = (
    "av", "cv2", "gsplat", "numba", "numpy", "pyarrow", "pycolmap", "open3d", "scipy", "torch",
)  # fmt: skip
OPTIONAL = {
    "decord": "pip install 'reel3d[decord]'",
    "torchvision": "pip install torchvision, of the release that belongs to torch",
    "transformers": "pip install transformers",
}
DISTRIBUTIONS = {"cv2": "opencv-python-headless"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "missing", "broken"]
    """`broken`: the default preset cannot run without it."""
    told: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at the machine; libraries are imported in processes of their own."""
    looks: list[Callable[[], Finding]] = [_python, _machine, _disk]
    looks += [partial(_library, name, needed=True) for name in NEEDED]
    looks += [partial(_library, name, needed=False) for name in OPTIONAL]
    looks += [_codecs, _display, _offscreen, _gpu]
    # Each imports something heavy, so as many at a time as there are cores.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        findings = list(pool.map(lambda look: look(), looks))
    findings += [Finding(f"models: {step}", "ok", ", ".join(models(step))) for step in ORDER]
    return findings


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding(
        "Python",
        "ok" if good else "broken",
        platform.python_version(),
        "" if good else "reel3d runs on Python 3.11 to 3.13",
    )


def _machine() -> Finding:
    memory = psutil.virtual_memory()
    enough = memory.available > 3e9
    return Finding(
        "machine",
        "ok" if enough else "missing",
        f"{len(os.sched_getaffinity(0))} cores, {memory.total / 1e9:.0f} GB memory, "
        f"{memory.available / 1e9:.0f} GB free",
        "" if enough else "a run may need 3 GB; close other programs or lower decode.max_side",
    )


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    enough = free > 2e9
    return Finding(
        "disk here",
        "ok" if enough else "missing",
        f"{free / 1e9:.0f} GB free",
        "" if enough else "a run may need 1 GB; free some space",
    )


def _attempt(code: str) -> tuple[int, str]:
    """Run Python code in a process of its own, since some libraries end theirs on failure."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, "no answer for 60 s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode, lines[-1] if lines else f"ended with code {done.returncode}"


def _library(name: str, *, needed: bool) -> Finding:
    try:
        version = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        advice = OPTIONAL.get(name, "pip install reel3d")
        return Finding(name, "broken" if needed else "missing", "not installed", advice)
    code, told = _attempt(f"import {name}")
    if code == 0:
        return Finding(name, "ok", version)
    advice = f"apt-get install {DEBIAN_PACKAGES}" if name == "open3d" else "reinstall it"
    return Finding(name, "broken" if needed else "missing", f"{version}: {told}", advice)


def _codecs() -> Finding:
    code, told = _attempt(
        "import av; names = ('h264', 'hevc', 'vp9', 'libdav1d', 'mpeg4'); "
        "print(', '.join(n for n in names if n in av.codecs_available))"
    )
    return Finding("video codecs", "ok" if code == 0 and "h264" in told else "broken", told)


def _display() -> Finding:
    display = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    if display:
        return Finding("display", "ok", display)
    return Finding("display", "missing", "none", "reel3d view shows report.html in a browser")


def _offscreen() -> Finding:
    code, told = _attempt(
        "import open3d as o3d; o3d.visualization.rendering.OffscreenRenderer(16, 16)"
    )
    if code == 0:
        return Finding("off-screen rendering", "ok", "Open3D on Vulkan")
    advice = "apt-get install libvulkan1 mesa-vulkan-drivers; else a software renderer is used"
    return Finding("off-screen rendering", "missing", told, advice)


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding(
            "GPU", "missing", "no NVIDIA driver; splat.model=cuda needs one, nothing else"
        )
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return Finding("GPU", "ok" if done.returncode == 0 else "missing", done.stdout.strip())
