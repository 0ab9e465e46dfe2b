"""Gates of pods without a place, while slices that they could be bound to are withdrawn."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mpslice.slices import SliceSize
from planner.decide import decide
from planner.gate.leaving import LINGER, still_leaving
from planner.view import View
from tests.planner.test_decide import LABEL, a_layout, a_node, a_pod, decided, ungated, written

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEAT = ("n1", SliceSize(10))


def test_pod_without_a_place_keeps_its_gate_while_slices_that_it_could_take_are_withdrawn() -> None:
    """Four slices of 20gb make room for one of 80gb, which is older than the pod of 20gb."""
    big = replace(a_pod("big", 80), created="2026-01-01T00:00:00Z")
    small = replace(a_pod("small", 20), created="2026-01-02T00:00:00Z")
    layout = a_layout(free={20: 4})
    decision = decided([a_node(shows={20: 4})], [layout], [big, small])
    assert written(decision) == [{80: 1}]
    assert [refusal.pod.name for refusal in decision.refused] == ["small"]
    assert ungated(decision) == []
    withdrawn = a_layout(free={80: 1})
    then = decided([a_node(shows={80: 1})], [withdrawn], [big, small])
    assert ungated(then) == ["big", "small"]


def test_pod_without_a_place_keeps_its_gate_while_the_node_shows_a_slice_that_is_gone() -> None:
    """The agent writes the NodeLayout's status and the node's at once; either may be seen first."""
    holder, other = a_pod("holder", 80, node="n1"), a_pod("other", 10)
    layout = a_layout(used=[(80, "default/holder")])
    assert ungated(decided([a_node(shows={80: 1, 10: 1})], [layout], [holder, other])) == []
    assert ungated(decided([a_node(shows={80: 1, 10: 0})], [layout], [holder, other])) == ["other"]


def test_gate_of_a_pod_without_a_place_stays_until_the_scheduler_knows_of_the_withdrawal() -> None:
    """The agent may take any time: what counts is when the slice is seen to be gone."""
    holder, other = a_pod("holder", 80, node="n1"), a_pod("other", 10)
    layout = a_layout(used=[(80, "default/holder")])
    nodes, begun = (a_node(shows={80: 1}),), datetime(2026, 1, 1, tzinfo=UTC)
    shown = (a_node(shows={80: 1, 10: 1}),)
    before = View(shown, {"n1": layout}, (holder, other), LABEL, now=begun)
    first = decide(before)
    assert first.due is None
    gone = replace(before, nodes=nodes, now=begun + 10 * LINGER, leaving=first.leaving)
    at_once = decide(gone)
    assert ungated(at_once) == []
    assert at_once.due == begun + 11 * LINGER
    soon = decide(replace(gone, now=begun + 10.5 * LINGER, leaving=at_once.leaving))
    assert ungated(soon) == []
    assert soon.due == begun + 11 * LINGER
    later = decide(replace(gone, now=begun + 11 * LINGER, leaving=soon.leaving))
    assert ungated(later) == ["other"]
    assert not later.leaving


def test_guard_that_has_waited_as_long_takes_nothing_from_the_pod_it_guards_for() -> None:
    """The node's status is seen before the layout's: the slice of 20gb seems to stand still."""
    now = datetime(2026, 1, 1, 1, tzinfo=UTC)
    big = replace(a_pod("big", 80), gates=(), created="2026-01-01T00:00:00Z")
    guard = replace(a_pod("guard", 20), created="2026-01-01T00:30:00Z", nominated="n1")
    layout = a_layout(used=[(20, "default/small")])
    small = a_pod("small", 20, node="n1")
    pods = small, big, replace(guard, nominated="")
    first = decide(View((a_node(shows={20: 1}),), {"n1": layout}, pods, LABEL, now=now))
    assert [r.pod.name for r in first.plan.reservations] == ["big"]
    freed = View(
        (a_node(shows={20: 1}),),
        {"n1": a_layout(free={20: 1})},
        (big, guard),
        LABEL,
        now=now,
        progress=first.progress,
        planned=first.planned,
    )
    second = decide(freed)
    assert written(second) == [{80: 1}]
    assert [r.pod.name for r in second.plan.reservations] == ["guard"]
    third = decide(
        replace(
            freed,
            nodes=(a_node(shows={20: 0, 80: 1}),),
            progress=second.progress,
            planned=second.planned,
            leaving=second.leaving,
        )
    )
    assert [p.pod.name for p in third.plan.placements] == ["big"]
    assert ungated(third) == []


def test_time_runs_from_the_first_decision_that_sees_the_slice_gone() -> None:
    leaving = still_leaving({}, [SEAT], NOW)
    assert leaving == {SEAT: None}
    gone = still_leaving(leaving, (), NOW)
    assert gone == {SEAT: NOW + LINGER}
    assert still_leaving(gone, (), NOW + LINGER / 2) == gone
    assert still_leaving(gone, (), NOW + LINGER) == {}


def test_time_is_no_longer_because_a_clock_was_ahead() -> None:
    ahead = {SEAT: NOW + timedelta(minutes=10)}
    assert still_leaving(ahead, (), NOW) == {SEAT: NOW + LINGER}
