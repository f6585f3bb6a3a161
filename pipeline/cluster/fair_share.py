"""Several runs on one cluster: who else is there, and what share falls to this run.

Every run leaves a row in the cluster's own key-value store and renews it; one that is not renewed
counts no more. The cores are divided by weight, 2 to the power of a run's priority, and none
takes more than its `--share`. There is no broker that could fail: every run reckons alike.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["Quota", "fraction_of"]

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


class Quota:
    """This run's row among those of the others."""

    def __init__(self, job: str, *, priority: int, share: float) -> None:
        """Announce this run to the cluster that the process has joined."""
        self._key = PREFIX + job.encode()
        self._mine = Claim(priority, share)
        self._next = 0.0
        self.fraction = share

    def renew(self) -> float:
        """Say that this run is alive, about once a second; return the fraction that is its."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + RENEW_S
            store = _store()
            row = {"priority": self._mine.priority, "share": self._mine.share, "at": time.time()}
            store._internal_kv_put(self._key, json.dumps(row).encode(), overwrite=True)
            self.fraction = fraction_of(self._mine, self._others(store))
        return self.fraction

    def leave(self) -> None:
        """Leave the others what was this run's."""
        _store()._internal_kv_del(self._key)

    def _others(self, store: Any) -> list[Claim]:
        others: list[Claim] = []
        for key in store._internal_kv_list(PREFIX):
            raw = store._internal_kv_get(key) if key != self._key else None
            if not raw:
                continue
            row = json.loads(raw)
            if abs(time.time() - row["at"]) < STALE_S:
                others.append(Claim(int(row["priority"]), float(row["share"])))
            else:
                store._internal_kv_del(key)
        return others


def _store() -> Any:
    from ray.experimental import internal_kv

    return internal_kv
