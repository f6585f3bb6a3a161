"""What was wanted of a source, what came, and how the gaps are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.decode._error_text import spans

__all__ = ["GapReport", "Reporter"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reporter:
    """Where a reader tells of doubts and losses: the stage's own `warn` and `lost`."""

    warn: Callable[[str], None]
    lost: Callable[[str, str], None]


class GapReport:
    """Keeps account of what was wanted and what came, and tells of the gaps once."""

    def __init__(
        self, pts_ns: Ints, expected: int, span: tuple[int, int], reporter: Reporter, ranks: Ints
    ) -> None:
        self._pts_ns = pts_ns
        self._expected = expected
        self._whole = len(ranks) == span[1] - span[0]
        self._to_end = span[1] == len(pts_ns)
        self._reporter = reporter
        self.missing = dict.fromkeys(ranks.tolist())
        self._wanted = len(ranks)
        self._last_s = 0.0
        self._why = ""

    @property
    def failed(self) -> bool:
        """Whether anything went wrong so far."""
        return bool(self._why)

    def skip_before(self, first: int) -> None:
        """Strike out the frames before number `first`: another reader has delivered them."""
        before = [rank for rank in self.missing if rank < first]
        for rank in before:
            self.mark_decoded(rank)

    def mark_decoded(self, rank: int) -> None:
        """Strike out a frame that came."""
        self.missing.pop(rank, None)
        self._last_s = max(self._last_s, float(self._pts_ns[rank]) / 1e9)

    def record_failure(self, why: str) -> None:
        """Remember what went wrong first."""
        self._why = self._why or why

    def record_early_end(self) -> None:
        """Remember that the packets ended before the wanted frames did."""
        self._why = self._why or "the file ends"

    def report(self) -> None:
        """Tell what is missing: called at the end, also where the consumer stopped early."""
        count = len(self._pts_ns)
        cut = self._to_end and self._expected > count
        if not (self._why or cut):
            return
        lacking = list(self.missing)
        if cut and self._whole:
            lacking += range(count, self._expected)
        if not lacking and cut:
            lacking = list(range(count, self._expected))
        if not lacking:
            return
        total = self._expected if self._whole and self._to_end else self._wanted
        done = self._wanted - len(self.missing)
        self._reporter.lost(
            spans(lacking[0], lacking[-1]),
            f"decoded {done} of {total} frames, up to {self._last_s:.2f} s; then: "
            f"{self._why or 'the file is cut off'}",
        )
