"""The decoder against a search over all paths, and its promises on time and length."""

import itertools
import pickle

import numpy as np
import pytest

from stages.action._decoding import Decoder, StateRun, Step

S = 1_000_000_000


def steps(costs: np.ndarray, seconds: float = 0.1) -> list[Step]:
    length = round(seconds * S)
    return [
        Step(start_ns=i * length, end_ns=(i + 1) * length, costs=row) for i, row in enumerate(costs)
    ]


def decoded(decoder: Decoder, given: list[Step]) -> list[StateRun]:
    runs = [run for step in given for run in decoder.push(step)]
    return runs + decoder.flush()


def states(runs: list[StateRun], count: int, seconds: float = 0.1) -> list[int]:
    middles = (np.arange(count) + 0.5) * seconds * S
    return [next(r.state for r in runs if r.start_ns <= m < r.end_ns) for m in middles]


@pytest.mark.parametrize("seed", range(4))
def test_with_a_long_lag_the_path_is_the_best_of_all(seed: int) -> None:
    costs = np.random.default_rng(seed).uniform(0, 1, (8, 3))
    decoder = Decoder(switch_s=0.04, lag_ns=100 * S, shortest_ns=0)
    said = states(decoded(decoder, steps(costs)), len(costs))

    def total(path: tuple[int, ...]) -> float:
        changes = sum(a != b for a, b in itertools.pairwise(path))
        return sum(costs[i, s] for i, s in enumerate(path)) * 0.1 + 0.04 * changes

    best = min(itertools.product(range(3), repeat=len(costs)), key=total)
    assert total(tuple(said)) == pytest.approx(total(best))


def test_runs_tile_the_time_and_none_is_too_short() -> None:
    costs = np.random.default_rng(7).uniform(0, 1, (300, 4))
    decoder = Decoder(switch_s=0.01, lag_ns=S // 2, shortest_ns=4 * S // 10)
    runs = decoded(decoder, steps(costs))
    assert len(runs) > 5
    assert runs[0].start_ns == 0
    assert runs[-1].end_ns == 30 * S
    for before, after in itertools.pairwise(runs):
        assert before.end_ns == after.start_ns
        assert before.state != after.state
    assert min(r.end_ns - r.start_ns for r in runs) >= 4 * S // 10
    assert all(0 <= r.score <= 1 for r in runs)


def test_a_short_first_run_goes_to_what_follows() -> None:
    costs = np.array([[0, 1]] * 2 + [[1, 0]] * 8, float)
    runs = decoded(Decoder(switch_s=0.01, lag_ns=S, shortest_ns=4 * S // 10), steps(costs))
    assert [(r.state, r.start_ns, r.end_ns) for r in runs] == [(1, 0, S)]


def test_a_run_comes_soon_after_it_ends_and_nothing_piles_up() -> None:
    decoder = Decoder(switch_s=0.1, lag_ns=S // 2, shortest_ns=4 * S // 10)
    sizes = []
    for i, step in enumerate(steps(np.array([[0, 1]] * 400 + [[1, 0]] * 400, float))):
        for run in decoder.push(step):
            assert (run.state, run.end_ns) == (0, 40 * S)
            assert step.end_ns - run.end_ns <= 0.95 * S
            break
        if i in (50, 390):
            sizes.append(len(pickle.dumps(decoder)))
    assert abs(sizes[0] - sizes[1]) < 50


def test_after_a_settled_state_a_later_change_is_still_found() -> None:
    """Settling `rest` early must not forbid to change to `move` afterwards."""
    move = [0.0] * 6 + [0.43, 0.81, 0.19, 0.0, 0.23, 0.0] + [0.9] * 12
    costs = np.array([[m, 1 - m] for m in move])
    runs = decoded(Decoder(switch_s=0.16, lag_ns=S // 2, shortest_ns=0), steps(costs))
    assert [r.state for r in runs] == [0, 1]
    assert runs[1].start_ns == pytest.approx(1.2 * S)


def test_the_score_is_the_margin() -> None:
    costs = np.array([[0.2, 0.5, 0.9]] * 10)
    (run,) = decoded(Decoder(switch_s=0.1, lag_ns=S, shortest_ns=0), steps(costs))
    assert run.score == pytest.approx(0.6)
