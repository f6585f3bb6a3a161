"""The run folder: layout, ledger, kept messages, manifest.

::

    runs/<name>/
        manifest.json       last of all: the run is complete when it exists
        config.yaml         the resolved configuration
        metrics.jsonl       a line a stage: seconds, items, figures of quality
        errors.jsonl        a line a loss: what could not be made, and why
        ...                 what the exporters write
        .reel3d/            ledger.json and kept messages, for --resume; may be deleted

The ledger says for each stage under which key its work is done. The key is a hash of the source,
the stage's model, version and options and of the keys of the stages that feed it: change an
option and that stage and those after it are done again, nothing else is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import unicodedata
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import disk_errors, replacing, write_text
from pipeline.contract import Message, messages
from pipeline.errors import OutputError, UsageError
from pipeline.telemetry import Meter, meter_from_dict

__all__ = ["Entry", "RunFolder", "clean_name", "fingerprint", "free_folder"]

STATE = ".reel3d"
"""Inside the run folder."""
SAMPLE_BYTES = 1 << 16
SAMPLES = 64


@dataclass
class Entry:
    """What the ledger knows of one stage."""

    key: str
    state: str
    """`made`, `not made` (the losses give the reason) or `skipped` (an input was missing)."""
    meter: Meter = field(default_factory=Meter)
    kept: list[str] = field(default_factory=list[str])
    """Kept messages, file names under `.reel3d`."""
    artifacts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """path, kind, bytes and sha256 of what it wrote."""


def clean_name(name: str) -> str:
    """Return a file name made of letters, digits, `.`, `_` and `-`, never hidden or empty."""
    plain = unicodedata.normalize("NFKC", name)
    cleaned = re.sub(r"[^\w.-]+", "_", plain).strip("._")[:80]
    return cleaned or "source"


def free_folder(parent: Path, name: str) -> Path:
    """Return `parent/name`, or `parent/name-2` and so on where that exists."""
    folder, number = parent / name, 2
    while os.path.lexists(folder):
        folder, number = parent / f"{name}-{number}", number + 1
    return folder


def fingerprint(path: Path) -> str:
    """Return a hash that changes when the source changes, without reading a long video whole.

    A file counts with its size and 64 evenly spaced samples of 64 KiB; a folder with the names,
    sizes and samples of its files.
    """
    digest = hashlib.sha256()
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''}\0{size}\0".encode())
        with file.open("rb") as stream:
            last = max(size - SAMPLE_BYTES, 0)
            starts = sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)})
            for start in starts if len(files) == 1 else starts[:: SAMPLES - 1]:
                stream.seek(start)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


class RunFolder:
    """One run's folder; every write is atomic and every path stays inside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path / STATE
        self.entries: dict[str, Entry] = {}
        self.fresh = True
        """Whether this process made the folder."""
        self.has_old_names = False
        """Whether its ledger was written before names of options, steps and models changed."""

    @classmethod
    def create(cls, path: Path, *, resume: bool) -> RunFolder:
        """Make the folder, or open one that a run left behind.

        Raises:
            OutputError: It exists and `resume` is not set, is not a run, or cannot be written.
        """
        folder = cls(path)
        if os.path.lexists(path):
            folder.fresh = False
            if not path.is_dir():
                raise OutputError(f"{path} is a file; give --out a folder that does not exist yet")
            if resume and (folder._state / "ledger.json").is_file():
                folder._load()
            elif resume and any(path.iterdir()):
                raise OutputError(
                    f"{path} holds no run to resume; give --out the folder of an earlier run"
                )
            elif not resume and any(path.iterdir()):
                raise OutputError(
                    f"{path} exists and is not empty; add --resume to finish or redo that run, "
                    "or choose another folder with --out"
                )
        try:
            with disk_errors(path):
                folder._state.mkdir(parents=True, exist_ok=True)
                folder._lock()
                # Asking the system is not enough: a read-only or full disk shows on writing.
                if not (folder._state / "ledger.json").is_file():
                    write_text(folder._state / "ledger.json", "{}")
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror}; choose another folder with --out"
            ) from error
        return folder

    def _lock(self) -> None:
        """Keep a second reel3d out until this process ends or `close` is called."""
        self._held = (self._state / "lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise OutputError(
                f"another reel3d is working on {self.path}; wait for it, or choose another "
                "folder with --out"
            ) from None

    def close(self) -> None:
        """Release the folder for other processes."""
        self._held.close()

    def _load(self) -> None:
        try:
            tree = json.loads((self._state / "ledger.json").read_text(encoding="utf-8"))
            for name, raw in tree.items():
                if "artefacts" in raw:
                    # Ledgers had the British spelling until option names changed as well.
                    self.has_old_names = True
                    raw["artifacts"] = raw.pop("artefacts")
                inside = [*raw["kept"], *(a["path"] for a in raw["artifacts"])]
                if any(Path(p).is_absolute() or ".." in Path(p).parts for p in inside):
                    raise ValueError(f"{name} names files outside the run folder")
                meter = meter_from_dict(raw.pop("meter"))
                self.entries[name] = Entry(**raw, meter=meter)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # A ledger that cannot be read proves nothing: all work is done again.
            self.entries.clear()
            self.has_old_names = False

    @classmethod
    def finished(cls, path: Path) -> RunFolder:
        """Open the folder of a complete run for reading; it is neither locked nor changed.

        Raises:
            UsageError: There is no folder, or no complete run in it.
        """
        if not path.is_dir():
            raise UsageError(f"there is no run folder {path}; `reel3d run` prints the one it made")
        folder = cls(path)
        folder.fresh = False
        if folder.manifest() is None:
            if folder.busy:
                raise UsageError(
                    f"{path} holds no complete run yet: a reel3d is working on it; wait for it"
                )
            raise UsageError(f"{path} holds no complete run; `reel3d run … --resume` finishes it")
        folder._load()
        return folder

    @property
    def busy(self) -> bool:
        """Whether a process is working on the folder now."""
        try:
            with (self._state / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def record(self, name: str, entry: Entry) -> None:
        """Record that a stage has ended."""
        self.entries[name] = entry
        tree = {name: asdict(entry) for name, entry in self.entries.items()}
        write_text(self._state / "ledger.json", json.dumps(tree, indent=1))

    def done(self, name: str, key: str) -> Entry | None:
        """Return the entry of a stage whose work under this key is complete in the folder."""
        entry = self.entries.get(name)
        if entry is None or entry.key != key:
            return None
        if any(not (self._state / kept).is_file() for kept in entry.kept):
            return None
        if any(self.describe(a["path"], a["kind"]) != a for a in entry.artifacts):
            return None
        return entry

    def forget(self, name: str) -> None:
        """Remove what a stage wrote under another key, so that nothing stale looks current."""
        entry = self.entries.pop(name, None)
        if entry is None:
            return
        for kept in entry.kept:
            (self._state / kept).unlink(missing_ok=True)
        for artifact in entry.artifacts:
            remove(self.path / artifact["path"])

    def leave_out(self, name: str) -> None:
        """Remove what a stage wrote that this run leaves out; what it kept waits for its return."""
        entry = self.entries[name]
        for artifact in entry.artifacts:
            remove(self.path / artifact["path"])
        entry.artifacts = []
        if not entry.kept:
            del self.entries[name]

    def begin(self, config_yaml: str) -> None:
        """Mark the run as incomplete and write its configuration."""
        (self.path / "manifest.json").unlink(missing_ok=True)
        write_text(self.path / "config.yaml", config_yaml)

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of a complete run, or None."""
        manifest = _read_object(self.path / "manifest.json")
        if manifest is not None and "artefacts" in manifest:
            manifest["artifacts"] = manifest.pop("artefacts")
        return manifest

    def facts(self) -> dict[str, Any]:
        """Return what an earlier run found out about the source; empty if none did."""
        return _read_object(self._state / "facts.json") or {}

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Keep what the source's own container says."""
        write_text(self._state / "facts.json", json.dumps(facts))

    def scratch(self, name: str) -> Path:
        """Return the folder for a stage's temporary files; it need not exist yet."""
        return self._state / "scratch" / name.replace("/", ".")

    def clear_scratch(self, name: str) -> None:
        """Remove a stage's temporary files."""
        shutil.rmtree(self.scratch(name), ignore_errors=True)

    def keep(self, name: str, key: str, message: Message) -> str:
        """Keep a stream's message for `--resume`; return its file name."""
        arrays: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        for part in fields(message):
            value = getattr(message, part.name)
            target = arrays if isinstance(value, np.ndarray) else plain
            target[part.name] = value
        header = json.dumps({"type": type(message).__name__, "fields": plain})
        file = f"{name.replace('/', '.')}.{type(message).__name__}.{key[:16]}.npz"
        with replacing(self._state / file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, __header__=np.array(header), **arrays)
        return file

    def kept(self, file: str) -> Message:
        """Read a kept message back."""
        with np.load(self._state / file, allow_pickle=False) as archive:
            header = json.loads(str(archive["__header__"]))
            arrays = {name: archive[name] for name in archive.files if name != "__header__"}
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in header["fields"].items()}
        return getattr(messages, header["type"])(**plain, **arrays)

    def kept_arrays(self, kind: type[Message], *names: str) -> dict[str, Any] | None:
        """Read some arrays of the last kept message of a type, and no others of it.

        Returns:
            The arrays by name, or None where no such message was kept or it was deleted.
        """
        for entry in self.entries.values():
            for file in entry.kept:
                if f".{kind.__name__}." in file and (self._state / file).is_file():
                    with np.load(self._state / file, allow_pickle=False) as archive:
                        return {name: archive[name] for name in names}
        return None

    def describe(self, path: str, kind: str) -> dict[str, Any]:
        """Return path, kind, bytes and sha256 of an artifact; a folder counts as its files."""
        digest, size = hashlib.sha256(), 0
        target = self.path / path
        files = (
            [target] if target.is_file() else sorted(p for p in target.rglob("*") if p.is_file())
        )
        for file in files:
            if target.is_dir():
                digest.update(f"{file.relative_to(target)}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    size += len(block)
        return {"path": path, "kind": kind, "bytes": size, "sha256": digest.hexdigest()}

    def write_json(self, path: str, value: Any) -> None:
        """Write one JSON document."""
        write_text(self.path / path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_jsonl(self, path: str, rows: list[dict[str, Any]]) -> None:
        """Write one JSON value a line."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(self.path / path, text)


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    # `sparse/` of `sparse/0`: an empty folder means nothing.
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
