"""How long the planner rests between decisions."""

import pytest

from planner.breath import CHANGE, CREDIT, LONGEST, SHARE, SHORT, Breath


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


LONG = 4 * SHORT


def after_long_work(took: float, began: float = 10.0) -> tuple[Breath, float]:
    """One that has decided again and again, and when it ended."""
    breath, now = Breath(), began
    while now < began + 2 * CREDIT / (0.5 - SHARE):
        breath.decided(now, now + took)
        now += took + breath.left(now + took)
    return breath, now


def test_where_long_decisions_never_end_there_is_one_a_second() -> None:
    breath, now = after_long_work(LONG)
    breath.decided(now, now + LONG)
    assert breath.left(now + LONG) == LONGEST


def test_after_a_quiet_time_long_decisions_follow_one_another_again() -> None:
    breath, now = after_long_work(LONG)
    now += CREDIT / SHARE
    for _ in range(3):
        breath.decided(now, now + LONG)
        assert breath.left(now + LONG) == pytest.approx(LONG)
        now += 2 * LONG


def test_burst_is_decided_on_however_long_others_were_before_it() -> None:
    breath, now = after_long_work(LONG)
    for _ in range(round(3 * LONG / CHANGE)):
        breath.changed()
    breath.decided(now, now + LONG)
    assert breath.left(now + LONG) == pytest.approx(LONG)


def test_short_decisions_are_never_held_back() -> None:
    breath, now = after_long_work(SHORT)
    breath.decided(now, now + SHORT)
    assert breath.left(now + SHORT) == pytest.approx(SHORT)
