"""Checkpoints: a training that was interrupted goes on where it was."""

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
    """Return what names a training: the same photographs, cameras, points and options."""
    digest = hashlib.sha256(f"{FORMAT} {seed} {options.model_dump_json()}".encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OutputError: The disk is full or may not be written.
    """
    buffer = io.BytesIO()
    torch.save({"key": key, "state": state}, buffer)
    with replacing(path) as temporary, temporary.open("wb") as file:
        # torch's own writer hides the system's error when the disk is full.
        file.write(buffer.getbuffer())


def read(path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the state of a checkpoint and nothing, or None and why it cannot be used.

    The file is not trusted: only tensors and plain values are read, no objects.
    """
    if not path.is_file():
        return None, ""
    try:
        with warnings.catch_warnings():
            # It warns of pickles that it will not read: that it does not is what counts.
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        return None, f"it cannot be read ({' '.join(str(error).split())[:80]})"
    if not isinstance(found, dict) or found.get("key") != key:
        return None, "it belongs to another scene or other options"
    return found["state"], ""
