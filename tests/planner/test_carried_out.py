"""A plan that is being carried out is planned again as it is: one test for each reason not to."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from planner.model.constraints import HostPort
from planner.model.nodes import NodeState
from planner.model.plan import Plan
from planner.model.pods import GATE, Group, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from tests.planner.test_packing import gb, node, pod, where
from tests.planner.test_properties import bound, carved

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
PORT = (HostPort(80),)


def snapshot(*nodes: NodeState, **fields: object) -> Snapshot:
    return Snapshot(nodes, **fields)  # type: ignore[arg-type]


def gated(name: str, *sizes: int, **fields: object) -> Pod:
    return pod(name, *sizes, gates=(GATE,), **fields)


def is_left(before: Snapshot, pods: Sequence[Pod]) -> Plan:
    """The plan, which the next one leaves as it is."""
    made = plan(before, pods)
    again = plan(carved(before, made), pods)
    assert again.layouts == {}
    assert again.placements == made.placements
    return made


def once_bound(before: Snapshot, pods: Sequence[Pod], names: Iterable[str]) -> dict[str, str]:
    """Where the others are planned once the plan has been applied and these pods were bound."""
    made = is_left(before, pods)
    first = tuple(p for p in made.placements if p.pod.name in names)
    assert {p.pod.name for p in first} == set(names)
    waiting = [pod for pod in pods if pod.name not in names]
    again = plan(bound(before, replace(made, placements=first)), waiting)
    assert again.layouts == {}
    return where(again)


def test_pods_alike_do_not_change_places() -> None:
    """The tightest GPU is carved first, but the first node's slice is taken first."""
    made = is_left(snapshot(node("n1", 24), node("n2", 20)), [gated("a", 20), gated("b", 20)])
    assert where(made) == {"a": "n1", "b": "n2"}


def test_pod_leaves_the_slice_that_a_lower_one_of_several_slices_needs() -> None:
    pods = [gated("low", 5, 10), gated("high", 5, priority=2)]
    made = is_left(snapshot(node("n0", 16), node("n2", 10)), pods)
    assert where(made) == {"high": "n2", "low": "n0"}


def test_pod_leaves_the_node_where_a_lower_one_finds_its_port() -> None:
    pods = [
        gated("a", 5, ports=PORT),
        gated("b", 5, ports=PORT),
        gated("c", 10),
        gated("high", 5, priority=2),
    ]
    made = is_left(snapshot(node("n0", 16), node("n1", 14)), pods)
    assert len(made.placements) == 4


def test_reservation_does_not_push_out_what_was_placed_beside_it() -> None:
    pods = [
        gated("old", 40, created="2026-01-01T11:35:00Z"),
        gated("young", 20, created="2026-01-01T12:00:00Z"),
        gated("high", 20, priority=2, created="2026-01-01T12:00:00Z"),
    ]
    before = snapshot(node("n0", 24, 55, used={1: gb({32: 1})}), now=NOW)
    assert [each.pod.name for each in is_left(before, pods).reservations] == ["old"]


def test_lone_pod_and_member_of_a_group_do_not_change_places() -> None:
    pods = [
        gated("p00", 12, priority=2),
        gated("p01", 5, group="h"),
        gated("p02", 12, priority=2, group="h", min_member=2),
        gated("p03", 5),
    ]
    before = snapshot(
        node("n0", 16, 16, free={1: gb({5: 1})}), groups={"default/h": Group(bound=1)}
    )
    is_left(before, pods)


GROUP = [gated("g1", 20, group="g"), gated("g2", 20, group="g")]


def test_group_keeps_its_turn_once_its_oldest_pod_is_bound() -> None:
    pods = [*GROUP, gated("g1x", 20)]  # older than g2, younger than the group
    assert once_bound(snapshot(node("n0", 40)), pods, ["g1"]) == {"g2": "n0"}


def test_group_keeps_its_priority_once_its_highest_pod_is_bound() -> None:
    pods = [GROUP[0], replace(GROUP[1], priority=2), gated("lone", 20, priority=1)]
    assert once_bound(snapshot(node("n0", 40)), pods, ["g2"]) == {"g1": "n0"}


def test_group_keeps_its_minimum_once_the_pod_that_says_it_is_bound() -> None:
    pods = [
        *GROUP,
        gated("g3", 20, group="g", min_member=3, priority=1),
        gated("lone", 20, priority=1),
    ]
    assert once_bound(snapshot(node("n0", 60)), pods, ["g3"]) == {"g1": "n0", "g2": "n0"}


def test_group_of_which_a_part_runs_is_completed_before_larger_pods_are_placed() -> None:
    pods = [gated("g1", 20, group="g"), gated("g2", 5, group="g"), gated("lone", 20)]
    assert once_bound(snapshot(node("n1", 20), node("n3", 20)), pods, ["g1"]) == {"g2": "n3"}


@pytest.mark.parametrize("names", [[], ["a"], ["b"], ["c"], ["a", "c"], ["b", "c"]])
def test_others_stay_whichever_pod_is_bound_first(names: list[str]) -> None:
    pods = [gated(name, 20) for name in "abcdef"]
    nodes = (node("n1", 24), node("n2", 20), node("n3", 40))
    made = where(plan(snapshot(*nodes), pods))
    assert once_bound(snapshot(*nodes), pods, names) == {
        name: at for name, at in made.items() if name not in names
    }


def test_pods_beyond_the_minimum_do_not_go_before_their_peers_once_a_part_is_bound() -> None:
    group = {"group": "g", "min_member": 2, "created": "2026-01-01T11:59:00Z"}
    pods = [gated("older", 20, created="2026-01-01T11:58:00Z")]
    pods += [gated(name, 20, **group) for name in ("g1", "g2", "g3")]
    assert once_bound(snapshot(node("n0", 60)), pods, ["g1"]) == {"g2": "n0", "older": "n0"}


def test_group_is_carried_out_with_those_of_its_pods_that_fit() -> None:
    pods = [gated(f"g{size}", size, group="g", min_member=2) for size in (90, 20, 21, 22)]
    assert once_bound(snapshot(node("n0", 45)), pods, ["g20"]) == {"g21": "n0"}


def test_pod_beyond_the_minimum_is_not_placed_without_its_group() -> None:
    pods = [gated(f"g{size}", size, group="g", min_member=2) for size in (90, 50, 40)]
    assert where(is_left(snapshot(node("n0", 80)), pods)) == {}


def test_whole_group_stays_where_one_of_its_pods_is_nominated() -> None:
    group = {"group": "g", "created": "2026-01-01T11:59:00Z"}
    older = [gated(name, 20, created="2026-01-01T11:58:00Z") for name in ("a", "b")]
    first, second = gated("g1", 20, **group), gated("g2", 20, **group)
    before = snapshot(node("n0", 40, free={0: gb({20: 2})}))
    assert where(plan(before, [*older, first, second])).keys() == {"a", "b"}
    nominated = replace(second, nominated="n0")
    assert where(plan(before, [*older, first, nominated])).keys() == {"g1", "g2"}
