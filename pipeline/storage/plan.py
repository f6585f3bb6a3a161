"""What a run has to do: all of it, or with `--resume` only what is missing.

Stages are visited from the end of the chain to its start, as make does: a stage whose work
is done is left alone, unless a later stage must run and needs a message that was never kept
(frames and flow are too large to keep; they are made again).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.chain import NAMES, Chain, Link
from pipeline.renamed import current_name
from pipeline.storage.run_folder import Entry, RunFolder
from pipeline.telemetry import Meter
from pipeline.weights import identity_of

__all__ = ["PlannedStage", "plan"]


@dataclass
class PlannedStage:
    """One stage of this run and what is to be done about it."""

    link: Link
    key: str
    action: Literal["run", "replay", "skip"] = "run"
    """`replay`: pass on the messages that an earlier run kept. `skip`: nothing is needed."""
    entry: Entry | None = None
    """Its entry in the ledger, where its work is done."""
    meter: Meter = field(default_factory=Meter)
    state: str = "skipped"
    """As `Entry.state`, or `failed` for a crash or a bug."""
    tainted: bool = False
    """Whether a crash or a bug cost a part of it: the next resume tries again."""
    outdated: bool = False
    """Whether the folder held its work under another key, or under an old name."""
    feeders: list[PlannedStage] = field(default_factory=list["PlannedStage"], repr=False)

    @property
    def name(self) -> str:
        """`depth/multiview`."""
        return self.link.name

    def finalize(self, folder: RunFolder, kept: list[str] | None = None) -> None:
        """Record the stage's end in the ledger, unless it crashed: that is tried again."""
        if self.clean:
            artifacts = [folder.describe(p, kind) for p, kind in self.meter.artifacts.items()]
            folder.record(self.name, Entry(self.key, self.state, self.meter, kept or [], artifacts))
            folder.clear_scratch(self.name)

    @property
    def makes_shown(self) -> str:
        """Names, for users, of what it makes."""
        named = [NAMES[made] for made in self.link.ports.makes if made in NAMES]
        return ", ".join(named) or self.link.choice.model

    @property
    def clean(self) -> bool:
        """Whether it and all that fed it ended without a crash or a bug."""
        return not self.tainted and all(feeder.clean for feeder in self.feeders)


def plan(chain: Chain, folder: RunFolder, source_hash: str, seed: int) -> list[PlannedStage]:
    """Decide for every stage but the report; remove results of an outdated key.

    Weights that a stage needs must be on this machine: what they are is part of its key.
    """
    planned_stages: list[PlannedStage] = []
    by_name: dict[str, PlannedStage] = {}
    for link in (*chain.head, *chain.body):
        feeders = [by_name[feeder.name] for feeder in chain.feeders(link)]
        identity: list[Any] = [
            link.name,
            link.stage.version,
            link.choice.options.model_dump(mode="json"),
            seed,
            [feeder.key for feeder in feeders] or [source_hash],
        ]
        learned = [identity_of(weights) for weights in link.stage(link.choice.options).weights]
        if learned:
            identity.append(learned)
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        planned_stages.append(PlannedStage(link, key, feeders=feeders))
        by_name[link.name] = planned_stages[-1]
    for name in set(folder.entries) - by_name.keys():
        current = current_name(name)
        if current == name:
            folder.leave_out(name)
            continue
        # No chain can ask for an old name again: what was kept under it is of no more use.
        folder.forget(name)
        if current in by_name:
            by_name[current].outdated = True
    needed: set[type] = set()
    for planned in reversed(planned_stages):
        planned.entry = folder.done(planned.name, planned.key)
        if planned.entry is None:
            planned.outdated |= planned.name in folder.entries
            folder.forget(planned.name)
        wanted = bool(needed & set(planned.link.ports.makes))
        if planned.entry is not None and not wanted:
            planned.action = "skip"
        elif planned.entry is not None and (planned.link.keeps or planned.entry.state != "made"):
            planned.action = "replay"
        else:
            needed |= set(planned.link.ports.reads)
        if planned.entry is not None and planned.action != "run":
            planned.meter, planned.state = planned.entry.meter, planned.entry.state
    return planned_stages
