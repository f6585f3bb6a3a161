"""The local runner: one process, a chain of generators, a bounded edge after each clip stage.

Parcels travel down the chain: a clip's `Frames` leave the head, every stage adds what it makes.
At the end of the stream `finish` is called stage by stage, and what it makes travels on as a
parcel of its own. Stages that may crash run in workers (`pipeline.worker.child_process`).
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.chain import HEAD, STREAM_LEVEL
from pipeline.config import HEAD_DEADLINE_S, RunOptions
from pipeline.contract.events import Event, Loss, Progress
from pipeline.contract.messages import Actions, Frames, Message
from pipeline.contract.source import Probe, Source
from pipeline.contract.stage import Context, Stage, iterate
from pipeline.errors import OutputError, PartNotMade, Reel3dError, SourceError, WorkerDied
from pipeline.local.prefetch import Prefetch
from pipeline.storage.plan import Job
from pipeline.storage.run_folder import RunFolder
from pipeline.telemetry.listener import Watch
from pipeline.worker.child_process import StageBug, Worker

__all__ = ["Execution"]

log = logging.getLogger(__name__)

Parcel = dict[type, Any]
Parcels = Iterator[Parcel]


@dataclass
class Execution:
    """Runs the jobs of one source in this process."""

    jobs: list[Job]
    source: Source
    folder: RunFolder
    options: RunOptions
    watch: Watch
    probe: Probe | None = None
    workers_peak_bytes: int = 0

    def run(self) -> None:
        """Run what the plan says; on return every job has its state and meter.

        Raises:
            SourceError: The source cannot be used.
            OutputError: The disk is full.
        """
        parcels: Parcels = iter(())
        head = [job for job in self.jobs if job.link.step in HEAD]
        if all(job.action == "run" for job in head):
            parcels = Prefetch(self._head(head), self.options.prefetch, "decode")
        for job in self.jobs:
            if job.link.step in HEAD or job.action == "skip":
                continue
            if job.action == "replay":
                parcels = self._replay(job, parcels)
                continue
            parcels = _Node(job, self).pump(parcels)
            if job.link.stage.scope == "clip" and Frames in job.link.ports.reads:
                parcels = Prefetch(parcels, self.options.prefetch, job.name)
        try:
            for _ in parcels:
                pass
        finally:
            _close(parcels)

    def context(self, name: str, report: Callable[[Event], None]) -> Context:
        """Return the surroundings of a stage, which begins anew."""
        self.folder.clear_scratch(name)
        return Context(
            seed=self.options.seed,
            threads=self.options.threads,
            folder=self.folder.path,
            scratch=self.folder.scratch(name),
            report=report,
        )

    def report_of(self, job: Job) -> Callable[[Event], None]:
        """Return where a stage's events go."""

        def report(event: Event) -> None:
            if isinstance(event, Progress):
                self.watch.progress(job.name, event.done, event.total, event.note)
            job.meter.take(event)

        return report

    def _head(self, head: list[Job]) -> Parcels:
        """Decode and sample in one worker; yield a parcel a clip."""
        decode, sample = head
        stages = [job.link.stage(job.link.choice.options) for job in head]
        worker = Worker(
            stages,
            [(job.link.choice.step, job.link.choice.model) for job in head],
            silence_s=HEAD_DEADLINE_S,
        )
        clips = 0
        self.watch.began(decode.name)
        try:
            worker.open(self.context(sample.name, _forget), [self.report_of(job) for job in head])
            with decode.meter.timed():
                for message in worker.process({"source": self.source}):
                    if isinstance(message, Probe):
                        self.probe = message
                        continue
                    assert isinstance(message, Frames)
                    clips += 1
                    sample.meter.items += len(message.images) - message.overlap
                    decode.meter.items = sample.meter.items
                    yield {Frames: message}
                    total = self.probe.duration_s if self.probe else None
                    self.watch.reached(float(message.pts_ns[-1]) / 1e9, total)
        except (WorkerDied, StageBug, SourceError) as error:
            shown = self.source.shown
            if not clips and isinstance(error, SourceError):
                raise
            if not clips:
                raise SourceError(f"{shown} cannot be decoded: {error}") from error
            why = f"the decoder failed there: {error}"
            decode.meter.losses.append(Loss(what="the rest of the video", why=why))
            decode.flawed = True
        finally:
            self.workers_peak_bytes = max(self.workers_peak_bytes, worker.peak_memory_bytes)
            worker.close()
        if not clips:
            raise SourceError(f"{self.source.shown} holds no frame that can be decoded")
        for job in head:
            job.state = "made"
            job.settle(self.folder)
            self.watch.ended(job.name, job.state, job.meter)

    def _replay(self, job: Job, parcels: Parcels) -> Parcels:
        """Hand on what an earlier run kept, in the parcel where the stage would have put it."""
        assert job.entry is not None
        messages = [self.folder.kept(file) for file in job.entry.kept]
        handed = not messages
        try:
            for parcel in parcels:
                # Of what it reads some may be left out as well, since nobody else needs it.
                beside = any(wanted in parcel for wanted in job.link.ports.reads)
                if not handed and beside and Frames not in parcel:
                    parcel.update({type(message): message for message in messages})
                    handed = True
                yield parcel
            if not handed:
                yield {type(message): message for message in messages}
        finally:
            _close(parcels)


class _Node:
    """One stage at work."""

    def __init__(self, job: Job, execution: Execution) -> None:
        self._job = job
        self._execution = execution
        self._stage: Stage[Any] | None = None
        self._worker: Worker | None = None
        self._actions: list[Actions] = []
        self._kept: list[str] = []
        self._over = False
        self._told = False

    def pump(self, parcels: Parcels) -> Parcels:
        """Take every parcel, add to it what the stage makes of it, pass it on."""
        try:
            for parcel in parcels:
                self._feed(parcel)
                yield parcel
            last: Parcel = {}
            if self._stage is not None and not self._over:
                self._attempt(last, "the end of the stream", self._finish)
            self._settle()
            if last:
                yield last
        finally:
            self._close()
            _close(parcels)

    def _feed(self, parcel: Parcel) -> None:
        arguments = None if self._over else self._job.link.ports.take(parcel)
        if arguments is None:
            return
        clip = parcel[Frames].clip if Frames in parcel else "the stream"
        if self._stage is None:
            self._execution.watch.began(self._job.name)
            self._attempt({}, clip, self._open)
            if self._over:
                return
        self._job.meter.items += 1
        self._attempt(parcel, clip, lambda: self._process(arguments))
        if Frames not in self._job.link.ports.reads:
            # The whole stream at once: this stage is through, whatever comes after it.
            self._told = True
            state = self._job.state if self._over else "made"
            self._execution.watch.ended(self._job.name, state, self._job.meter)

    def _open(self) -> Iterator[Any]:
        link, execution = self._job.link, self._execution
        report = execution.report_of(self._job)
        self._stage = link.stage(link.choice.options)
        if link.stage.isolated:
            self._worker = Worker([self._stage], [(link.choice.step, link.choice.model)])
            self._worker.open(execution.context(self._job.name, _forget), [report])
        else:
            self._stage.open(execution.context(self._job.name, report))
        return iter(())

    def _process(self, arguments: dict[str, Any]) -> Iterator[Any]:
        if self._worker is not None:
            return self._worker.process(arguments)
        assert self._stage is not None
        return iterate(self._stage.process(**arguments))

    def _finish(self) -> Iterator[Any]:
        if self._worker is not None:
            return self._worker.finish()
        assert self._stage is not None
        return iterate(self._stage.finish())

    def _attempt(self, parcel: Parcel, where: str, call: Callable[[], Iterator[Any]]) -> None:
        """Call the stage; what it makes goes into the parcel, what goes wrong becomes data."""
        job = self._job
        try:
            with job.meter.timed():
                for message in call():
                    parcel[type(message)] = message
                    self._keep(message)
        except OutputError:
            raise
        except PartNotMade as error:
            self._give_up("not made", str(error))
        except Reel3dError as error:
            self._give_up("failed", str(error))
        except Exception as error:
            detail = error.detail if isinstance(error, StageBug) else traceback.format_exc()
            summary = str(error) if isinstance(error, StageBug) else _summary(error)
            why = f"a bug in {job.name}: {summary}; errors.jsonl holds the traceback"
            if job.link.stage.scope == "clip" and Frames in parcel:
                # Clip-scoped stages have no memory: only this clip is lost.
                job.flawed = True
                job.meter.losses.append(Loss(what=f"clip {where}", why=why, detail=detail))
            else:
                self._give_up("failed", why, detail)

    def _give_up(self, state: str, why: str, detail: str = "") -> None:
        self._over = True
        self._job.state = state
        self._job.flawed = state == "failed"
        loss = Loss(what=self._job.makes_shown, why=why, detail=detail)
        self._job.meter.losses.append(loss)

    def _keep(self, message: Message) -> None:
        if isinstance(message, Actions):
            self._actions.append(message)
        elif type(message) in STREAM_LEVEL:
            job = self._job
            self._kept.append(self._execution.folder.keep(job.name, job.key, message))

    def _settle(self) -> None:
        job = self._job
        if self._actions and not self._over:
            joined = type(self._actions[0]).concat(self._actions)
            self._kept.append(self._execution.folder.keep(job.name, job.key, joined))
        if self._stage is not None and not self._over:
            job.state = "made"
        job.settle(self._execution.folder, self._kept)
        if not self._told:
            self._execution.watch.ended(job.name, job.state, job.meter)

    def _close(self) -> None:
        if self._worker is not None:
            execution, peak = self._execution, self._worker.peak_memory_bytes
            execution.workers_peak_bytes = max(execution.workers_peak_bytes, peak)
            self._worker.close()
        elif self._stage is not None:
            try:
                self._stage.close()
            except Exception as error:
                # Closing only gives back; what went wrong before it must not be hidden by it.
                log.warning("%s did not close: %s", self._job.name, _summary(error))


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"


def _forget(event: Event) -> None:
    del event


def _close(parcels: Parcels) -> None:
    close = getattr(parcels, "close", None)
    if close is not None:
        close()
