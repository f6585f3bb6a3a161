"""How a cluster is divided among runs: closed forms."""

from __future__ import annotations

import pytest

from pipeline.cluster.fair_share import Claim, fraction_of


@pytest.mark.parametrize(
    ("mine", "others", "expected"),
    [
        (Claim(0, 1.0), [], 1.0),
        (Claim(0, 1.0), [Claim(0, 1.0)], 1 / 2),
        (Claim(0, 1.0), [Claim(0, 1.0)] * 3, 1 / 4),
        (Claim(1, 1.0), [Claim(0, 1.0)], 2 / 3),
        (Claim(-1, 1.0), [Claim(0, 1.0)], 1 / 3),
        (Claim(0, 0.25), [], 0.25),
        (Claim(0, 0.25), [Claim(0, 1.0)], 0.25),
        (Claim(0, 1.0), [Claim(0, 0.25)], 0.75),
        (Claim(0, 1.0), [Claim(0, 0.1), Claim(0, 0.1)], 0.8),
        (Claim(0, 0.2), [Claim(0, 0.2)], 0.2),
        (Claim(99, 1.0), [Claim(10, 1.0)], 1 / 2),
    ],
)
def test_the_cluster_is_divided_by_weight_up_to_each_share(
    mine: Claim, others: list[Claim], expected: float
) -> None:
    assert fraction_of(mine, others) == pytest.approx(expected)


def test_the_fractions_of_all_runs_never_exceed_the_cluster() -> None:
    claims = [Claim(3, 0.6), Claim(0, 0.3), Claim(-2, 1.0), Claim(1, 0.05)]
    parts = [fraction_of(c, claims[:i] + claims[i + 1 :]) for i, c in enumerate(claims)]
    assert sum(parts) <= 1 + 1e-9
    assert all(part <= claim.share + 1e-9 for part, claim in zip(parts, claims, strict=True))
