"""Checkpoints, from which interrupted training continues."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.atomic import replacing
from pipeline.contract import Options

__all__ = ["key_of", "read", "write"]

FORMAT = 1


def key_of(options: Options, seed: int, arrays: list[Any]) -> str:
    """Return a hash that identifies a training: images, cameras, points, options and seed."""
    digest = hashlib.sha256(f"{FORMAT} {seed} {options.model_dump_json()}".encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        OutputError: The disk is full or not writable.
    """
    buffer = io.BytesIO()
    torch.save({"key": key, "state": state}, buffer)
    with replacing(path) as temporary, temporary.open("wb") as file:
        # torch's own writer hides the system's error when the disk is full.
        file.write(buffer.getbuffer())


def read(path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the state of a checkpoint and "", or None and the reason why it cannot be used.

    Without a file, both are empty. The file is untrusted: only tensors and plain values are read.
    """
    if not path.is_file():
        return None, ""
    try:
        with warnings.catch_warnings():
            # torch warns about pickles that it refuses to read; the refusal itself is enough.
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        return None, f"it cannot be read ({' '.join(str(error).split())[:80]})"
    if not isinstance(found, dict) or found.get("key") != key:
        return None, "it belongs to another scene or other options"
    return found["state"], ""
