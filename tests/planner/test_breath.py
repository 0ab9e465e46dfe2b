"""How long the planner rests between decisions."""

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
