"""When a node's agent counts as away, with a clock of our own."""

from planner.state.absence import Absences
from tests.planner.test_decide import a_layout, a_node


def test_agent_is_away_when_its_slices_have_not_been_shown_for_a_while() -> None:
    absences, layouts = Absences(patience=2.0), {"n1": a_layout(free={10: 1})}
    assert absences.watch([a_node()], layouts, 100.0) == frozenset()
    assert absences.due() == 102.0
    assert absences.watch([a_node()], layouts, 101.9) == frozenset()
    assert absences.watch([a_node()], layouts, 102.0) == {"n1"}
    assert absences.due() is None


def test_agent_that_was_back_in_between_is_waited_for_anew() -> None:
    absences, layouts = Absences(patience=2.0), {"n1": a_layout(free={10: 1})}
    absences.watch([a_node()], layouts, 100.0)
    assert absences.watch([a_node(shows={10: 1})], layouts, 101.0) == frozenset()
    assert absences.due() is None
    assert absences.watch([a_node()], layouts, 102.0) == frozenset()


def test_node_without_slices_has_lost_none() -> None:
    assert Absences(patience=0.0).watch([a_node()], {"n1": a_layout()}, 100.0) == frozenset()


def test_node_that_shows_some_of_its_sizes_has_its_agent() -> None:
    layouts = {"n1": a_layout(free={10: 1, 20: 1})}
    assert Absences(patience=0.0).watch([a_node(shows={20: 1})], layouts, 1.0) == frozenset()
