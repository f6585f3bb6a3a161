"""What this machine can run, and what to install for the rest."""

from __future__ import annotations

import argparse
import ctypes.util
import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Literal

import psutil
from rich.console import Console
from rich.markup import escape

from pipeline.chain import ORDER
from pipeline.contract.stage import models
from pipeline.errors import SYSTEM_PACKAGES

__all__ = ["Finding", "examine"]

NEEDED = (
    "av", "cv2", "gsplat", "numba", "numpy", "pyarrow", "pycolmap", "open3d", "scipy", "torch",
)  # fmt: skip
OPTIONAL = {
    "decord": "pip install 'reel3d[decord]'",
    "torchvision": "pip install torchvision, of the release that belongs to torch",
    "transformers": "pip install transformers",
}
_KERNELS = "runpy.run_module('stages._kernels', run_name='__main__')"

DISTRIBUTIONS = {"cv2": "opencv-python-headless"}
NATIVE = {
    "av": "_core*.so",
    "cv2": "cv2*.so",
    "decord": "libdecord.so",
    "numba": "../llvmlite/binding/libllvmlite.so",
    "numpy": "_core/_multiarray_umath*.so",
    "open3d": "libOpen3D.so*",
    "pyarrow": "lib.*.so",
    "pycolmap": "_core*.so",
    "scipy": "linalg/_fblas*.so",
    "torch": "lib/libtorch_python.so",
}
"""Package to the library of machine code that brings in all its others. Loading it shows what the
system lacks in a tenth of the time of an import; `--imports` imports everything."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    state: Literal["ok", "missing", "broken"]
    """`broken`: the default preset cannot run without it."""
    told: str
    advice: str = ""


def examine(*, imports: bool = False) -> list[Finding]:
    """Examine the machine.

    Args:
        imports: Import every library and draw off screen, in processes of their own, instead of
            loading the libraries' machine code only: takes several times as long.
    """
    looks: list[Callable[[], list[Finding] | Finding]]
    looks = [_python, _bytecode, _kernels, _machine, _disk]
    looks += [functools.partial(_libraries, imports=imports), _codecs, _display]
    looks += [_drawn if imports else _vulkan, _gpu]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(lambda look: look(), looks))
    findings = [one for some in found for one in (some if isinstance(some, list) else [some])]
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


def _bytecode() -> Finding:
    """Say whether a process that starts must compile what it imports, which takes it twice as long.

    uv leaves that to the first import; PYTHONDONTWRITEBYTECODE or a folder of another user keeps
    that from being of use to the next.
    """
    origin = _origin("torch")
    if origin is None or Path(cache_from_source(str(origin))).is_file():
        return Finding("bytecode", "ok", "packages are compiled")
    packages = origin.parent.parent
    if not sys.dont_write_bytecode and os.access(origin.parent, os.W_OK):
        return Finding("bytecode", "ok", "packages are compiled as they are imported")
    return Finding(
        "bytecode",
        "missing",
        f"packages in {packages} are compiled again by every process that starts",
        f"python -m compileall -q {packages}",
    )


def _kernels() -> Finding:
    """Say whether the first run must compile the numba kernels, which takes half a minute."""
    done = _output("import runpy, sys; sys.argv[1:] = ['--check']\n" + _KERNELS)
    state = "ok" if done.code == 0 else "missing"
    told = (done.lines or [done.why])[-1].partition(": ")[2] or done.why
    if done.code:
        told = f"the first run compiles them: {told}"
    return Finding("kernels", state, told, "" if done.code == 0 else "python -m stages._kernels")


def _origin(name: str) -> Path | None:
    """Return the file of a package, which is not imported."""
    spec = find_spec(name)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


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


@dataclass(frozen=True)
class Output:
    """What a process of its own said and how it ended."""

    code: int
    lines: list[str]
    """Its standard output."""
    why: str
    """In a few words, where it did not end well."""


def _output(code: str) -> Output:
    """Run Python code in a process of its own, since some libraries end theirs on failure."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        return Output(1, said.splitlines(), "no answer for 60 s")
    faults = done.stderr.strip().splitlines()
    why = faults[-1] if faults else f"ended with code {done.returncode}"
    return Output(done.returncode, done.stdout.strip().splitlines(), why)


def _attempt(code: str) -> tuple[int, str]:
    """Return how some code ended, and its last words."""
    done = _output(code)
    return done.code, (done.lines[-1:] or [""])[0] if done.code == 0 else done.why


def _libraries(*, imports: bool) -> list[Finding]:
    names = tuple(name for name in (*NEEDED, *OPTIONAL) if _version(name))
    faults = _imported(names) if imports else {**_loaded(names), **_mismatched()}
    return [_library(name, faults.get(name, "")) for name in (*NEEDED, *OPTIONAL)]


def _loaded(names: tuple[str, ...]) -> dict[str, str]:
    """Load the machine code of libraries; return what went wrong with each."""
    files: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name in names:
        origin = _origin(name)
        if origin is None:
            faults[name] = "its files are missing"
        elif name in NATIVE:
            found = sorted(origin.parent.glob(NATIVE[name]))
            if found:
                files[name] = str(found[0])
            else:
                faults[name] = f"{origin.parent / NATIVE[name]} is missing"
    code = (
        "import ctypes\n"
        "def load(name):\n"
        f"    ctypes.CDLL({files!r}[name], ctypes.RTLD_GLOBAL if name == 'torch' else 0)\n"
    )
    return {**faults, **_tried(tuple(files), code, "load(name)")}


def _mismatched() -> dict[str, str]:
    """Compare the CUDA that torch and torchvision were built for: unequal ones do not load.

    PyPI's torchvision beside a torch for CPUs alone is the usual case: `operator torchvision::nms
    does not exist`.
    """
    vision = _stated("torchvision", r"__version__ = '[^'+]+\+(cpu|cu\d+)'")
    torch = _stated("torch", r"^cuda(?:: [^=]*)? = (?:'([^']+)'|None)")
    if vision is None or torch is None:
        return {}
    torch = f"cu{torch.replace('.', '')}" if torch else "cpu"
    if vision == torch:
        return {}
    return {"torchvision": f"it is built for {vision}, and torch for {torch}"}


def _stated(package: str, pattern: str) -> str | None:
    """Return what the `version.py` of a package says; None if it does not."""
    origin = _origin(package)
    if origin is None:
        return None
    try:
        text = (origin.parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(pattern, text, re.MULTILINE)
    return None if found is None else found[1] or ""


def _imported(names: tuple[str, ...]) -> dict[str, str]:
    """Import libraries, one after the other; several bring torch, which takes seconds."""
    return _tried(names, "import importlib\n", "importlib.import_module(name)")


def _tried(names: tuple[str, ...], first: str, call: str) -> dict[str, str]:
    """Try a call with each name in a process of its own; return what went wrong with each.

    A library that ends the process is recognized by its place: the names after it are tried in
    another process.
    """
    code = (
        f"{first}"
        f"for name in {names!r}:\n"
        f"    try: {call}; why = ''\n"
        "    except Exception as error: why = str(error) or repr(error)\n"
        "    print(name, ' '.join(why.split()), flush=True)\n"
    )
    done = _output(code)
    faults: dict[str, str] = {}
    for line in done.lines:
        name, _, why = line.partition(" ")
        if name in names:
            faults[name] = why
    left = names[len(faults) :]
    if not left:
        return faults
    return {**faults, left[0]: done.why, **_tried(left[1:], first, call)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None


def _library(name: str, why: str) -> Finding:
    version, fault = _version(name), "broken" if name in NEEDED else "missing"
    if version is None:
        return Finding(name, fault, "not installed", OPTIONAL.get(name, "pip install reel3d"))
    if not why:
        return Finding(name, "ok", version)
    advice = f"apt-get install {SYSTEM_PACKAGES[name]}" if name == "open3d" else "reinstall it"
    return Finding(name, fault, f"{version}: {why}", advice)


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


VULKAN = "apt-get install libvulkan1 mesa-vulkan-drivers; else a software renderer is used"


def _vulkan() -> Finding:
    """Say whether Open3D finds Vulkan, with which it draws off screen: its loader and a driver."""
    if ctypes.util.find_library("vulkan") is None:
        return Finding("off-screen rendering", "missing", "no Vulkan loader", VULKAN)
    folders = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"))
    drivers = sorted({file.stem for folder in folders for file in folder.glob("*.json")})
    if not drivers:
        return Finding("off-screen rendering", "missing", "no Vulkan driver", VULKAN)
    return Finding("off-screen rendering", "ok", f"Vulkan: {', '.join(drivers)}")


def _drawn() -> Finding:
    """Draw off screen with Open3D."""
    code, told = _attempt(
        "import open3d as o3d; o3d.visualization.rendering.OffscreenRenderer(16, 16)"
    )
    if code == 0:
        return Finding("off-screen rendering", "ok", "Open3D on Vulkan")
    return Finding("off-screen rendering", "missing", told, VULKAN)


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


def doctor_command(options: argparse.Namespace, console: Console) -> int:
    """Print what was found; return 4 where the default preset cannot run."""
    del console
    findings = examine(imports=options.imports)
    out = Console(highlight=False)
    marks = {"ok": "[green]✓[/]", "missing": "[yellow]–[/]", "broken": "[red]✗[/]"}
    for finding in findings:
        advice = f"  [dim]{escape(finding.advice)}[/]" if finding.advice else ""
        what, told = escape(finding.what), escape(finding.told)
        out.print(f"{marks[finding.state]} {what:<26} {told}{advice}", soft_wrap=True)
    return 4 if any(finding.state == "broken" for finding in findings) else 0
