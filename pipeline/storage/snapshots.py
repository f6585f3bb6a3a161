"""The states of a stage on the disk: plain data as JSON, large arrays as files beside it.

::

    <folder>/12.json       the state after 12 parcels, with what the stage had told until then
    <folder>/a7.npy        an array that one or more of the states hold

A snapshot is taken after every clip, so an array that an earlier one held (the same object) is
written once. A state counts from the moment its JSON has its name; arrays are written before.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import disk_errors
from pipeline.contract import Array

__all__ = ["Snapshots"]

INLINE_BYTES = 16_384
"""Smaller arrays are part of the JSON: a file would cost more than it holds."""
MARK = "__array__"


class Snapshots:
    """The snapshots of one stage of one stream."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._serial = 0
        self._written: dict[int, tuple[Array, str]] = {}
        """Identity of an array to the array (held, so that the identity stays its own) and file."""
        self._files: dict[int, set[str]] = {}
        """Snapshot number to its array files."""
        if folder.is_dir():
            self._tidy()

    @property
    def numbers(self) -> list[int]:
        """Numbers of the snapshots, ascending: how many work items each includes."""
        return sorted(self._files)

    def save(self, number: int, state: Any, beside: Any = None, *, needed_from: int = 0) -> None:
        """Write the state after `number` work items; drop snapshots that cannot be needed again.

        Args:
            number: Number of work items that the stage has processed.
            state: What `Stage.snapshot` returned.
            beside: Plain data that belongs to it.
            needed_from: The newest snapshot up to this number stays, all before it go.

        Raises:
            OutputError: The disk is full or may not be written.
            TypeError: The state is not plain data.
        """
        files: set[str] = set()
        held: dict[int, tuple[Array, str]] = {}
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            tree = {"state": self._plain(state, files, held), "told": beside}
            path = self.folder / f"{number}.json"
            temporary = path.with_suffix(".writing")
            temporary.write_text(json.dumps(tree), encoding="utf-8")
            temporary.replace(path)
        self._written, self._files[number] = held, files
        stays = max((n for n in self._files if n <= needed_from), default=0)
        for old in [n for n in self._files if n < stays]:
            (self.folder / f"{old}.json").unlink(missing_ok=True)
            gone = self._files.pop(old)
            for name in gone - set[str]().union(*self._files.values()):
                (self.folder / name).unlink(missing_ok=True)

    def load(self, number: int) -> tuple[Any, Any]:
        """Return a state and the data saved with it; later snapshots are removed.

        Raises:
            ValueError: It is not there or damaged.
        """
        try:
            text = (self.folder / f"{number}.json").read_text(encoding="utf-8")
            tree = json.loads(text)
            state = self._revived(tree["state"])
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ValueError(f"snapshot {number} in {self.folder} is damaged: {error}") from error
        for later in [n for n in self._files if n > number]:
            (self.folder / f"{later}.json").unlink(missing_ok=True)
            del self._files[later]
        return state, tree["told"]

    def clear(self) -> None:
        """Remove all."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._files.clear()
        self._written.clear()

    def _plain(self, value: Any, files: set[str], held: dict[int, tuple[Array, str]]) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError("a snapshot holds no arrays of objects")
            if value.nbytes < INLINE_BYTES:
                raw = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
                return {MARK: [value.dtype.str, list(value.shape), raw]}
            known = self._written.get(id(value)) or held.get(id(value))
            name = known[1] if known else self._write(value)
            held[id(value)] = (value, name)
            files.add(name)
            return {MARK: name}
        if isinstance(value, list | tuple):
            return [self._plain(item, files, held) for item in value]
        if isinstance(value, dict):
            if not all(isinstance(key, str) and key != MARK for key in value):
                raise TypeError("a snapshot's dicts have str keys")
            return {key: self._plain(item, files, held) for key, item in value.items()}
        raise TypeError(f"a snapshot is plain data, got {type(value).__name__}")

    def _write(self, array: Array) -> str:
        name = f"a{self._serial}.npy"
        self._serial += 1
        np.save(self.folder / name, array, allow_pickle=False)
        return name

    def _revived(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._revived(item) for item in value]
        if not isinstance(value, dict):
            return value
        if MARK not in value:
            return {key: self._revived(item) for key, item in value.items()}
        stored = value[MARK]
        if isinstance(stored, str):
            if not re.fullmatch(r"a\d+\.npy", stored):
                raise ValueError(f"'{stored}' is not the name of an array")
            array = np.load(self.folder / stored, allow_pickle=False)
            self._written[id(array)] = (array, stored)
        else:
            dtype, shape, raw = stored
            flat = np.frombuffer(base64.b64decode(raw), np.dtype(dtype))
            array = flat.reshape(shape).copy()
        array.flags.writeable = False
        return array

    def _tidy(self) -> None:
        """Read which files belong to which snapshot, and remove what a crash left unfinished."""
        for path in self.folder.glob("*.json"):
            if not path.stem.isdigit():
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except OSError:
                continue
            self._files[int(path.stem)] = set(re.findall(r'"(a\d+\.npy)"', text))
        used = set[str]().union(*self._files.values())
        for entry in os.scandir(self.folder):
            if entry.name not in used and not entry.name.endswith(".json"):
                os.unlink(entry.path)
        serials = [int(name[1:-4]) for name in used]
        self._serial = max(serials, default=-1) + 1
