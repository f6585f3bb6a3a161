"""Checkpoints in the format of the Hugging Face hub: from a hub, its cache, or a folder.

A checkpoint is a folder: `config.json` says what the network is, other JSON files how its input is
prepared, and safetensors (or a torch file of nothing but tensors) hold the weights. Wherever the
name of one on a hub is allowed (`owner/name`, or `owner/name@revision`), the path of such a folder
is as well. What is fetched lies in the cache that transformers and others use (`HF_HUB_CACHE`,
`HF_HOME`), and each file is held to the hash that the hub publishes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.weights.files import UNKNOWN, Weights, one_line

__all__ = ["Checkpoint", "Known", "checkpoint", "hub_cache", "is_name", "published_license"]

TENSORS = ("model.safetensors", "pytorch_model.bin")
"""What holds the weights, the better one first; `<name>.index.json` where they are in parts."""
CARD = "README.md"
SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja", CARD)
"""What else is fetched. Never code."""
NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Known:
    """A checkpoint that a stage knows by name."""

    name: str
    """On the hub."""
    license: str
    """As its card says."""
    nbytes: int
    """About how large its tensors are."""
    about: str = ""
    """What sets it apart, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Weights):
    """A folder with a network's configuration and its weights; `path` is that folder."""

    revision: str = ""
    """The one asked for on the hub; empty for a folder of the user's own."""

    @property
    def is_own(self) -> bool:
        """Whether it is a folder of the user's own."""
        return not self.revision

    @property
    def is_here(self) -> bool:
        """Whether all of it lies on this machine."""
        return (self.path / "config.json").is_file() and bool(_tensor_files(self.path))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with tensors."""
        return _tensor_files(self.path)

    @property
    def settings(self) -> tuple[Path, ...]:
        """What says how the network is built and fed."""
        found = (p for pattern in SETTINGS for p in self.path.glob(pattern))
        return tuple(sorted(p for p in found if p.name != CARD))

    def published(self, file: Path) -> str:
        """Return the hash of a file: the cache names its large ones by it."""
        name = file.resolve().name
        return name if not self.is_own and HASH.fullmatch(name) else ""

    @property
    def home(self) -> Path:
        """The cache of the hub's library."""
        return self.path if self.is_own else hub_cache()

    def download(self) -> Checkpoint:
        """Bring what is needed of it into the cache; return it as it lies there.

        Raises:
            OSError: The network, the hub or the disk does not allow it.
            ValueError: The hub has no such thing, or it has no weights that may be read.
        """
        with _hub_errors():
            api = _api()
            names = [s.rfilename for s in _info(api, self).siblings or []]
            wanted = _wanted(self.id, names)
            folder = api.snapshot_download(
                self.id.partition("@")[0],
                revision=self.revision,
                allow_patterns=[*SETTINGS, *wanted],
                cache_dir=hub_cache(),
            )
        here = replace(self, path=Path(folder))
        if not here.is_here:
            raise OSError("what came is not whole")
        return here


def checkpoint(
    name: str, *, task: str, known: Iterable[Known] = (), instead: str, option: str
) -> Checkpoint:
    """Return the checkpoint of a name on the hub, or in a folder.

    Args:
        name: `owner/name`, `owner/name@revision`, or a path.
        task: What it does.
        known: Those whose license and size are known before they are here.
        instead: What needs no weights and does the same.
        option: That holds the name, for messages, such as `depth.checkpoint`.

    Raises:
        UsageError: It is neither, or the folder holds no checkpoint.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _of_folder(folder, task, option)
    if not is_name(name):
        raise UsageError(
            f"{option} = {name!r}: there is no such folder, and a name on the hub is written "
            "owner/name or owner/name@revision"
        )
    owner_name, _, revision = name.partition("@")
    revision = revision or "main"
    path = _snapshot(owner_name, revision)
    described = next((k for k in known if k.name == owner_name), None)
    license = described.license if described else _card_license(path / CARD)
    if not license and path.is_dir():
        license = UNKNOWN
    return Checkpoint(
        id=name,
        task=task,
        license=license,
        nbytes=described.nbytes if described else 0,
        path=path,
        revision=revision,
        instead=instead,
    )


def _of_folder(folder: Path, task: str, option: str) -> Checkpoint:
    path = folder.resolve()
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{option} = {str(folder)!r} is not a checkpoint: it has no config.json; give a folder "
            "as save_pretrained of transformers writes it"
        )
    files = _tensor_files(path)
    if not files:
        raise UsageError(
            f"{option} = {str(folder)!r} holds no whole weights: it needs {' or '.join(TENSORS)}, "
            "or all the parts that its index names"
        )
    return Checkpoint(
        id=str(folder),
        task=task,
        license=_card_license(path / CARD) or UNKNOWN,
        nbytes=sum(file.stat().st_size for file in files),
        path=path,
    )


def is_name(text: str) -> bool:
    """Whether it may be the name of a checkpoint on a hub."""
    return bool(NAME.fullmatch(text))


def hub_cache() -> Path:
    """Return the folder in which the hub's own library keeps what it fetches."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()


def published_license(weights: Checkpoint) -> str:
    """Ask the hub which license a checkpoint has.

    Raises:
        OSError: It cannot be asked.
    """
    with _hub_errors():
        card: Any = _info(_api(), weights).card_data
    return _named_license(card)


@contextmanager
def _hub_errors() -> Generator[None]:
    """Let the hub's library fail in one way: its own errors and those of its network differ."""
    from huggingface_hub.errors import GatedRepoError

    try:
        yield
    except GatedRepoError:
        raise OSError(
            "it is gated: ask for access on its page, and set HF_TOKEN to your token"
        ) from None
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {one_line(error)}") from None


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="reel3d")


def _info(api: Any, weights: Checkpoint) -> Any:
    return api.model_info(weights.id.partition("@")[0], revision=weights.revision)


def _snapshot(name: str, revision: str) -> Path:
    """Return the folder of a revision in the cache, which may not be there."""
    folder = hub_cache() / f"models--{name.replace('/', '--')}"
    named = folder / "refs" / revision
    commit = named.read_text().strip() if named.is_file() else revision
    return folder / "snapshots" / commit


def _tensor_files(folder: Path) -> tuple[Path, ...]:
    """Return the files with the weights; none where one of them is missing."""
    for name in TENSORS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return (folder / name,)
        if index.is_file():
            parts = tuple(folder / part for part in _parts(index))
            return parts if parts and all(part.is_file() for part in parts) else ()
    return ()


def _parts(index: Path) -> list[str]:
    """Return the files that an index names, which must lie beside it."""
    try:
        named = json.loads(index.read_text())["weight_map"].values()
        parts = sorted(set(map(str, named)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{index} is not an index of weights; fetch it again") from None
    strange = next((part for part in parts if Path(part).name != part), None)
    if strange is not None:
        raise UsageError(f"{index} names {strange!r}, which is not beside it; it is not read")
    return parts


def _wanted(name: str, files: list[str]) -> list[str]:
    """Choose the files with tensors of a repository."""
    for tensors in TENSORS:
        if tensors in files:
            return [tensors]
        if f"{tensors}.index.json" in files:
            stem, _, suffix = tensors.rpartition(".")
            return [f"{stem}-*.{suffix}"]
    raise ValueError(f"{name} has neither {' nor '.join(TENSORS)}")


def _card_license(card: Path) -> str:
    """Return the license that a model card names; empty where there is none."""
    if not card.is_file():
        return ""
    import yaml
    from huggingface_hub import metadata_load

    try:
        return _named_license(metadata_load(card))
    except (ValueError, yaml.YAMLError):
        return UNKNOWN


def _named_license(card: Any) -> str:
    """Return the license of a card's metadata; `license: other` has a name of its own."""
    if card is None:
        return UNKNOWN
    license = card.get("license")
    named = card.get("license_name") if license == "other" else None
    return str(named or license or UNKNOWN).lower()
