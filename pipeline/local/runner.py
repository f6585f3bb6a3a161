"""The local runner: one process, a chain of generators, a bounded look-ahead after clip stages.

Work items travel down the chain: a clip's `Frames` leave the source, and every stage adds what it
makes. At the end of the stream `finish` is called stage by stage, and its messages travel on as an
item of their own. Stages that may crash run in child processes (`pipeline.worker.ChildProcess`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.chain import HEAD, STREAM_LEVEL
from pipeline.config import HEAD_DEADLINE_S, RunOptions
from pipeline.contract import (
    Actions,
    Context,
    Event,
    Frames,
    Loss,
    Message,
    Probe,
    Progress,
    Source,
    Stage,
)
from pipeline.contract.stage import iterate
from pipeline.errors import Reel3dError
from pipeline.local.prefetch import Prefetch
from pipeline.storage import PlannedStage, RunFolder
from pipeline.telemetry import ProgressListener
from pipeline.worker import (
    ChildProcess,
    Failure,
    StageBug,
    judge_source,
    judge_stage,
    no_frames,
    one_line,
)

__all__ = ["LocalRunner"]

log = logging.getLogger(__name__)

Messages = dict[type, Any]
"""A work item: the messages made of one clip, or of the end of the stream, by type."""
Items = Iterator[Messages]


@dataclass
class LocalRunner:
    """Runs the stages of one source in this process."""

    planned_stages: list[PlannedStage]
    source: Source
    folder: RunFolder
    options: RunOptions
    listener: ProgressListener
    probe: Probe | None = None
    workers_peak_bytes: int = 0

    def run(self) -> None:
        """Run what the plan says; on return every stage has its state and meter.

        Raises:
            SourceError: The source cannot be used.
            OutputError: The disk is full.
        """
        items: Items = iter(())
        head = [planned for planned in self.planned_stages if planned.link.step in HEAD]
        if all(planned.action == "run" for planned in head):
            items = Prefetch(self._head(head), self.options.prefetch, "decode")
        for planned in self.planned_stages:
            if planned.link.step in HEAD or planned.action == "skip":
                continue
            if planned.action == "replay":
                items = self._replay(planned, items)
                continue
            items = _StageRunner(planned, self).pump(items)
            if planned.link.stage.scope == "clip" and Frames in planned.link.ports.reads:
                items = Prefetch(items, self.options.prefetch, planned.name)
        try:
            for _ in items:
                pass
        finally:
            _close(items)

    def context(self, name: str, report: Callable[[Event], None]) -> Context:
        """Return the context of a stage that begins from its initial state."""
        self.folder.clear_scratch(name)
        return Context(
            seed=self.options.seed,
            threads=self.options.threads,
            folder=self.folder.path,
            scratch=self.folder.scratch(name),
            report=report,
        )

    def report_of(self, planned: PlannedStage) -> Callable[[Event], None]:
        """Return the receiver of a stage's events."""

        def report(event: Event) -> None:
            if isinstance(event, Progress):
                self.listener.on_progress(planned.name, event.done, event.total, event.note)
            planned.meter.take(event)

        return report

    def _head(self, head: list[PlannedStage]) -> Items:
        """Decode and sample in one child process; yield an item per clip."""
        decode, sample = head
        stages = [planned.link.stage(planned.link.choice.options) for planned in head]
        child = ChildProcess(
            stages,
            [(planned.link.choice.step, planned.link.choice.model) for planned in head],
            silence_s=HEAD_DEADLINE_S,
        )
        clips = 0
        self.listener.on_stage_start(decode.name)
        try:
            child.open(
                self.context(sample.name, _forget), [self.report_of(planned) for planned in head]
            )
            with decode.meter.timed():
                for message in child.process({"source": self.source}):
                    if isinstance(message, Probe):
                        self.probe = message
                        continue
                    assert isinstance(message, Frames)
                    clips += 1
                    sample.meter.items += len(message.images) - message.overlap
                    decode.meter.items = sample.meter.items
                    yield {Frames: message}
                    total = self.probe.duration_s if self.probe else None
                    self.listener.on_position(float(message.pts_ns[-1]) / 1e9, total)
        except (Reel3dError, StageBug) as error:
            verdict = judge_source(_failure_of(error), self.source.shown, clips)
            if isinstance(verdict, Reel3dError):
                raise verdict from error
            decode.meter.losses.append(verdict)
            decode.tainted = True
        finally:
            self.workers_peak_bytes = max(self.workers_peak_bytes, child.peak_memory_bytes)
            child.close()
        if not clips:
            raise no_frames(self.source.shown)
        for planned in head:
            planned.state = "made"
            planned.finalize(self.folder)
            self.listener.on_stage_end(planned.name, planned.state, planned.meter)

    def _replay(self, planned: PlannedStage, items: Items) -> Items:
        """Pass on what an earlier run kept, in the item where the stage would have put it."""
        assert planned.entry is not None
        messages = [self.folder.kept(file) for file in planned.entry.kept]
        handed = not messages
        try:
            for item in items:
                # Some of what it reads may be left out as well, since no other stage needs it.
                beside = any(wanted in item for wanted in planned.link.ports.reads)
                if not handed and beside and Frames not in item:
                    item.update({type(message): message for message in messages})
                    handed = True
                yield item
            if not handed:
                yield {type(message): message for message in messages}
        finally:
            _close(items)


class _StageRunner:
    """One stage of the chain."""

    def __init__(self, planned: PlannedStage, runner: LocalRunner) -> None:
        self._planned = planned
        self._runner = runner
        self._stage: Stage[Any] | None = None
        self._child: ChildProcess | None = None
        self._actions: list[Actions] = []
        self._persisted: list[str] = []
        self._stopped = False
        self._end_reported = False

    def pump(self, items: Items) -> Items:
        """Take every item, add what the stage makes of it, and pass it on."""
        try:
            for item in items:
                self._feed(item)
                yield item
            last: Messages = {}
            if self._stage is not None and not self._stopped:
                self._attempt(last, "the end of the stream", self._finish)
            self._finalize()
            if last:
                yield last
        finally:
            self._close()
            _close(items)

    def _feed(self, item: Messages) -> None:
        arguments = None if self._stopped else self._planned.link.ports.take(item)
        if arguments is None:
            return
        clip = item[Frames].clip if Frames in item else "the stream"
        if self._stage is None:
            self._runner.listener.on_stage_start(self._planned.name)
            self._attempt({}, clip, self._open)
            if self._stopped:
                return
        self._planned.meter.items += 1
        self._attempt(item, clip, lambda: self._process(arguments))
        if Frames not in self._planned.link.ports.reads:
            # The whole stream at once: this stage has ended, whatever comes after it.
            self._end_reported = True
            state = self._planned.state if self._stopped else "made"
            self._runner.listener.on_stage_end(self._planned.name, state, self._planned.meter)

    def _open(self) -> Iterator[Any]:
        link, runner = self._planned.link, self._runner
        report = runner.report_of(self._planned)
        self._stage = link.stage(link.choice.options)
        if link.stage.isolated:
            self._child = ChildProcess([self._stage], [(link.choice.step, link.choice.model)])
            self._child.open(runner.context(self._planned.name, _forget), [report])
        else:
            self._stage.open(runner.context(self._planned.name, report))
        return iter(())

    def _process(self, arguments: dict[str, Any]) -> Iterator[Any]:
        if self._child is not None:
            return self._child.process(arguments)
        assert self._stage is not None
        return iterate(self._stage.process(**arguments))

    def _finish(self) -> Iterator[Any]:
        if self._child is not None:
            return self._child.finish()
        assert self._stage is not None
        return iterate(self._stage.finish())

    def _attempt(self, item: Messages, where: str, call: Callable[[], Iterator[Any]]) -> None:
        """Call the stage; its messages go into the item, an exception becomes a loss."""
        planned = self._planned
        try:
            with planned.meter.timed():
                for message in call():
                    item[type(message)] = message
                    self._persist(message)
        except Exception as error:
            one_clip = planned.link.stage.scope == "clip" and Frames in item
            verdict = judge_stage(_failure_of(error), planned.name, one_clip=one_clip)
            if verdict.costs == "run":
                raise
            planned.tainted = planned.tainted or verdict.taints
            what = f"clip {where}" if verdict.costs == "clip" else planned.makes_shown
            planned.meter.losses.append(Loss(what=what, why=verdict.why, detail=verdict.detail))
            if verdict.costs == "stage":
                self._stopped = True
                planned.state = verdict.state

    def _persist(self, message: Message) -> None:
        if isinstance(message, Actions):
            self._actions.append(message)
        elif type(message) in STREAM_LEVEL:
            planned = self._planned
            self._persisted.append(self._runner.folder.keep(planned.name, planned.key, message))

    def _finalize(self) -> None:
        planned = self._planned
        if self._actions and not self._stopped:
            joined = type(self._actions[0]).concat(self._actions)
            self._persisted.append(self._runner.folder.keep(planned.name, planned.key, joined))
        if self._stage is not None and not self._stopped:
            planned.state = "made"
        planned.finalize(self._runner.folder, self._persisted)
        if not self._end_reported:
            self._runner.listener.on_stage_end(planned.name, planned.state, planned.meter)

    def _close(self) -> None:
        if self._child is not None:
            runner, peak = self._runner, self._child.peak_memory_bytes
            runner.workers_peak_bytes = max(runner.workers_peak_bytes, peak)
            self._child.close()
        elif self._stage is not None:
            try:
                self._stage.close()
            except Exception as error:
                # Closing only releases; it must not hide what went wrong before.
                log.warning("%s did not close: %s", self._planned.name, one_line(Failure.of(error)))


def _failure_of(error: Exception) -> Failure:
    return error.failure if isinstance(error, StageBug) else Failure.of(error)


def _forget(event: Event) -> None:
    del event


def _close(items: Items) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()
