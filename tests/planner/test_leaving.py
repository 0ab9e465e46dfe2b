"""Gates of pods without a place, while slices that they could be bound to are withdrawn."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mpslice.gpus import GpuUuid
from mpslice.kube.outage import Outage, Outages, catching_up
from mpslice.nodelayout import GpuSpec, LayoutSpec, NodeLayout
from mpslice.slices import SliceSize
from planner.decide import decide
from planner.gate.leaving import Leaving
from planner.view import View
from tests.planner.test_decide import LABEL, a_layout, a_node, a_pod, decided, ungated, written

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU = GpuUuid("GPU-1")
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
    """Of the NodeLayout's status and the node's either may be seen first."""
    holder, other = a_pod("holder", 80, node="n1"), a_pod("other", 10)
    layout = a_layout(used=[(80, "default/holder")])
    assert ungated(decided([a_node(shows={80: 1, 10: 1})], [layout], [holder, other])) == []
    assert ungated(decided([a_node(shows={80: 1, 10: 0})], [layout], [holder, other])) == ["other"]


def test_gate_of_a_pod_without_a_place_stays_until_the_scheduler_knows_of_the_withdrawal() -> None:
    holder, other = a_pod("holder", 80, node="n1"), a_pod("other", 10)
    layout = a_layout(used=[(80, "default/holder")])
    gone = View((a_node(shows={80: 1}),), {"n1": layout}, (holder, other), LABEL, now=NOW)
    assert ungated(decide(replace(gone, leaving=frozenset([SEAT])))) == []
    assert ungated(decide(gone)) == ["other"]


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
            leaving=frozenset([("n1", SliceSize(20))]),
        )
    )
    assert [p.pod.name for p in third.plan.placements] == ["big"]
    assert ungated(third) == []


def goes(leaving: Leaving, now: float, outages: Outages = ()) -> None:
    """The node shows one slice of 10gb fewer."""
    leaving.changed(a_node(shows={10: 2, 20: 1}), a_node(shows={10: 1, 20: 1}), now, outages)


def test_slice_that_a_node_shows_no_more_is_leaving_for_two_seconds() -> None:
    leaving = Leaving()
    assert leaving.due(100.0, ()) is None
    goes(leaving, 100.0)
    assert leaving.seen_still(101.9, ()) == {SEAT}
    assert leaving.due(101.9, ()) == 102.0
    assert leaving.seen_still(102.0, ()) == frozenset()
    assert leaving.due(102.0, ()) is None


def test_replica_that_only_follows_keeps_nothing_of_what_is_long_gone() -> None:
    leaving = Leaving()
    for number in range(10):
        node = a_node(f"n{number}", shows={10: 1})
        leaving.changed(node, None, 100.0 + 10 * number, ())
    assert len(leaving._gone) == 1


def test_slices_that_come_or_stay_are_not_leaving_and_those_of_a_node_that_goes_are() -> None:
    leaving = Leaving()
    leaving.changed(None, a_node(shows={10: 1}), 100.0, ())
    leaving.changed(a_node(shows={10: 1}), a_node(shows={10: 2}), 100.0, ())
    assert leaving.seen_still(100.0, ()) == frozenset()
    leaving.changed(a_node(shows={10: 2}), None, 100.0, ())
    assert leaving.seen_still(100.0, ()) == {SEAT}


def test_pod_whose_slice_stands_waits_for_a_scheduler_that_may_see_another_that_is_gone() -> None:
    """Of one that is not behind an outage the nomination is enough."""
    pod, nodes = a_pod("p", 10), (a_node("n1"), a_node("n2", shows={10: 1}))
    layouts = {"n1": a_layout("n1"), "n2": a_layout("n2", free={10: 1})}
    view = View(nodes, layouts, (replace(pod, nominated="n2"),), LABEL, now=NOW)
    gone = frozenset([SEAT])
    assert ungated(decide(replace(view, leaving=gone))) == ["p"]
    assert ungated(decide(replace(view, leaving=gone, catching_up=True))) == []
    assert ungated(decide(replace(view, catching_up=True))) == ["p"]


def test_no_gate_goes_while_nodes_cannot_be_followed() -> None:
    """The slice that stood when the node was seen last may have gone with its agent."""
    view = View(
        (a_node(shows={10: 1}),),
        {"n1": a_layout(free={10: 1})},
        (a_pod("p", 10), a_pod("huge", 90)),
        LABEL,
        now=NOW,
    )
    assert ungated(decide(replace(view, blind=True))) == []
    assert ungated(decide(view)) == ["p", "huge"]


def test_pod_without_a_place_keeps_its_gate_while_the_scheduler_catches_up() -> None:
    """A node that is away for the planner may be there, with its slices, for the scheduler."""
    view = View((a_node(shows={10: 1}, ready=False),), {}, (a_pod("p", 10),), LABEL, now=NOW)
    assert ungated(decide(replace(view, catching_up=True))) == []
    assert ungated(decide(view)) == ["p"]


def test_scheduler_catches_up_for_as_long_as_a_slice_is_kept_for_and_its_end_is_due() -> None:
    leaving, lasting, over = Leaving(), (Outage(100.0),), (Outage(100.0, 110.0),)
    assert not catching_up(90.0, ())
    assert leaving.due(90.0, ()) is None
    assert catching_up(105.0, lasting)
    assert leaving.due(105.0, lasting) == 107.0
    assert catching_up(133.5, over)
    assert leaving.due(133.5, over) == pytest.approx(133.6)
    assert not catching_up(133.7, over)
    assert leaving.due(133.7, over) is None


@pytest.mark.parametrize("at", [99.0, 110.0, 125.0], ids=["before", "in it", "after"])
def test_what_goes_around_an_outage_is_leaving_until_the_scheduler_has_caught_up(at: float) -> None:
    leaving, lasting, over = Leaving(), (Outage(100.0),), (Outage(100.0, 110.0),)
    goes(leaving, at, () if at < 100 else over)
    if at < 100:
        assert leaving.seen_still(108.0, lasting) == {SEAT}
        assert leaving.due(108.0, lasting) == 110.0  # nothing else tells of its end
    assert leaving.seen_still(133.5, over) == {SEAT}
    assert leaving.due(133.5, over) == pytest.approx(133.6)
    assert leaving.seen_still(133.7, over) == frozenset()


def test_outage_that_goes_on_after_a_moment_makes_the_time_longer() -> None:
    leaving, both = Leaving(), (Outage(100.0, 120.1),)
    goes(leaving, 125.0, (Outage(100.0, 110.0),))
    assert leaving.seen_still(163.8, both) == {SEAT}
    assert leaving.seen_still(164.0, both) == frozenset()


def laid(generation: int, slices: dict[int, int]) -> NodeLayout:
    """The node's layout as it is asked for at a generation."""
    spec = LayoutSpec((GpuSpec(GPU, {SliceSize(gb): n for gb, n in slices.items()}),))
    return NodeLayout("n1", spec, generation=generation, uid="l1")


def test_slice_that_came_and_went_while_the_node_was_not_seen_is_leaving_until_then() -> None:
    """Its layout was the planner's own, or was seen; kube-scheduler may have seen the slice."""
    leaving, over = Leaving(), (Outage(100.0, 110.0),)
    with_5, with_10, with_40 = laid(1, {5: 1}), laid(2, {5: 1, 10: 1}), laid(3, {40: 1})
    before = replace(a_node(shows={5: 1}), applied=with_5.version_tag)
    leaving.replaced(with_5, with_10, before, 105.0, (Outage(100.0),))
    leaving.replaced(with_10, with_40, before, 108.0, (Outage(100.0),))
    after = replace(a_node(shows={5: 0, 10: 0, 40: 1}), applied=with_40.version_tag)
    leaving.changed(before, after, 111.0, over, with_40.version_tag)
    gone = {("n1", SliceSize(5)), ("n1", SliceSize(10))}
    assert leaving.seen_still(133.5, over) == gone
    assert leaving.seen_still(133.7, over) == frozenset()
    leaving.changed(after, after, 140.0, over, with_40.version_tag)
    assert leaving.seen_still(140.0, over) == frozenset()


def test_slice_that_the_newest_layout_asks_for_still_is_not_leaving_before_it_stands() -> None:
    leaving = Leaving()
    first, second = laid(1, {10: 1}), laid(2, {10: 1, 20: 1})
    bare = a_node(shows={5: 2})
    leaving.replaced(first, second, bare, 100.0, (Outage(99.0),))
    leaving.changed(bare, a_node(shows={5: 1}), 100.0, (Outage(99.0),), second.version_tag)
    assert leaving.seen_still(100.0, (Outage(99.0),)) == {("n1", SliceSize(5))}


def test_layout_that_the_node_showed_before_the_planner_saw_it_leaves_nothing_behind() -> None:
    leaving = Leaving()
    first, second = laid(1, {10: 1}), laid(2, {20: 1})
    node = replace(a_node(shows={20: 1}), applied=second.version_tag)
    leaving.replaced(first, second, node, 100.0, (Outage(99.0),))
    leaving.changed(node, replace(node, applied="l1/3"), 100.0, (Outage(99.0),), "l1/3")
    assert leaving.seen_still(100.0, (Outage(99.0),)) == frozenset()


@pytest.mark.parametrize(("outages", "now"), [((), 100.0), ((Outage(10.0, 20.0),), 100.0)])
def test_layout_that_was_replaced_while_the_node_was_followed_counts_as_never_shown(
    outages: Outages, now: float
) -> None:
    """What it made would have been seen, and so would be what went."""
    leaving = Leaving()
    first, second, bare = laid(1, {10: 1}), laid(2, {20: 1}), a_node(shows={5: 1})
    leaving.replaced(first, second, bare, now, outages)
    leaving.changed(bare, a_node(shows={5: 1}), now, outages, second.version_tag)
    assert leaving.seen_still(now, outages) == frozenset()


def test_what_a_layout_asked_for_in_an_outage_is_forgotten_once_the_scheduler_has_caught_up() -> (
    None
):
    """The node may never say that a layout is applied: an agent that only withdraws does not."""
    leaving, over = Leaving(), (Outage(100.0, 110.0),)
    first, second, bare = laid(1, {10: 1}), laid(2, {}), a_node(shows={5: 1})
    leaving.replaced(first, second, bare, 105.0, (Outage(100.0),))
    leaving.changed(bare, bare, 200.0, over, second.version_tag)
    assert leaving.seen_still(200.0, over) == frozenset()
    leaving.changed(bare, bare, 105.0, over, second.version_tag)
    assert leaving.seen_still(105.0, over) == frozenset()
