"""Running sources: options, output folders and the choice of runner, for the command and Python."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from pipeline.api.display import Display, ListenerDisplay, TerminalDisplay
from pipeline.api.finished_run import Run
from pipeline.config import RunConfig, load
from pipeline.contract import Source
from pipeline.errors import Reel3dError, SourceError, UsageError
from pipeline.lifecycle import RunResult
from pipeline.lifecycle import run as run_here
from pipeline.sources import check_scheme, mask, plain_path
from pipeline.storage import STATE, clean_name, free_folder
from pipeline.telemetry import ProgressListener

__all__ = ["Launch", "Outcome", "make_source", "run", "run_all"]

Outcome = Run | Reel3dError
"""How the run of one source ended."""

RUNS = Path("runs")
"""Where run folders are made unless another one is named."""


class Launch:
    """Sources and their resolved options; everything about them is checked before any is run.

    `reel3d run` and `pipeline.run` both are this class with a display of their own.
    """

    def __init__(
        self,
        sources: Iterable[str],
        *,
        preset: str = "default",
        config: Path | None = None,
        overrides: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        out: Path | None = None,
        resume: bool = False,
        runner: str = "local",
        address: str | None = None,
        priority: int = 0,
        share: float = 1.0,
    ) -> None:
        """Resolve the options of every source; see `run` for the arguments.

        Args:
            sources: Paths, patterns or addresses.
            preset: Name of a preset; unused where `config` is given.
            config: A YAML file.
            overrides: Words such as `depth.neighbors=4`.
            options: The same as a mapping by step.
            out: Run folder; of several sources, the folder that holds theirs.
            resume: Do only what is missing, or what options outdate.
            runner: `local` or `cluster`.
            address: Of the Ray cluster to join.
            priority: Of these sources on a shared cluster.
            share: Most of a shared cluster that they may take.

        Raises:
            UsageError: An option is not allowed.
            SourceError: A source is a run folder, or its address has an unknown scheme.
        """
        self.sources: list[Source] = []
        for uri in sources:
            self.sources.append(make_source(uri, [source.name for source in self.sources]))
        # A wrong option must not show only after the first of many videos.
        self.configs: list[RunConfig] = [
            load(preset=preset, file=config, overrides=overrides, options=options, uri=source.uri)
            for source in self.sources
        ]
        for source in self.sources:
            _check_kind(source)
        if runner not in ("local", "cluster"):
            raise UsageError(f"there is no runner '{runner}'; allowed are local and cluster")
        if runner == "local":
            for word, value in (("address", address), ("priority", priority), ("share", share)):
                if value not in (None, 0, 1.0):
                    raise UsageError(f"--{word} is for the cluster runner; add --runner cluster")
        elif not 0 < share <= 1:
            raise UsageError(f"--share must be above 0 and at most 1, got {share:g}")
        self.runner = runner
        self.end_cameras = threading.Event()
        """Once set, the cluster runner ends cameras and reconstructs what they saw."""
        self._out = out
        self._resume = resume
        self._address = address
        self._priority = priority
        self._share = share

    def run(self, display: Display) -> Iterator[Outcome]:
        """Run every source; yield how each ended, in their order.

        Args:
            display: Makes the listeners.

        Yields:
            The run, or the error of a source that could not be used where others go on. The error
            of the only source is raised.
        """
        outcomes = self._together(display) if self.runner == "cluster" else self._in_turn(display)
        for outcome in outcomes:
            if isinstance(outcome, Reel3dError) and len(self.sources) == 1:
                raise outcome
            yield outcome

    def _in_turn(self, display: Display) -> Iterator[Outcome]:
        for source, config in zip(self.sources, self.configs, strict=True):
            try:
                with display.for_source(source) as listener:
                    result = run_here(
                        source, config, self._folder(source), listener, resume=self._resume
                    )
            except SourceError as error:
                yield error
                continue
            yield _finished(result)

    def _together(self, display: Display) -> Iterator[Outcome]:
        # Ray is large: only those who use it load it.
        from pipeline.cluster.runner import ClusterRunner

        together = ClusterRunner(
            address=self._address,
            share=self._share,
            priority=self._priority,
            resume=self._resume,
        )
        together.end_cameras = self.end_cameras
        folders = [self._folder(source) for source in self.sources]
        wanted = list(zip(self.sources, self.configs, folders, strict=True))
        with display.for_all(self.sources) as board:
            outcomes = together.run(wanted, board)
        for outcome in outcomes:
            yield outcome if isinstance(outcome, Reel3dError) else _finished(outcome)

    def _folder(self, source: Source) -> Path:
        if self._out is not None:
            return self._out if len(self.sources) == 1 else self._out / source.name
        return RUNS / source.name if self._resume else free_folder(RUNS, source.name)


def run(
    source: str | Path,
    *,
    preset: str = "default",
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    runner: Literal["local", "cluster"] = "local",
    address: str | None = None,
    priority: int = 0,
    share: float = 1.0,
    progress: bool = False,
    listener: ProgressListener | None = None,
    **options: Mapping[str, Any],
) -> Run:
    """Turn a video, a folder of images or a camera into a run folder, as `reel3d run` does.

    Options of a stage are given by step, as in a configuration file::

        pipeline.run("drive.mp4", sample=dict(model="fps", fps=5), depth=dict(model="none"))
        pipeline.run("drive.mp4", export=dict(flo=True, mesh=False), run=dict(seed=1))

    Args:
        source: Path of a video or of a folder of images, a pattern, or an address.
        preset: Name of a preset, such as `understand`; unused with `config`.
        config: A YAML file, such as the `config.yaml` of another run.
        out: Run folder; by default a new one, `runs/<name of the source>`.
        resume: Do only what is missing in the folder, or what other options outdate.
        runner: `local` for this process, `cluster` for Ray.
        address: `HOST:PORT` of the Ray cluster to join, or `auto`; without it one is started here.
        priority: Higher goes first on a shared cluster.
        share: Most of a shared cluster that the run may take, 0..1.
        progress: Show progress on standard error.
        listener: Called as stages begin, go on and end; not together with `progress`.
        **options: Options of each step, which win over preset and file; `model` names its model,
            and `model="none"` leaves the step out. Of `export`, each format is True, False or a
            mapping of its options.

    Returns:
        The finished run. If a part could not be made its `exit_code` is 4 and `losses` say why.

    Raises:
        UsageError: An option, the preset or the output folder is wrong, or the disk is full.
        SourceError: The source cannot be used.
    """
    (outcome,) = run_all(
        [source],
        preset=preset,
        config=config,
        out=out,
        resume=resume,
        runner=runner,
        address=address,
        priority=priority,
        share=share,
        progress=progress,
        listener=listener,
        **options,
    )
    # The error of a single source was raised.
    assert isinstance(outcome, Run)
    return outcome


def run_all(
    sources: Iterable[str | Path],
    *,
    preset: str = "default",
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    runner: Literal["local", "cluster"] = "local",
    address: str | None = None,
    priority: int = 0,
    share: float = 1.0,
    progress: bool = False,
    listener: ProgressListener | None = None,
    **options: Mapping[str, Any],
) -> list[Run | Reel3dError]:
    """Run several sources, each into a folder of its own; on a cluster they share the workers.

    Args:
        sources: As `source` of `run`.
        preset: See `run`.
        config: See `run`.
        out: Folder that holds the run folders; by default `runs`.
        resume: See `run`.
        runner: See `run`; the local runner takes them one after the other.
        address: See `run`.
        priority: See `run`.
        share: See `run`.
        progress: See `run`.
        listener: See `run`.
        **options: See `run`.

    Returns:
        In the order of `sources`, the finished run or the error of a source that cannot be used.

    Raises:
        UsageError: An option, the preset or an output folder is wrong, or the disk is full.
        SourceError: The only source cannot be used.
    """
    if progress and listener is not None:
        raise UsageError("progress and listener exclude each other; give one of them")
    launch = Launch(
        [os.fspath(source) for source in sources],
        preset=preset,
        config=None if config is None else Path(config),
        options=options,
        out=None if out is None else Path(out),
        resume=resume,
        runner=runner,
        address=address,
        priority=priority,
        share=share,
    )
    display = TerminalDisplay(Console(stderr=True)) if progress else ListenerDisplay(listener)
    return list(launch.run(display))


def make_source(uri: str, taken: Sequence[str] = ()) -> Source:
    """Return the source of a path or URL, with a clean name that none of `taken` has."""
    uri = plain_path(uri)
    shown = mask(uri)
    if "://" in uri:
        host, _, path = re.split("[?#]", shown.partition("://")[2])[0].partition("/")
        host = re.sub(r":\d+$", "", host.rpartition("@")[2]).lower()
        stem = clean_name(f"{host}/{path}")
    else:
        # A folder keeps its whole name, dots included.
        path = Path(uri)
        stem = clean_name(path.resolve().name if path.is_dir() else path.stem)
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return Source(uri=uri, shown=shown, name=name)


def _check_kind(source: Source) -> None:
    check_scheme(source.uri, source.shown)
    if (Path(source.uri) / STATE).is_dir():
        raise SourceError(
            f"{source.shown} is a run folder, not a source; `reel3d view` shows it, and its "
            "pictures alone are in its folder images/"
        )


def _finished(result: RunResult) -> Run:
    return Run(result.folder, result.manifest, result.did_nothing)
