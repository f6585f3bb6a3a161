"""Milestones as shares of a budget, and who decides: the steps or the clock."""

import pytest

from stages.splat._schedule import Budget, Schedule


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def budget(steps, seconds, clock=None):
    return Budget(steps, seconds, clock or Clock())


def test_steps_decide_as_long_as_they_will_be_done_in_time():
    clock = Clock()
    plan = budget(100, 50.0, clock)
    shares = []
    for step in range(100):
        clock.now = 100.0 + step * 0.3
        shares.append(plan.progress(step))
    assert shares == [step / 100 for step in range(100)]
    assert plan.progress(100) == 1
    assert not plan.cut_short


def test_a_slow_first_step_decides_nothing():
    clock = Clock()
    plan = budget(100, 50.0, clock)
    clock.now += 2.4
    assert plan.progress(1) == 0.01
    assert not plan.by_time


def test_where_the_steps_will_not_be_done_the_clock_decides_and_it_is_known():
    clock = Clock()
    plan = budget(1000, 50.0, clock)
    clock.now += 10
    assert plan.progress(50) == pytest.approx(0.2)
    assert plan.by_time
    assert not plan.cut_short
    clock.now += 40
    assert plan.progress(300) == 1
    assert plan.cut_short


def test_a_clock_that_led_but_did_not_cut_is_not_told():
    clock = Clock()
    plan = budget(100, 50.0, clock)
    clock.now += 10
    plan.progress(1)
    assert plan.by_time
    clock.now += 1
    assert plan.progress(100) == 1
    assert not plan.cut_short


@pytest.mark.parametrize(("steps", "seconds"), [(0, 10.0), (10, 0.0), (0, 0.0), (None, 0.0)])
def test_a_budget_of_nothing_is_used_up(steps, seconds):
    assert budget(steps, seconds).progress(0) == 1


def test_seconds_alone_make_a_budget():
    clock = Clock()
    plan = budget(None, 20.0, clock)
    clock.now += 5
    assert plan.progress(12345) == 0.25
    clock.now += 15
    assert plan.progress(12345) == 1
    assert not plan.cut_short


def test_a_further_round_begins_late_has_twice_the_steps_and_the_seconds_that_are_left():
    clock = Clock()
    plan = budget(100, 50.0, clock)
    clock.now += 20
    assert plan.progress(100) == 1
    plan.extend(100, 0.4)
    assert plan.progress(100) == pytest.approx(0.4)
    assert plan.progress(200) == pytest.approx(0.7)
    assert plan.progress(300) == 1
    clock.now += 31
    assert plan.progress(101) == 1


def test_what_is_restored_goes_on_with_the_same_share_and_memory_of_the_clock():
    clock = Clock()
    plan = budget(1000, 50.0, clock)
    clock.now += 11
    share = plan.progress(50)
    later = Clock()
    later.now = 9000.0
    again = budget(1000, 50.0, later)
    again.restore(plan.state())
    assert again.progress(50) == pytest.approx(share)
    assert again.by_time
    assert again.elapsed_s == pytest.approx(11)


def test_milestones_come_in_order_and_end_before_the_end():
    schedule = Schedule(degree=3)
    shares = [i / 1000 for i in range(1001)]
    assert [schedule.halvings(p) for p in (0, 0.2499, 0.25, 1)] == [1, 1, 0, 0]
    assert [schedule.harmonics(p) for p in (0, 0.1, 0.2, 0.3, 1)] == [0, 1, 2, 3, 3]
    assert Schedule(degree=1).harmonics(1) == 1
    due = [schedule.refinement(p) for p in shares]
    assert due == sorted(due)
    assert (due[0], due[600], due[-1]) == (0, schedule.refinements, schedule.refinements)
    planned = [schedule.planned(p, 1000, 5000) for p in shares]
    assert planned == sorted(planned)
    assert (planned[0], planned[-1]) == (1000, 5000)
    rates = [schedule.rate(p) for p in shares]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (1, pytest.approx(0.1))
    assert schedule.rate_of_means(1) == pytest.approx(0.01)
