"""How long the planner rests between decisions."""

import pytest

from planner.breath import LONGEST, Breath


def test_planner_rests_as_long_as_it_took_to_decide() -> None:
    breath = Breath()
    breath.decided(10.0, 10.25)
    assert breath.left(10.25) == 0.25
    assert breath.left(10.4) < 0.25
    assert breath.is_long


def test_nobody_waits_for_a_long_decision_long_ago() -> None:
    breath = Breath()
    breath.decided(10.0, 13.0)
    assert breath.left(13.0) == LONGEST
    assert breath.left(14.0) == 0


def test_next_decision_takes_the_place_of_the_last() -> None:
    breath = Breath()
    breath.decided(10.0, 13.0)
    breath.decided(14.0, 14.0)
    assert breath.left(14.0) == 0
    assert not breath.is_long


def test_short_decisions_follow_one_another_until_a_rest_is_worth_it() -> None:
    breath = Breath()
    for number in range(5):
        breath.decided(10.0 + number * 0.004, 10.004 + number * 0.004)
        assert breath.left(10.004 + number * 0.004) == 0
    breath.decided(10.02, 10.024)
    assert breath.left(10.024) == pytest.approx(0.024)


def test_what_short_decisions_took_is_forgotten_once_that_much_time_has_passed() -> None:
    breath = Breath()
    for number in range(100):
        breath.decided(10.0 + number, 10.015 + number)
        assert breath.left(10.015 + number) == 0
