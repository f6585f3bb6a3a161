"""What a submitted job is made of: its command line, its code and its metadata.

Everything here can be seen by everyone who may open the cluster's dashboard: Ray shows a job's
command line, its environment and its metadata as they are. So an address that holds a login or a
signature is refused, not hidden: hidden in an uploaded file it would still lie in the head's
store and on the disk of every node. Logins belong into a file on the cluster (a mounted secret)
that `REEL3D_CREDENTIALS` names there, see `pipeline.sources.urls`; those of object stores come from
the nodes' own roles.
"""

from __future__ import annotations

import getpass
import json
import re
import secrets
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError, UsageError
from pipeline.sources import mask, secret_in

__all__ = ["CLUSTER", "Order", "absolute", "checkout", "new_id", "pack"]

CLUSTER = ("--runner", "cluster", "--address", "auto")
"""Words of `run` that make it join the cluster that its job runs on."""

CONFIG = "submitted.yaml"
"""The user's `--config`, inside what is uploaded."""

CODE = ("pipeline", "stages", "configs")
LARGEST_UPLOAD_BYTES = 100 << 20
"""Ray's dashboard takes no larger request by default (`DASHBOARD_CLIENT_MAX_SIZE`)."""

LONGEST_LINE_BYTES = 120_000
"""Linux passes at most 128 KiB as one argument, and Ray gives the line to `sh -c` as one."""

STOP_WAIT_S = 20
"""What a canceled run has to write what it holds, before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job as it will be submitted."""

    job: str
    sources: tuple[str, ...]
    """Absolute paths and addresses without secrets."""
    out: str
    overrides: tuple[str, ...] = ()
    preset: str = "default"
    config: Path | None = None
    priority: int = 0
    share: float = 1.0
    resume: bool = False
    licenses: tuple[str, ...] = ()
    """Licenses of weights that the user agrees to."""
    version: str
    installed: bool
    """Whether the cluster has reel3d; otherwise the job brings its code."""
    runner: tuple[str, ...]
    """Words of `run` that choose the runner."""

    @property
    def line(self) -> str:
        """The command line for the cluster's shell.

        Raises:
            UsageError: It is longer than a shell takes.
        """
        words = ["python", "-m", "pipeline.cli.job_entrypoint"]
        words += ["--expect", self.version] if self.installed else []
        words += ["run", *self.sources, "--out", self.out, *self.runner]
        words += ["--config", CONFIG] if self.config else ["--preset", self.preset]
        words += ["--priority", str(self.priority)] if self.priority else []
        words += ["--share", f"{self.share:g}"] if self.share != 1 else []
        words += ["--resume"] if self.resume else []
        for license in self.licenses:
            words += ["--accept-license", license]
        words += self.overrides
        # With exec, a signal to the job is one to reel3d, and its exit code the job's.
        line = f"exec {shlex.join(words)}"
        if len(line.encode()) > LONGEST_LINE_BYTES:
            raise UsageError(
                f"{len(self.sources)} sources make a command line of {len(line.encode())} bytes, "
                f"and a shell takes {LONGEST_LINE_BYTES}; submit them as several jobs"
            )
        return line

    @property
    def metadata(self) -> dict[str, str]:
        """What `status` shows; text only, as Ray asks for."""
        shown = [mask(source) for source in self.sources[:20]]
        return {
            "reel3d": self.version,
            "sources": json.dumps(shown),
            "source_count": str(len(self.sources)),
            "out": self.out,
            "user": _user(),
            "priority": str(self.priority),
            "share": f"{self.share:g}",
        }

    def environment(self, package: Path | None) -> dict[str, Any]:
        """Return Ray's runtime environment of the job; `package` is what `pack` made."""
        env_vars = {
            "REEL3D_JOB": self.job,
            # As Ctrl-C does: the run stops where `--resume` can go on.
            "RAY_JOB_STOP_SIGNAL": "SIGINT",
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        }
        environment: dict[str, Any] = {"env_vars": env_vars}
        if package is not None:
            environment["working_dir"] = str(package)
        return environment


def new_id() -> str:
    """Return a name for a job, short enough to type: `reel3d-k3f9x2mq`."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "reel3d-" + "".join(secrets.choice(letters) for _ in range(8))


def absolute(source: str, *, remote: bool) -> str:
    """Return a source as the cluster must see it.

    Args:
        source: A path, a pattern of paths or an address.
        remote: Whether paths are those of the cluster, so that nothing is looked for here.

    Raises:
        SourceError: The path is not there, or the address holds what must not be seen.
        UsageError: A path of the cluster is not absolute.
    """
    if "://" in source:
        secret = secret_in(source)
        if secret:
            raise SourceError(
                f"{mask(source)} holds {secret}, which Ray's dashboard would show; submit it "
                "without, and put a login for its host into a file on the cluster that "
                "REEL3D_CREDENTIALS names there (machine HOST login USER password PASSWORD)"
            )
        return source
    if remote:
        if not source.startswith("/"):
            raise UsageError(f"{source} is not a path of the cluster; with --remote-paths write /…")
        return source
    path = Path(source).absolute()
    pattern = re.search(r"[*?\[]", source)
    if not path.exists() and not (pattern and any(Path("/").glob(str(path).lstrip("/")))):
        raise SourceError(
            f"there is no {source} on this machine; a path that only the cluster has goes with "
            "--remote-paths"
        )
    return str(path)


def checkout() -> Path | None:
    """Return the folder of the checkout that this code runs from; None if it is installed."""
    root = Path(__file__).resolve().parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    return root if project.get("project", {}).get("name") == "reel3d" else None


def pack(folder: Path, *, root: Path | None, config: Path | None) -> Path | None:
    """Gather what the job brings along in `folder`: the code, the configuration, nothing else.

    Args:
        folder: Empty; removed by the caller after the submission.
        root: The checkout; None where the cluster has reel3d.
        config: The user's configuration.

    Returns:
        `folder`, or None where there is nothing to bring.

    Raises:
        UsageError: It is larger than Ray takes.
    """
    if root is not None:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "runs", "*.mp4", "*.ply")
        for name in CODE:
            shutil.copytree(root / name, folder / name, ignore=ignore)
        shutil.copy(root / "pyproject.toml", folder)
    if config is not None:
        shutil.copy(config, folder / CONFIG)
    files = [(path.stat().st_size, path) for path in folder.rglob("*") if path.is_file()]
    total = sum(size for size, _ in files)
    if total > LARGEST_UPLOAD_BYTES:
        size, largest = max(files)
        raise UsageError(
            f"the code to upload has {total / 1e6:.0f} MB, and Ray takes "
            f"{LARGEST_UPLOAD_BYTES / 1e6:.0f}; the largest file is {largest.relative_to(folder)} "
            f"({size / 1e6:.0f} MB): move it out of the checkout, or use --installed"
        )
    return folder if files else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
