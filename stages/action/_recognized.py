"""From the scores of windows to timed segments: hysteresis, then the best of what overlaps.

A label's segment begins where its score reaches `recognized_from` and lasts while it stays at
`recognized_while`. Of segments that lie over one another by more than `most_overlap` (intersection
over union in time) only the `top_k` best stay: non-maximum suppression over time, as in temporal
action detection (Neubeck and Van Gool 2006 in one dimension). A segment is handed out as soon as
nothing that is still open can decide over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.contract import Options, Scores

__all__ = ["Recognized", "RecognizedOptions", "Segment"]

LONGEST_GAP_NS = 1_000_000_000
"""Between two clips of a shot: a longer one ends what was going on."""


class RecognizedOptions(Options):
    """How the scores of a recognizer become events."""

    recognized_from: float = Field(
        0.5, gt=0, le=1, description="score at which a recognized action begins"
    )
    recognized_while: float = Field(
        0.3, gt=0, le=1, description="score down to which it goes on (at most recognized_from)"
    )
    recognized_s: float = Field(
        0.5, ge=0, le=60, description="recognized actions shorter than this are left out"
    )
    top_k: int = Field(1, ge=1, le=100, description="labels that may lie over one stretch of time")
    most_overlap: float = Field(
        0.5, gt=0, le=1, description="how much of two of them may be the same time, above top_k"
    )


@dataclass(kw_only=True)
class Segment:
    """A stretch of time with one label."""

    label: str
    model: str
    start_ns: int
    end_ns: int
    area: float = 0.0
    """Its score integrated over its time, ns."""

    @property
    def score(self) -> float:
        """Its mean score."""
        return self.area / max(self.end_ns - self.start_ns, 1)

    @property
    def rank(self) -> tuple[float, int, str]:
        """Better ones come first."""
        return (-self.score, self.start_ns, self.label)

    def overlap(self, other: Segment) -> float:
        """Return intersection over union with another."""
        shared = min(self.end_ns, other.end_ns) - max(self.start_ns, other.start_ns)
        whole = max(self.end_ns, other.end_ns) - min(self.start_ns, other.start_ns)
        return max(shared, 0) / max(whole, 1)


class Recognized:
    """Folds over the scores of a stream's clips, in order."""

    def __init__(self, options: RecognizedOptions) -> None:
        self._options = options
        self._shot: int | None = None
        self._until_ns = 0
        """Up to here the scores are known."""
        self._open: dict[str, Segment] = {}
        self._closed: list[Segment] = []
        """Ended, but not decided."""
        self._emitted: list[Segment] = []
        """Handed out, and may still lie over one that is not decided."""

    def push(self, scores: Scores) -> list[Segment]:
        """Take the scores of the next clip; return the segments that are now settled."""
        if scores.shot != self._shot:
            self._close_all()
            self._shot, self._until_ns = scores.shot, int(scores.start_ns[0])
        elif int(scores.start_ns[0]) - self._until_ns > LONGEST_GAP_NS:
            self._close_all()
        edges = np.unique(np.concatenate([scores.start_ns, scores.end_ns]))
        # What the clip before has covered is settled: its frames are in both.
        edges = np.append(self._until_ns, edges[edges > self._until_ns])
        for start_ns, end_ns in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            covers = (scores.start_ns < end_ns) & (scores.end_ns > start_ns)
            if covers.any():
                self._step(start_ns, end_ns, scores.score[covers].mean(axis=0), scores)
        return self._finalized()

    def flush(self) -> list[Segment]:
        """Return the rest: the stream is over."""
        self._close_all()
        return self._finalized()

    def _step(
        self, start_ns: int, end_ns: int, score: npt.NDArray[np.float32], scores: Scores
    ) -> None:
        """Let a stretch of time pass during which the labels had these scores."""
        options = self._options
        low = min(options.recognized_while, options.recognized_from)
        alive = set(np.flatnonzero(score >= low).tolist())
        going = {label: n for n, label in enumerate(scores.label) if label in self._open}
        for label in [name for name in self._open if going.get(name, -1) not in alive]:
            self._close(label)
        for n in sorted(alive):
            label = scores.label[n]
            if label not in self._open:
                if score[n] < options.recognized_from:
                    continue
                self._open[label] = Segment(
                    label=label, model=scores.model, start_ns=start_ns, end_ns=start_ns
                )
            segment = self._open[label]
            segment.area += float(score[n]) * (end_ns - segment.end_ns)
            segment.end_ns = end_ns
        self._until_ns = end_ns

    def _close(self, label: str) -> None:
        segment = self._open.pop(label)
        if segment.end_ns - segment.start_ns >= self._options.recognized_s * 1e9:
            self._closed.append(segment)

    def _close_all(self) -> None:
        for label in list(self._open):
            self._close(label)

    def _finalized(self) -> list[Segment]:
        """Decide over what nothing open can change any more."""
        most = self._options.most_overlap
        out: list[Segment] = []
        waiting: list[Segment] = []
        for segment in sorted(self._closed, key=lambda s: s.rank):
            undecided = [*self._open.values(), *waiting]
            # What is open only grows, past this one's end: their overlap only falls.
            if any(segment.overlap(other) >= most for other in undecided):
                waiting.append(segment)
                continue
            overlapping = [k for k in self._emitted if segment.overlap(k) >= most]
            if len(overlapping) < self._options.top_k:
                self._emitted.append(segment)
                out.append(segment)
        self._closed = waiting
        starts = [s.start_ns for s in (*waiting, *self._open.values())]
        since_ns = min(starts, default=self._until_ns)
        self._emitted = [k for k in self._emitted if k.end_ns > since_ns]
        return sorted(out, key=lambda s: (s.start_ns, s.end_ns, s.label))

    def snapshot(self) -> dict[str, Any]:
        """Return where it stands as plain data."""
        return {
            "shot": self._shot,
            "until_ns": self._until_ns,
            "open": [vars(s).copy() for s in self._open.values()],
            "closed": [vars(s).copy() for s in self._closed],
            "kept": [vars(s).copy() for s in self._emitted],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._shot, self._until_ns = state["shot"], state["until_ns"]
        self._open = {s["label"]: Segment(**s) for s in state["open"]}
        self._closed = [Segment(**s) for s in state["closed"]]
        self._emitted = [Segment(**s) for s in state["kept"]]
