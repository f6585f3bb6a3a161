"""Fair share of a cluster among several runs.

Every run keeps a row in the cluster's key-value store and renews it; a row that is not renewed does
not count. The cores are divided by weight, 2 to the power of a run's priority, and no run takes
more than its `--share`. There is no broker that could fail: every run computes the same division.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.cluster import key_value

__all__ = ["FairShare", "fraction_of"]

PREFIX = b"reel3d:run:"
RENEW_S = 1.0
STALE_S = 10.0
"""A run that has not been heard of for this long is over."""
LARGEST_PRIORITY = 10


@dataclass(frozen=True)
class Claim:
    """What one run asks for."""

    priority: int
    share: float


def fraction_of(mine: Claim, others: list[Claim]) -> float:
    """Return the fraction of the cluster that falls to a run, 0..1.

    What a run may not take, since its share is capped, is left to the others.
    """
    claims = [mine, *others]
    left, open_claims = 1.0, list(range(len(claims)))
    given = [0.0] * len(claims)
    while open_claims and left > 1e-9:
        weights = {i: 2.0 ** _bounded(claims[i].priority) for i in open_claims}
        total = sum(weights.values())
        capped = [i for i in open_claims if left * weights[i] / total >= claims[i].share]
        if not capped:
            for i in open_claims:
                given[i] = left * weights[i] / total
            break
        for i in capped:
            given[i] = claims[i].share
            open_claims.remove(i)
        left = max(0.0, 1.0 - sum(given))
    return given[0]


def _bounded(priority: int) -> int:
    return max(-LARGEST_PRIORITY, min(LARGEST_PRIORITY, priority))


class FairShare:
    """This run's row among those of the others."""

    def __init__(self, job: str, *, priority: int, share: float) -> None:
        """Announce this run to the cluster that the process has joined."""
        self._key = PREFIX + job.encode()
        self._mine = Claim(priority, share)
        self._next = 0.0
        self.fraction = share

    def renew(self) -> float:
        """Renew this run's row, about once a second; return its fraction of the cluster."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + RENEW_S
            row = {"priority": self._mine.priority, "share": self._mine.share, "at": time.time()}
            key_value.put(self._key, row)
            self.fraction = fraction_of(self._mine, self._others())
        return self.fraction

    def leave(self) -> None:
        """Withdraw this run's row: the others may have its share."""
        key_value.delete(self._key)

    def _others(self) -> list[Claim]:
        others: list[Claim] = []
        for key in key_value.keys(PREFIX):
            row = key_value.get(key) if key != self._key else None
            if row is None:
                continue
            if abs(time.time() - row["at"]) < STALE_S:
                others.append(Claim(int(row["priority"]), float(row["share"])))
            else:
                key_value.delete(key)
        return others
