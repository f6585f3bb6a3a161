"""The hooks of a simulated stream: it has no folder, no journal and nobody who watches."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.chain import Link
from pipeline.contract.events import Event, Loss
from pipeline.errors import Reel3dError
from pipeline.scheduling.backend import Result
from pipeline.scheduling.dataflow import Call, Flow, Node, Parcel
from pipeline.scheduling.scheduler import Scheduler
from pipeline.storage.plan import Job

__all__ = ["Hooks"]


class _Driver(Protocol):
    @property
    def scheduler(self) -> Scheduler: ...

    def end_stream(self) -> None: ...


class Hooks:
    """A stream's run without a folder: after its end comes the report."""

    def __init__(self, driver: _Driver, flow: Flow, report: Link | None) -> None:
        """Belong to a stream.

        Args:
            driver: What spends its time on the stream.
            flow: The stream.
            report: Its report, if there is one.
        """
        self._driver = driver
        self._flow = flow
        self._report = report

    def opened(self, found: dict[str, Any]) -> None:
        """Nothing is looked for."""

    def clip(self, parcel: Parcel, result: Result) -> None:
        """No journal is written."""

    def sent(self, node: Node) -> None:
        """Nobody watches."""

    def answered(self, result: Result) -> None:
        """Nothing is told."""

    def dealt(self, node: Node, parcel: Parcel, seconds: float, loss: Loss | None) -> None:
        """No journal is written."""

    def passed(self, node: Node, parcel: Parcel) -> None:
        """No journal is written."""

    def total(self, count: int) -> None:
        """No journal is written."""

    def tell(self, stage: str, event: Event) -> None:
        """Nothing is told."""

    def settle(self, node: Node) -> None:
        """There is no ledger."""

    def ended(self, error: Reel3dError | None) -> None:
        """Ask for the report."""
        assert error is None, "no call fails here"
        self._driver.end_stream()
        if self._report is None:
            self._driver.scheduler.finish_stream(self._flow)
            return
        node = Node(-1, Job(self._report, ""), "fold")
        self._driver.scheduler.call(self._flow, Call(self._flow, node, "report"))

    def reported(self, result: Result) -> None:
        """Be through."""
        self._driver.scheduler.finish_stream(self._flow)
