"""The verb: what a stage is, what it needs, and how one is found by its file name.

A stage is one file `stages/<step>/<model>.py` that holds two classes: `Config`, its options, and
`Model`, a `Stage`. Nothing is registered anywhere: a preset names the file. What a model reads
and makes is in the annotations of its `process`, and the chain is wired and checked from
them before anything runs::

    class Config(Options):
        neighbors: int = Field(4, ge=1, le=16, description="keyframes to triangulate with")

    class Model(Stage[Config]):
        def process(self, views: Views) -> DepthMaps: ...

Files that begin with an underscore are shared by the models of their step and are no models.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from pipeline.contract.events import Event, Loss, Metric, Progress, Warn
from pipeline.errors import UsageError, did_you_mean
from pipeline.weights import Weights, bring

__all__ = [
    "VIEW",
    "Context",
    "Options",
    "Ports",
    "Resources",
    "Stage",
    "find",
    "iterate",
    "models",
    "module_of",
    "options_of",
    "ports",
]


VIEW = "view"
"""Folder of `stages/` that holds the viewers, which are not steps."""


class Options(BaseModel):
    """The options of a stage: typed, bounded, with a `description` for each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Options)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a stage needs."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0


def _ignore(event: Event) -> None:
    del event


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage finds itself when it is opened."""

    seed: int = 0
    """Every random choice of a stage derives from it."""
    threads: int = 1
    """How many threads the stage may use."""
    folder: Path | None = None
    """The run folder of the stream, for stages that take a whole stream; a stage writes nowhere
    else. None where this machine does not see it, and for stages shared by several streams."""
    scratch: Path | None = None
    """An own folder inside it, made by the stage on its first write, for temporary
    files between two calls. It outlives a crash, so a snapshot may refer to files in it; the runner
    removes it when the stage has ended."""
    report: Callable[[Event], None] = field(default=_ignore, repr=False)
    """Takes progress, warnings, losses and metrics."""


class Stage(Generic[C]):
    """One step of the chain with one model. Safe to retry: equal inputs give equal outputs.

    Life: `fetch` once a node, `open` once a worker, `process` for every work item that holds what
    it reads, `finish` at the end of the stream, `close` always, also after a failed `open`.
    `process` and `finish` return one message, a tuple of messages, or None.
    """

    scope: ClassVar[Literal["clip", "stream"]] = "clip"
    """`clip`: no memory between calls. `stream`: takes one stream's clips in order."""
    version: ClassVar[int] = 1
    """Raise it when equal inputs give other outputs: finished work is then done again."""
    isolated: ClassVar[bool] = False
    """Whether it runs in a process of its own, because its libraries may crash or hang."""
    deadline_s: ClassVar[float | None] = None
    """How long one call of an isolated stage may take; None for no limit."""

    def __init__(self, config: C) -> None:
        self.config = config
        self.context = Context()

    @property
    def resources(self) -> Resources:
        """What one worker needs."""
        return Resources()

    @property
    def device(self) -> str:
        """Where it runs, as torch names it."""
        return "cpu"

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The files of learned weights that its options ask for."""
        return ()

    @classmethod
    def catalog(cls) -> tuple[Weights, ...]:
        """All files of weights that it can fetch, whatever its options say."""
        return ()

    @classmethod
    def compile_kernels(cls) -> None:
        """Compile what its first call would compile just in time, into a cache that stays.

        Called when reel3d is installed. A stage with numba kernels calls them on small data; the
        default does nothing.
        """

    def fetch(self) -> None:
        """Bring weights to this node.

        Raises:
            UsageError: They are not here and cannot be fetched, or are damaged.
        """
        step, _, model = type(self).__module__.removeprefix("stages.").partition(".")
        for weights in self.weights:
            bring(weights, f"{step}/{model}")

    def open(self, context: Context) -> None:
        """Take threads, memory and models. Call `super().open(context)` first."""
        self.context = context

    process: Callable[..., Any]
    """`process(self, <name>: <Message>, ...) -> <Message>`.

    A parameter without a default must be in the parcel; one annotated `X | None = None` is passed
    where it is there. If all are optional, it is called for every work item with any of them.
    """

    def finish(self) -> Any:
        """Make what only the end of the stream allows (stream scope)."""
        return None

    def close(self) -> None:
        """Give everything back."""

    def snapshot(self) -> Any:
        """Return the state between two calls as plain data; None where a stage cannot.

        Plain data: None, bool, int, float, str, numpy arrays, and lists and dicts (keys are str)
        of these. It is taken after every clip and written to the disk, so it must be cheap: hand
        out the arrays that the stage holds, never to be written to again; one that the snapshot
        before held too (the same object) is not written a second time. Files in
        `context.scratch` may only have grown since an earlier snapshot: it names their lengths.
        A sampler is asked between two clips.
        """
        return None

    def restore(self, state: Any) -> None:
        """Go on from what `snapshot` returned, in a new instance that has been opened.

        Everything made from here on equals what the first instance would have made. A restored
        sampler's `process` yields the clips after the snapshot.
        """

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Report how far a long call has come, and its state in a few words."""
        self.context.report(Progress(done=done, total=total, note=note))

    def warn(self, text: str) -> None:
        """Tell the user of a fallback or a doubt; it is written into the manifest."""
        self.context.report(Warn(text=text))

    def lost(self, what: str, why: str) -> None:
        """Tell that a piece of the source could not be used; the run then ends with exit 4."""
        self.context.report(Loss(what=what, why=why))

    def measure(self, name: str, value: float) -> None:
        """Record a figure of quality, with its unit in the name, for `metrics.jsonl`."""
        self.context.report(Metric(name=name, value=float(value)))


@dataclass(frozen=True)
class Ports:
    """What a model reads and makes, by the annotations of its `process`."""

    required: dict[str, type]
    """Parameter name to message type."""
    optional: dict[str, type]
    makes: tuple[type, ...]

    def take(self, parcel: Mapping[type, Any]) -> dict[str, Any] | None:
        """Return the arguments for `process` out of a work item, or None where it skips the item.

        Every required message must be there; if all are optional, any one will do.
        """
        if not all(wanted in parcel for wanted in self.required.values()):
            return None
        both = {**self.required, **self.optional}
        arguments = {name: parcel[wanted] for name, wanted in both.items() if wanted in parcel}
        return arguments or None

    @property
    def reads(self) -> tuple[type, ...]:
        """Every type that it can take."""
        return (*self.required.values(), *self.optional.values())


def ports(model: type[Stage[Any]]) -> Ports:
    """Read what a model takes and gives off the annotations of `process` (and of `finish`)."""
    hints = typing.get_type_hints(model.process)
    returned = hints.pop("return", type(None))
    required: dict[str, type] = {}
    optional: dict[str, type] = {}
    for name, hint in hints.items():
        inner = _message_types(hint)
        if len(inner) != 1:
            raise TypeError(f"{model.__module__}.process: '{name}' must be one message, got {hint}")
        (optional if _is_optional(hint) else required)[name] = inner[0]
    makes = _message_types(returned)
    for made in _message_types(typing.get_type_hints(model.finish).get("return", type(None))):
        if made not in makes:
            makes = (*makes, made)
    return Ports(required, optional, makes)


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _message_types(hint: Any) -> tuple[type, ...]:
    if hint is type(None) or hint is Any:
        return ()
    if isinstance(hint, type) and not typing.get_args(hint):
        return (hint,)
    found: list[type] = []
    for inner in typing.get_args(hint):
        found.extend(t for t in _message_types(inner) if t not in found)
    return tuple(found)


@cache
def models(step: str) -> tuple[str, ...]:
    """Return the names of a step's models: the files of its folder."""
    try:
        package = importlib.import_module(f"stages.{step}")
    except ModuleNotFoundError as error:
        if error.name not in ("stages", f"stages.{step}"):
            raise
        raise UsageError(f"there is no step '{step}'; the steps are {', '.join(steps())}") from None
    names = (m.name for m in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in names if not name.startswith("_")))


@cache
def steps() -> tuple[str, ...]:
    """Return the names of the steps: the folders of `stages/` but for libraries and viewers."""
    package = importlib.import_module("stages")
    names = {m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg}
    return tuple(sorted(name for name in names - {VIEW} if not name.startswith("_")))


def module_of(step: str, model: str) -> types.ModuleType:
    """Import `stages/<step>/<model>.py`.

    Raises:
        UsageError: There is no such step or model.
    """
    known = models(step)
    if model not in known:
        raise UsageError(
            f"{step} has no model '{model}'; it has {', '.join(known)}" + did_you_mean(model, known)
        )
    return importlib.import_module(f"stages.{step}.{model}")


def find(step: str, model: str) -> type[Stage[Any]]:
    """Return the `Model` class of `stages/<step>/<model>.py`.

    Raises:
        UsageError: There is no such step or model.
        TypeError: The file's `Model` is not a `Stage`.
    """
    found: Any = module_of(step, model).Model
    if not issubclass(found, Stage):
        raise TypeError(f"stages.{step}.{model}.Model must be a Stage, got {found.__mro__[1]}")
    return found


def options_of(step: str, model: str) -> type[Options]:
    """Return the `Config` class of `stages/<step>/<model>.py`."""
    return module_of(step, model).Config


def iterate(result: Any) -> Iterator[Any]:
    """Yield the messages that a call of `process` or `finish` returned."""
    if result is None:
        return
    if isinstance(result, tuple | types.GeneratorType):
        yield from (message for message in result if message is not None)
    else:
        yield result
