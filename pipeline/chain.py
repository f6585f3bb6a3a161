"""The order of the stages and who feeds whom: the one place to read the data flow.

::

                                ┌─► recognize ─► Scores ─┐
    decode ─► sample ─► Frames ─┼─► flow ─► Motion ─┬────┴─► action ─► Actions
                                └─────────┬─────────┘
                                          ├─► segment ─► Masks ─► track ─► Tracks
                                          ▼               ▼
                     keyframe ─► Keyframes ─► pose ─► Views ─► depth ─► DepthMaps
                                                        └────────┬─────────┘
                                                                 ▼
    export: one stage a format, each reads what it writes       fuse ─► Points
    report: reads the finished run folder                             Views ─┴─► splat ─► Splats

The wires are the annotations of each model's `process`: a stage gets every message of the types
that it names. A step may be left out; what then lacks its input is left out too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.contract import (
    Actions,
    DepthMaps,
    Keyframes,
    Options,
    Points,
    RunSummary,
    Scores,
    Source,
    Splats,
    Stage,
    Tracks,
    Views,
)
from pipeline.contract.stage import Ports, find, ports
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.chain import Choice

__all__ = ["EXPORT", "HEAD", "NAMES", "ORDER", "REPORT", "STREAM_LEVEL", "Chain", "Link", "wire"]

EXPORT, REPORT = "export", "report"
HEAD = ("decode", "sample")
"""The steps that run together in one worker, so that sampling steers decoding."""

ORDER = (
    *(*HEAD, "flow", "recognize", "action", "segment", "track"),
    *("keyframe", "pose", "depth", "fuse", "splat", EXPORT, REPORT),
)

FOLLOWS = {"track": "segment"}
"""Steps that go without saying once another one is there, and are no loss without it."""

STREAM_LEVEL = (Actions, Tracks, Keyframes, Views, DepthMaps, Points, Splats)
"""Messages about a whole stream: kept in the run folder, so that `--resume` finds them."""

NAMES: dict[type, str] = {
    Scores: "recognized actions",
    Actions: "events",
    Tracks: "tracks of things",
    Keyframes: "keyframes",
    Views: "camera poses",
    DepthMaps: "depth maps",
    Points: "point cloud",
    Splats: "splats",
}
"""Names of messages, for users."""


@dataclass(frozen=True)
class Link:
    """One stage in its place."""

    choice: Choice
    stage: type[Stage[Any]] = field(repr=False)
    ports: Ports

    @property
    def name(self) -> str:
        """`depth/multiview`."""
        return self.choice.name

    @property
    def step(self) -> str:
        """`depth`."""
        return self.choice.step

    @property
    def keeps(self) -> bool:
        """Whether what it makes is kept for `--resume`."""
        return any(made in STREAM_LEVEL for made in self.ports.makes)


@dataclass(frozen=True)
class Chain:
    """The stages of a run in order, every input accounted for."""

    links: tuple[Link, ...]
    left_out: dict[str, str]
    """Stages that were asked for but lack an input because its step is left out: name to why."""

    @property
    def head(self) -> tuple[Link, ...]:
        """Decode and sample."""
        return tuple(link for link in self.links if link.step in HEAD)

    @property
    def body(self) -> tuple[Link, ...]:
        """All stages between the sampler and the report."""
        return tuple(link for link in self.links if link.step not in (*HEAD, REPORT))

    @property
    def report(self) -> Link | None:
        """The report, if any."""
        return next((link for link in self.links if link.step == REPORT), None)

    def feeders(self, link: Link) -> tuple[Link, ...]:
        """Return the earlier links that make what `link` reads."""
        earlier = self.links[: self.links.index(link)]
        return tuple(other for other in earlier if set(other.ports.makes) & set(link.ports.reads))


def wire(choices: tuple[Choice, ...]) -> Chain:
    """Find the models and connect them by what they read and make.

    Raises:
        UsageError: Decode or sample is missing, or nothing would be made.
    """
    for step in HEAD:
        if step not in [choice.step for choice in choices]:
            raise UsageError(f"{step} cannot be left out; set {step}.model")
    made: set[type] = {Source}
    links: list[Link] = []
    left_out: dict[str, str] = {}
    steps = {choice.step for choice in choices}
    for choice in choices:
        if FOLLOWS.get(choice.step, choice.step) not in steps:
            continue
        model = find(choice.step, choice.model)
        link = Link(choice, model, ports(model))
        available = made | ({RunSummary} if choice.step == REPORT else set[type]())
        lacking = [t for t in link.ports.required.values() if t not in available]
        if not lacking and not link.ports.required:
            lacking = [] if set(link.ports.reads) & available else list(link.ports.reads)
        if lacking:
            wants = ", ".join(NAMES.get(t, t.__name__) for t in lacking)
            left_out[link.name] = f"no stage makes {wants}"
            continue
        links.append(link)
        made.update(link.ports.makes)
    return Chain(tuple(links), left_out)


@dataclass(frozen=True)
class Choice:
    """One stage of a run: which model of which step, with which options."""

    step: str
    model: str
    options: Options

    @property
    def name(self) -> str:
        """`depth/multiview`: how messages and the manifest call it."""
        return f"{self.step}/{self.model}"
