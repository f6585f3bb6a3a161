"""Weights of models: fetched, verified, read, and their licenses.

Must not know any model: a stage names what it needs. Read `files.py` first.
"""

from pipeline.weights.files import (
    Weights,
    bring,
    fault_of,
    fit,
    identity_of,
    list_faults,
    one_line,
    own_file,
    read_tensors,
    sha256_of,
    torch_cache,
)
from pipeline.weights.hub import Checkpoint, Known, checkpoint, is_name
from pipeline.weights.licenses import accept

__all__ = [
    "Checkpoint",
    "Known",
    "Weights",
    "accept",
    "bring",
    "checkpoint",
    "fault_of",
    "fit",
    "identity_of",
    "is_name",
    "list_faults",
    "one_line",
    "own_file",
    "read_tensors",
    "sha256_of",
    "torch_cache",
]
