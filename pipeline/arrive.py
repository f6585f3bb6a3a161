"""What a job runs first on the cluster: is this Python, and what it holds, fit for reel3d?

    python -m pipeline.arrive [--expect VERSION] run SOURCE… --runner cluster …

Only the standard library, in words that Python 3.8 reads: the cluster's `python` may be any, and
it is this file that says so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import sys

__all__ = ["LACKING", "main", "unfit"]

PYTHONS = ((3, 11), (3, 14))
"""As `requires-python` in pyproject.toml says."""

MODULES = {
    "av": "av",
    "fsspec": "fsspec",
    "gsplat": "gsplat",
    "huggingface_hub": "huggingface-hub",
    "kornia": "kornia",
    "numba": "numba",
    "numpy": "numpy",
    "open3d": "open3d",
    "cv2": "opencv-python-headless",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "pycolmap": "pycolmap",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "ray": "ray",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
}
"""What reel3d imports, and the distribution that brings it."""

LACKING = "the cluster is not fit for this job"
"""How every refusal begins."""


def unfit(expected: str | None) -> str | None:
    """Return why this Python cannot run the job; None where it can.

    Args:
        expected: The version of reel3d that must be installed here; None where the job brought
            its own code.
    """
    here = f"{sys.executable} (Python {sys.version.split()[0]})"
    low, high = PYTHONS
    if not low <= sys.version_info[:2] < high:
        return f"{LACKING}: reel3d needs Python 3.11 to 3.13, and its `python` is {here}"
    if expected is not None:
        try:
            found = importlib.metadata.version("reel3d")
        except importlib.metadata.PackageNotFoundError:
            found = None
        if found != expected:
            return (
                f"{LACKING}: the job was submitted by reel3d {expected}, and {here} has "
                f"{'reel3d ' + found if found else 'none'}; install the same on both, or submit "
                "from a checkout, which brings its own code"
            )
    missing = [name for module, name in MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        return (
            f"{LACKING}: {here} lacks {', '.join(missing)}; install them there, or use the image "
            "of docker/Dockerfile"
        )
    return None


def main() -> int:
    """Check, say who runs where, and run the command."""
    words = sys.argv[1:]
    expected = None
    if words[:1] == ["--expect"]:
        expected, words = words[1], words[2:]
    why = unfit(expected)
    if why:
        sys.stderr.write(f"reel3d: {why}\n")
        return 2
    # A cluster that a script started in the background ignores SIGINT, and its jobs with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from pipeline.cli import main as command
    from pipeline.run import version

    job = os.environ.get("REEL3D_JOB", "a job")
    place = f"{os.uname().nodename}, Python {sys.version.split()[0]}"
    sys.stderr.write(f"reel3d {expected or version()}: {job} on {place}\n")
    sys.stderr.flush()
    return command(words)


if __name__ == "__main__":
    sys.exit(main())
