"""What a run has to do: all of it, or with `--resume` only what is missing.

Stages are visited from the end of the chain to its start, as make does: a stage whose work
stands is left alone, unless a later stage must run and needs a message that was never kept
(frames and flow are too large to keep; they are made again).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.chain import NAMES, Chain, Link
from pipeline.storage.run_folder import Entry, RunFolder
from pipeline.telemetry.meter import Meter
from pipeline.weights.files import identity_of

__all__ = ["Job", "plan"]


@dataclass
class Job:
    """One stage of this run and what is to be done about it."""

    link: Link
    key: str
    action: Literal["run", "replay", "skip"] = "run"
    """`replay`: hand on the messages that an earlier run kept. `skip`: nothing is needed."""
    entry: Entry | None = None
    """The ledger's word, where the work stands."""
    meter: Meter = field(default_factory=Meter)
    state: str = "skipped"
    """As `Entry.state`, or `failed` for a crash or a bug."""
    flawed: bool = False
    """Whether a crash or a bug cost a part of it: the next resume tries again."""
    feeders: list[Job] = field(default_factory=list["Job"], repr=False)

    @property
    def name(self) -> str:
        """`depth/multiview`."""
        return self.link.name

    def settle(self, folder: RunFolder, kept: list[str] | None = None) -> None:
        """Record the stage's end in the ledger, unless it crashed: that is tried again."""
        if self.sound:
            artefacts = [folder.describe(p, kind) for p, kind in self.meter.artefacts.items()]
            folder.record(self.name, Entry(self.key, self.state, self.meter, kept or [], artefacts))
            folder.clear_scratch(self.name)

    @property
    def makes_shown(self) -> str:
        """What a user calls that which it makes."""
        named = [NAMES[made] for made in self.link.ports.makes if made in NAMES]
        return ", ".join(named) or self.link.choice.model

    @property
    def sound(self) -> bool:
        """Whether it and all that fed it went through without a crash or a bug."""
        return not self.flawed and all(feeder.sound for feeder in self.feeders)


def plan(chain: Chain, folder: RunFolder, source_hash: str, seed: int) -> list[Job]:
    """Decide for every stage but the report; remove what stands under an outdated key.

    Weights that a stage needs must be on this machine: what they are is part of its key.
    """
    jobs: list[Job] = []
    by_name: dict[str, Job] = {}
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
        jobs.append(Job(link, key, feeders=feeders))
        by_name[link.name] = jobs[-1]
    for name in set(folder.entries) - {job.name for job in jobs}:
        folder.leave_out(name)
    needed: set[type] = set()
    for job in reversed(jobs):
        job.entry = folder.done(job.name, job.key)
        if job.entry is None:
            folder.forget(job.name)
        wanted = bool(needed & set(job.link.ports.makes))
        if job.entry is not None and not wanted:
            job.action = "skip"
        elif job.entry is not None and (job.link.keeps or job.entry.state != "made"):
            job.action = "replay"
        else:
            needed |= set(job.link.ports.reads)
        if job.entry is not None and job.action != "run":
            job.meter, job.state = job.entry.meter, job.entry.state
    return jobs
