"""Checks whether an interpreter can run reel3d: standard library only, Python 3.8 syntax."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

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
