"""Learned weights: what a stage needs, where it lies on this machine, and how it is read.

Weights that are fetched lie where torch keeps them (`TORCH_HOME`, by default ~/.cache/torch), so
that what other programs have fetched is found. A file of one's own takes their place by its path.
Only tensors are ever read: safetensors, or torch's own format without its code (`weights_only`); a
pickle with anything else in it is refused. Whole checkpoints of a hub: `pipeline.weights.hub`.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError

__all__ = [
    "UNKNOWN",
    "Weights",
    "bring",
    "fault_of",
    "fit",
    "identity_of",
    "list_faults",
    "one_line",
    "own_file",
    "read_tensors",
    "sha256_of",
    "torch_cache",
]

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
YES = ("1", "on", "yes", "true")
SUFFIXES = (".safetensors", ".pth", ".pt")
UNKNOWN = "unknown"
"""The license of what does not say."""
MOST_NAMED = 3
"""Tensors that an error names."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of weights."""

    id: str
    """What its makers call it, such as `raft_large-C_T_SKHT_V2`; of an own file its path."""
    task: str
    """Such as `optical flow`."""
    license: str
    """Its identifier, such as `MIT`; `unknown` where it does not say, and empty while that is not
    known here."""
    nbytes: int = 0
    """Approximate size; 0 where unknown."""
    url: str = ""
    """Where it is fetched from; empty for an own file."""
    sha256: str = ""
    """Its hash, or the first digits of it, as its makers publish it."""
    path: Path
    """Where it lies, or will."""
    instead: str = ""
    """What needs no weights and does the same, such as `flow.model=dis`."""

    @property
    def is_here(self) -> bool:
        """Whether it lies on this machine."""
        return self.path.is_file()

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own, and not fetched from anywhere."""
        return not self.url

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with its tensors, once it is here."""
        return (self.path,)

    @property
    def settings(self) -> tuple[Path, ...]:
        """Files beside them that say how they are to be used."""
        return ()

    def published(self, file: Path) -> str:
        """Return the hash that one of `files` should begin with; empty where unknown."""
        del file
        return self.sha256

    @property
    def home(self) -> Path:
        """The folder that what is fetched goes to."""
        return self.path.parent

    def download(self) -> Weights:
        """Bring it to this machine; return it as it lies there.

        Raises:
            OSError: The network or the disk does not allow it.
            RuntimeError: It is not what its makers published.
            ValueError: It has no address.
        """
        import torch.hub

        self.path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            self.url, str(self.path), hash_prefix=self.sha256 or None, progress=False
        )
        return self


def own_file(path: str, *, task: str) -> Weights:
    """Return the weights in a file of the user's own.

    Raises:
        UsageError: There is none, or it is of another kind.
    """
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise UsageError(
            f"{path} is not a file of weights: allowed are {', '.join(SUFFIXES)}; save others with "
            "safetensors.torch.save_file"
        )
    if not file.is_file():
        raise UsageError(f"there is no file of weights at {path}; give its path, or leave it out")
    return Weights(id=str(file), task=task, license=UNKNOWN, nbytes=file.stat().st_size, path=file)


def torch_cache() -> Path:
    """Return the folder in which torch keeps what it fetches, without importing it."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def bring(weights: Weights, stage: str) -> Weights:
    """Have weights on this machine, fetched where they are not, and whole; return where.

    Args:
        weights: The file.
        stage: Who needs it, for the message.

    Raises:
        UsageError: It is not here and cannot be fetched, or it is damaged.
    """
    if weights.is_here:
        _check(weights, stage)
        return weights
    forbids = next((name for name in OFFLINE if os.environ.get(name, "").lower() in YES), None)
    if forbids is not None:
        raise _missing(weights, stage, f"{forbids} says that nothing is to be fetched")
    try:
        weights = weights.download()
    except (OSError, RuntimeError, ValueError) as error:
        # URLError is an OSError; a wrong hash is a RuntimeError.
        raise _missing(weights, stage, f"cannot be fetched: {one_line(error)}") from None
    _check(weights, stage)
    return weights


@functools.lru_cache(maxsize=64)
def _hash(path: str, size: int, changed_ns: int) -> str:
    del size, changed_ns
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(weights: Weights) -> str:
    """Return the hash of the tensors as they lie here; of several files that of their hashes.

    Raises:
        OSError: They cannot be read.
    """
    hashes = [_hash_of(file) for file in weights.files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def identity_of(weights: Weights) -> list[str]:
    """Return what changes when anything that matters about the weights changes."""
    return [sha256_of(weights), *(f"{f.name} {_hash_of(f)}" for f in weights.settings)]


def fault_of(weights: Weights) -> str | None:
    """Return what is wrong with the files that are here, in words; None where nothing is.

    Raises:
        UsageError: One cannot be read.
    """
    for file in weights.files:
        wanted = weights.published(file)
        try:
            found = _hash_of(file)
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from None
        if not found.startswith(wanted):
            return f"at {file} are damaged (sha256 {found[:8]}…, it should be {wanted[:8]}…)"
    return None


def _hash_of(file: Path) -> str:
    known = file.stat()
    return _hash(str(file), known.st_size, known.st_mtime_ns)


def read_tensors(path: Path, *, within: str = "") -> dict[str, Any]:
    """Read a file of weights: names to tensors on the CPU.

    Args:
        path: The file.
        within: Some makers save the state_dicts of several networks side by side; the name of the
            one that is wanted, where the file has one of that name.

    Raises:
        UsageError: It is truncated, holds something else than tensors, or does not exist.
    """
    import torch

    read: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            read = load_file(str(path))
        else:
            read = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            raise UsageError(
                f"{path} is a pickle that holds more than tensors and could run code, so it is not "
                "read; save its state_dict with safetensors.torch.save_file"
            ) from None
        raise UsageError(
            f"{path} cannot be read as weights ({one_line(error)}); it may be truncated: fetch or "
            "save it again"
        ) from None
    if within and isinstance(read, Mapping) and isinstance(read.get(within), Mapping):
        read = read[within]
    if not isinstance(read, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in read.items()
    ):
        raise UsageError(f"{path} holds no state_dict (names and tensors); save that of the model")
    return {str(name): tensor for name, tensor in read.items()}


def fit(module: Any, tensors: Mapping[str, Any], weights: Weights, what: str) -> None:
    """Put tensors into a network.

    Args:
        module: A `torch.nn.Module`.
        tensors: Its parameters and buffers by name.
        weights: Where they are from, for the message.
        what: The network, such as `raft_large`.

    Raises:
        UsageError: Some are missing, of another shape, or belong to another network.
    """
    wanted: dict[str, Any] = module.state_dict()
    wrong = [n for n, t in wanted.items() if n in tensors and tensors[n].shape != t.shape]
    faults = {
        "missing": [name for name in wanted if name not in tensors],
        "of another shape": wrong,
        "not part of it": [name for name in tensors if name not in wanted],
    }
    found = list_faults(faults)
    if found:
        raise UsageError(
            f"{weights.path} holds no weights of {what}: {found}; give the file that "
            f"belongs to {what}"
        )
    module.load_state_dict(tensors)


def list_faults(faults: Mapping[str, Sequence[str]]) -> str:
    """Return one line that names the tensors with each fault; empty where there is none.

    Args:
        faults: What is wrong, such as `missing`, with the names of the tensors.
    """
    parts: list[str] = []
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            verb = "are" if len(names) > 1 else "is"
            parts.append(f"{', '.join(names[:MOST_NAMED])}{more} {verb} {fault}")
    return "; ".join(parts)


def _check(weights: Weights, stage: str) -> None:
    fault = fault_of(weights)
    if fault is not None:
        raise UsageError(
            f"the weights {weights.id} of {stage} {fault}; remove the file, then: "
            f"reel3d models fetch {weights.id}"
        )


def _missing(weights: Weights, stage: str, why: str) -> UsageError:
    size = f"{weights.nbytes / 1e6:.0f} MB" if weights.nbytes else ""
    facts = ", ".join(fact for fact in (size, weights.license) if fact)
    instead = f", or take {weights.instead}, which needs none" if weights.instead else ""
    return UsageError(
        f"{stage} needs the weights {weights.id}{f' ({facts})' if facts else ''}: they are not on "
        f"this machine, and {why}; where there is a network: reel3d models fetch {weights.id} "
        f"(they go to {weights.home}){instead}"
    )


def one_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
