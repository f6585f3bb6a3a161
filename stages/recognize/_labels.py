"""The labels of a network, or what its user calls them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError, did_you_mean

__all__ = ["Labels", "own_labels", "read_lines"]

LARGEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Labels:
    """Names, and the classes of the network that each of them stands for."""

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    def gather(self, score: npt.NDArray[np.float32], *, exclusive: bool) -> npt.NDArray[np.float32]:
        """Return the score of each name, [W, names], from those of the classes, [W, C].

        Args:
            score: In 0..1.
            exclusive: Whether one class excludes the others: theirs are added up, else the
                largest counts.
        """
        join = np.sum if exclusive else np.max
        columns = [join(score[:, list(of)], axis=1) for of in self.members]
        return np.stack(columns, axis=1).astype(np.float32)


def own_labels(path: str, known: Sequence[str], option: str) -> Labels:
    """Return the network's labels, or those of the user's file in their place.

    Args:
        path: Empty; a text file with one label a line, as many as the network has, in its order;
            or a JSON file `{"the network's": "mine", ...}`, which leaves out what it does not name.
        known: The network's.
        option: Whose value `path` is, for messages.

    Raises:
        UsageError: The file is missing, empty, or does not fit the network.
    """
    if not path:
        return _grouped(list(enumerate(known)))
    if path.endswith(".json"):
        return _mapped(Path(path).expanduser(), known, option)
    names = read_lines(path, option)
    if len(names) != len(known):
        raise UsageError(
            f"{option}: {path} has {len(names)} labels and the network {len(known)}; give one a "
            "line in the order of its classes, or a .json file that maps its labels to yours"
        )
    return Labels(tuple(names), tuple((n,) for n in range(len(names))))


def read_lines(path: str, option: str) -> list[str]:
    """Return the lines of a text file that hold something, each once.

    Raises:
        UsageError: There is no such file, it is empty or too large, or a line comes twice.
    """
    lines = [line.strip() for line in _text(Path(path).expanduser(), option).splitlines()]
    names = [line for line in lines if line]
    if not names:
        raise UsageError(f"{option}: {path} is empty; give one label a line")
    twice = next((name for n, name in enumerate(names) if name in set(names[:n])), None)
    if twice is not None:
        raise UsageError(f"{option}: {path} has '{twice}' twice; give each label once")
    return names


def _mapped(path: Path, known: Sequence[str], option: str) -> Labels:
    try:
        read: Any = json.loads(_text(path, option))
    except ValueError as error:
        raise UsageError(f"{option}: {path} is no JSON: {error}") from None
    if not isinstance(read, Mapping) or not all(isinstance(name, str) for name in read.values()):
        raise UsageError(f'{option}: {path} must hold {{"label of the network": "yours", ...}}')
    if not read:
        raise UsageError(f"{option}: {path} is empty; it must name at least one label")
    strange = next((name for name in read if name not in known), None)
    if strange is not None:
        raise UsageError(
            f"{option}: {path} names '{strange}', which the network does not have"
            + did_you_mean(strange, known)
        )
    return _grouped([(known.index(theirs), mine) for theirs, mine in read.items()])


def _grouped(pairs: Sequence[tuple[int, str]]) -> Labels:
    """A name that comes more than once stands for all its classes."""
    members: dict[str, list[int]] = {}
    for number, name in pairs:
        members.setdefault(name, []).append(number)
    return Labels(tuple(members), tuple(tuple(of) for of in members.values()))


def _text(path: Path, option: str) -> str:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UsageError(
                f"{option}: {path} has {path.stat().st_size} bytes; at most {LARGEST_BYTES}"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option}: {path} is no text in UTF-8") from None
